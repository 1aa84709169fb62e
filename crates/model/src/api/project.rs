//! Projects and apps.

use crate::text::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ProjectName};

text_enum! {
    /// Where a project or app is in its life.
    Lifecycle {
        /// In use.
        Active = "active",
        /// Readable, takes no new versions.
        Archived = "archived",
        /// Tombstoned: gone for callers, its name stays taken.
        Deleted = "deleted",
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// What it is for.
    pub description: String,
    /// Active or archived.
    pub state: Lifecycle,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Whose.
    pub project: ProjectName,
    /// Its name.
    pub name: AppName,
    /// What it is for.
    pub description: String,
    /// Active or archived.
    pub state: Lifecycle,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// Creates a project.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// Its name.
    pub name: ProjectName,
    /// What it is for; at most 1,000 characters.
    #[serde(default)]
    pub description: String,
}

/// Creates an app.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// Its name.
    pub name: AppName,
    /// What it is for; at most 1,000 characters.
    #[serde(default)]
    pub description: String,
}

/// Changes a project or app. What is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifecycleChange {
    /// What it is for; at most 1,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Archive it, or take it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
}
