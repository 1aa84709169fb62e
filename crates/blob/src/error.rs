//! What can go wrong with storage.

use std::io;

/// A storage failure, told apart as far as callers act on it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no room.
    #[error("storage is full")]
    Full,
    /// The object is not there.
    #[error("{0} is not in storage")]
    NotFound(String),
    /// The object is there, but not what it should be.
    #[error("{0} is damaged: {1}")]
    Damaged(String, &'static str),
    /// Storage does not answer as it should.
    #[error("storage failed while {doing}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl BlobError {
    /// Sorts a system error.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { doing, error },
        }
    }
}
