//! Batch queries: the versions of many apps in one call.

use serde::{Deserialize, Serialize};

use super::version::Version;
use crate::ChannelName;

/// How many apps are answered at once; more become a job.
pub const AT_ONCE: usize = 500;
/// The most apps of one query.
pub const MOST: usize = 10_000;

/// Asks for versions of many apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchQuery {
    /// Which apps: 1 to [`MOST`]. A name that breaks the rules for names is an entry of the answer, not a refusal.
    pub apps: Vec<AppRef>,
    /// How many of each app's versions, newest first: 1 to 100, 1 if absent.
    #[serde(default = "one")]
    pub limit: u32,
    /// Only the version that this channel points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
    /// Only versions with this label: `key` or `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only versions built from this commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
}

const fn one() -> u32 {
    1
}

impl BatchQuery {
    /// Which versions it asks for, without of which apps.
    pub fn filter(&self) -> BatchFilter {
        BatchFilter {
            limit: self.limit,
            channel: self.channel.clone(),
            label: self.label.clone(),
            git_commit: self.git_commit.clone(),
        }
    }
}

/// Which versions of each app a batch query asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFilter {
    /// How many of each app's versions, newest first.
    pub limit: u32,
    /// Only the version that this channel points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
    /// Only versions with this label: `key` or `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only versions built from this commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
}

/// An app by its names, as somebody wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRef {
    /// The project.
    pub project: String,
    /// The app.
    pub app: String,
}

/// What a batch query found for one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry {
    /// The project, as it was asked for.
    pub project: String,
    /// The app, as it was asked for.
    pub app: String,
    /// Its versions, newest first.
    pub versions: Vec<Version>,
    /// `not_found` where there is no such app or the caller may not see it, `internal` where what is stored of it can't
    /// be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer to a batch query of at most [`AT_ONCE`] apps, in the order of the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// One for each app.
    pub items: Vec<BatchEntry>,
}

/// The answer to a larger one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchQueued {
    /// The job that answers it.
    pub job_id: i64,
    /// Where the result will be, as JSON lines.
    pub result: String,
}
