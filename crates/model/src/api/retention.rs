//! Retention: how many versions of each app stay.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ProjectName, VersionName};

/// The key of the setting.
pub const SETTING: &str = "retention";

/// The rule for every app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How many of the newest versions of each app stay; all if absent.
    #[serde(default)]
    pub keep: Option<u32>,
    /// Versions younger than so many days stay in any case.
    #[serde(default)]
    pub keep_days: u32,
}

/// A version that a run would delete now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expendable {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Its name.
    pub version: VersionName,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}

/// A page of what a run would delete now, by app and age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPreview {
    /// The rule that was applied.
    pub retention: Retention,
    /// The versions.
    pub items: Vec<Expendable>,
    /// Whether more follow.
    pub has_more: bool,
    /// Where the next page starts: pass it as `cursor`.
    pub next_cursor: Option<String>,
}
