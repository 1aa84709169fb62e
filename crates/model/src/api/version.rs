//! Versions.

use crate::text::text_enum;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ChannelName, ManifestDigest, ProjectName, TreeDigest, VersionName};

text_enum! {
    /// Where a version is in its life.
    VersionState {
        /// There for everybody who may read it.
        Published = "published",
        /// Seen, but neither read nor promoted, until somebody releases it.
        Quarantined = "quarantined",
        /// Out of use, but whole: can be restored until somebody deletes it.
        Archived = "archived",
        /// Tombstoned; can be restored until its bytes are collected.
        Deleted = "deleted",
        /// Its bytes have been collected. Its name stays taken.
        Purged = "purged",
    }
}

/// How a version was built, as the agent found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The commit that it was built from; at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// When it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_time: Option<DateTime<Utc>>,
    /// Where or by whom it was built; at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Its name.
    pub version: VersionName,
    /// Where it is in its life.
    pub state: VersionState,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// What makes the manifest the same.
    pub manifest_digest: ManifestDigest,
    /// Entries of all kinds.
    pub entry_count: u64,
    /// Regular files.
    pub file_count: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// How it was built.
    #[serde(flatten)]
    pub build: BuildInfo,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// Who pushed it.
    pub created_by: String,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
    /// The channels that point to it.
    pub channels: Vec<ChannelName>,
    /// What somebody wants to say about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Key → value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Retention leaves it alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Nothing and nobody deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legal_hold: bool,
}

/// Changes what is said about a version; its content never changes. What is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionChange {
    /// At most 4,096 bytes.
    #[serde(default)]
    pub notes: Option<String>,
    /// Labels to set, and with `null` to remove. A version has at most 50; a key has 1 to 63 letters, digits, `-`, `_`,
    /// `.` and `/`, a value at most 255 bytes.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether retention leaves it alone.
    #[serde(default)]
    pub pinned: Option<bool>,
    /// Whether nothing and nobody deletes it. Needs admin.
    #[serde(default)]
    pub legal_hold: Option<bool>,
}

/// The differences between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionDiff {
    /// The older side.
    pub from: VersionName,
    /// The newer side.
    pub to: VersionName,
    /// Paths only in `to`.
    pub added: u64,
    /// Paths only in `from`.
    pub removed: u64,
    /// Paths in both with other content, mode, target or kind.
    pub changed: u64,
    /// The first differences in path order.
    pub items: Vec<PathDiff>,
    /// Whether there are more differences than `items`.
    pub truncated: bool,
}

/// A difference at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathDiff {
    /// Where.
    pub path: String,
    /// What happened there.
    pub change: PathChange,
    /// Bytes before; absent where there was no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_size: Option<u64>,
    /// Bytes after; absent where there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_size: Option<u64>,
}

text_enum! {
    /// What happened at a path.
    PathChange {
        /// Only in the newer version.
        Added = "added",
        /// Only in the older version.
        Removed = "removed",
        /// In both, with other content, mode, target or kind.
        Changed = "changed",
    }
}

/// Tells the server that a host has applied a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullReport {
    /// Who pulled.
    pub agent: AgentInfo,
    /// Where it was applied; at most 4,095 characters.
    pub target: String,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<VersionName>,
    /// Bytes of content that came over the network.
    pub bytes_received: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Whether the host went back to a version that it had before.
    #[serde(default)]
    pub rollback: bool,
}

/// An agent and the host that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentInfo {
    /// Chosen once per installation; at most 64 characters.
    pub id: String,
    /// The host's name; at most 255 characters.
    pub host: String,
}

/// Deletes the oldest versions of one app beyond a number.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// How many of the newest to keep, at least 1.
    pub keep: u32,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a prune deleted, or would delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The versions, oldest first.
    pub deleted: Vec<VersionName>,
    /// Old ones that stay, because a channel points (or just pointed) to them or they are held.
    pub protected: Vec<VersionName>,
    /// Whether nothing was really deleted.
    pub dry_run: bool,
}
