//! The content store: chunks in packs, and the documents that describe versions.
//!
//! A pack is one object (a file here) of up to about 64 MiB that holds many chunks and ends with a footer that
//! names them. An object that can be seen under its name is whole and durable; whatever a crash leaves behind
//! lies under a temporary name and is removed at the next start.
//!
//! Callers see keys, ranges and streams, never paths, so that other kinds of storage fit behind the same calls.

mod document;
mod error;
mod local;
mod pack;
mod reader;
mod store;
mod writer;

pub use error::BlobError;
pub use pack::{PackChunk, PackEntry, PackFooter, PackOwner, SealedPack};
pub use reader::ChunkAt;
pub use store::{BlobStore, Capacity, LocalConfig};
pub use writer::{MAX_CHUNKS, PackWriter, TARGET_SIZE};
