//! Where unfinished files are: one locked directory per process, so that the next start can tell what nobody
//! writes any more.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use uuid::Uuid;

use super::publish::create_dir;
use crate::error::BlobError;

/// This process's directory. Removed when the last user is gone.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    /// Held for its lock.
    _lock: fs::File,
}

impl Temporary {
    /// Makes the directory, and removes those whose processes are gone.
    pub(super) fn open(parent: &Path) -> Result<Self, BlobError> {
        let path = parent.join(Uuid::new_v4().to_string());
        create_dir(&path)?;
        let file = fs::File::create(path.join("lock")).map_err(BlobError::io("creating a lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| BlobError::io("taking a lock")(error.into()))?;
        sweep(parent, &path)?;
        Ok(Self { path, _lock: file })
    }

    /// A new name for an unfinished file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(Uuid::new_v4().to_string())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(%error, "leaving temporary files to the next start");
        }
    }
}

fn sweep(parent: &Path, own: &Path) -> Result<(), BlobError> {
    for entry in fs::read_dir(parent).map_err(BlobError::io("looking for unfinished files"))? {
        let path = entry.map_err(BlobError::io("looking for unfinished files"))?.path();
        if path == own || !is_abandoned(&path) {
            continue;
        }
        tracing::info!(path = %path.display(), "removing what an earlier process left unfinished");
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "could not remove unfinished files");
        }
    }
    Ok(())
}

/// Whether no process holds the directory. One that has no lock file yet is about to get one.
fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path.join("lock")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}
