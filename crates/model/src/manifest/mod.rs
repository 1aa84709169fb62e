//! Manifests: what a version consists of.
//!
//! A manifest is a list of entries in [path order](crate::path::compare), every directory listed before what it
//! holds. It is never held whole in memory: it is built, sent, stored and compared block by block.
//!
//! | module | what |
//! |---|---|
//! | [`entry`] | one path: file, directory or symbolic link |
//! | [`check`] | the rules of a tree, checked while it streams by |
//! | [`record`] | the binary form of entries and of changes |
//! | [`build`] | entries → blocks, digests and the root |
//! | [`root`] | the list of blocks: the manifest's table of contents |
//! | [`diff`] | two manifests → changes; a base and changes → a manifest |
//! | [`refs`] | sets of chunk references: which are missing, which are wanted |
//! | [`render`] | `meta.yaml` and JSON |

pub mod build;
pub mod check;
pub mod diff;
pub mod entry;
pub mod record;
pub mod refs;
pub mod render;
pub mod root;
mod run;
mod varint;

pub use build::{Block, ManifestBuilder, TreeHasher};
pub use check::{MAX_FILE_CHUNKS, TreeError, TreeLimits};
pub use diff::{Applied, Change, diff};
pub use entry::{ChunkRef, Entry, FileNode, Mode, Mtime, Node};
pub use record::{Record, RecordReader, RecordWriter};
pub use refs::RefSet;
pub use root::{BlockRef, ManifestRoot};
pub use run::RecordRun;

/// Bytes that are not what they should be: cut short, out of range or inconsistent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed manifest: {0}")]
pub struct Malformed(pub &'static str);
