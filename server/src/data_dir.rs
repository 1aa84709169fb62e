//! The data directory belongs to one process at a time.

use std::fs;
use std::path::Path;

use kkartifact_service::{ApiError, ApiResult};
use rustix::fs::FlockOperation;

/// Holds the data directory until it is dropped.
pub(crate) struct DataDir {
    _lock: fs::File,
}

impl DataDir {
    pub(crate) fn take(path: &Path) -> ApiResult<Self> {
        let failed = |error: std::io::Error| ApiError::internal(format!("{}: {error}", path.display()));
        fs::create_dir_all(path).map_err(failed)?;
        let lock =
            fs::OpenOptions::new().create(true).append(true).open(path.join("lock")).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            ApiError::internal(format!("{} is in use by another kkartifact process", path.display()))
        })?;
        Ok(Self { _lock: lock })
    }
}
