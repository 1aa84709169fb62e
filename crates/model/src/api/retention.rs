//! Retention: how many versions of each app stay.

use crate::text::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ProjectName, VersionName};

/// The key of the setting.
pub const SETTING: &str = "retention";

text_enum! {
    /// What becomes of versions that are not kept.
    RetentionAction {
        /// They are deleted: their bytes are collected some time later.
        Delete = "delete",
        /// They are archived: nobody reads them, and their bytes stay.
        Archive = "archive",
    }
}

// What rules have always done.
#[expect(clippy::derivable_impls, reason = "the macro derives for every enumeration alike")]
impl Default for RetentionAction {
    fn default() -> Self {
        Self::Delete
    }
}

/// The most days that a rule can tell: a hundred years.
pub const MOST_DAYS: u32 = 36_500;

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
    /// What becomes of the others.
    #[serde(default)]
    pub action: RetentionAction,
}

/// A version that a run would delete or archive now.
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

/// A page of what a run would delete or archive now, by app and age.
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
