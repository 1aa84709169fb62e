//! The nouns of kkArtifact and their rules: names, paths, digests, manifests, permissions, the wire
//! format and the API's types.
//!
//! Nothing here does I/O. What both the agent and the services must agree on lives here once.

pub mod api;
pub mod chunking;
pub mod code;
pub mod digest;
pub mod event;
pub mod failpoint;
pub mod job;
pub mod manifest;
pub mod meta;
pub mod name;
pub mod path;
pub mod permission;
pub mod size;
pub mod text;
pub mod time;
pub mod token;
pub mod wire;

pub use code::Code;
pub use digest::{ChunkId, FileDigest, ManifestDigest, TreeDigest};
pub use name::{AppName, ChannelName, ProjectName, VersionName, VersionRef};
pub use path::TreePath;
pub use permission::{Permission, Permissions};
