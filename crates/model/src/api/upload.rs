//! Uploads: from `init` to `finish`.

use crate::text::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::version::{AgentInfo, BuildInfo, Version};
use crate::{AppName, FileDigest, ManifestDigest, ProjectName, TreeDigest, TreePath, VersionName};

/// Opens an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadInit {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// What the version will be called.
    pub version: VersionName,
    /// What the content will be. Where the version exists with this content, nothing needs to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<TreeDigest>,
    /// The version that the manifest will be told by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The files that will be put one by one. Finishing without one of them, or
    /// with other content in one, is refused; more files may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<ExpectedFile>>,
    /// How it was built.
    #[serde(default)]
    pub build: BuildInfo,
    /// Who pushes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
}

/// A version that both sides know to the last bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its name.
    pub version: VersionName,
    /// The digest of the manifest that the client has of it.
    pub manifest_digest: ManifestDigest,
}

/// A file that will be put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedFile {
    /// Where.
    pub path: TreePath,
    /// SHA-256 of its content.
    pub sha256: FileDigest,
    /// Bytes.
    pub size: u64,
}

/// The answer to `init`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum UploadOpened {
    /// Send the manifest and what is missing, or the files one by one.
    Open {
        /// Names the upload in the calls that follow.
        upload_id: Uuid,
        /// When it is closed if nothing happens.
        expires_at: DateTime<Utc>,
        /// Whether the manifest may be told by the base.
        base: bool,
        /// The announced files that have not been put.
        missing: Vec<TreePath>,
    },
    /// The version exists with this content: nothing to do.
    Published {
        /// It.
        version: Box<Version>,
    },
}

/// What the server lacks of a manifest's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// How many chunk references the manifest has.
    pub refs: u64,
    /// How many of them are missing.
    pub count: u64,
    /// Which: Base64 of [`crate::manifest::RefSet::encode`].
    pub set: String,
}

/// The answer to chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChunksReceived {
    /// Chunks that arrived whole and match their ids.
    pub received: u64,
    /// Those of them that are synced to storage and recorded: they need not be sent again.
    pub durable: u64,
    /// Bytes of them before compression.
    pub bytes: u64,
}

/// The answer to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReceived {
    /// Where.
    pub path: TreePath,
    /// SHA-256 of its content.
    pub sha256: FileDigest,
    /// Bytes.
    pub size: u64,
}

/// Publishes an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadFinish {
    /// Which.
    pub upload_id: Uuid,
}

text_enum! {
    /// Where an upload is.
    UploadState {
        /// Takes content.
        Open = "open",
        /// Published.
        Finished = "finished",
        /// Given up by its owner.
        Aborted = "aborted",
        /// Closed because nothing happened.
        Expired = "expired",
    }
}

/// An upload as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Names it.
    pub upload_id: Uuid,
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// What the version will be called.
    pub version: VersionName,
    /// Where it is.
    pub state: UploadState,
    /// Who opened it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it is closed if nothing happens.
    pub expires_at: DateTime<Utc>,
}
