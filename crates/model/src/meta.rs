//! The document that describes a version in storage, and the markers beside it.
//!
//! The document is written under its digest before the commit that publishes the version, a marker after it and
//! another at each change of its state. From these and the packs a registry can be rebuilt without its database.

use crate::text::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, ChunkId, ManifestDigest, ProjectName, TreeDigest, VersionName};

/// The version of the document's form.
pub const FORMAT: u32 = 1;

/// `meta.yaml` as it is stored: without the list of files, which the manifest has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMeta {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Its name.
    pub version: VersionName,
    /// The commit that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// When it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_time: Option<DateTime<Utc>>,
    /// Where or by whom it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// What makes the manifest the same.
    pub manifest_digest: ManifestDigest,
    /// The chunk that holds the manifest's root.
    pub manifest_root: ChunkId,
    /// Entries of all kinds.
    pub entry_count: u64,
    /// Regular files.
    pub file_count: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Whether a version is there, as a marker in storage says it. Of two markers the one with the larger revision
/// counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMarker {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Its name.
    pub version: VersionName,
    /// `published`, `archived` or `deleted`.
    pub state: MarkerState,
    /// Counts the changes of the version's state.
    pub revision: i64,
    /// BLAKE3 of the document.
    pub meta: ChunkId,
}

text_enum! {
    /// What a marker says.
    MarkerState {
        /// The version is there.
        Published = "published",
        /// The version is out of use, and its bytes are to be kept.
        Archived = "archived",
        /// The version was deleted; its name stays taken.
        Deleted = "deleted",
    }
}
