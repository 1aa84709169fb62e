//! How a file gets its name: written under a temporary one, synced, renamed, its directory synced.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use kkartifact_model::failpoint;

use super::temporary::Temporary;
use crate::error::BlobError;

/// The places where tests let the process die.
pub(super) struct Steps {
    pub(super) written: &'static str,
    pub(super) synced: Option<&'static str>,
    pub(super) renamed: Option<&'static str>,
}

/// Creates a directory unless it is there; whether it was created.
pub(super) fn create_dir(path: &Path) -> Result<bool, BlobError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(BlobError::io("creating a directory")(error)),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), BlobError> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(BlobError::io("syncing a directory"))
}

/// Gives a synced temporary file its name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), BlobError> {
    fs::rename(from, to).map_err(BlobError::io("renaming a file"))
}

/// Writes a small file whose name says its content, so that one that is there is left alone.
pub(super) fn write_document(
    temporary: &Temporary,
    path: &Path,
    text: &[u8],
    steps: &Steps,
) -> Result<(), BlobError> {
    let dir = path.parent().unwrap_or(path);
    if !path.exists() {
        let file_path = temporary.file();
        let mut file = fs::File::create_new(&file_path).map_err(BlobError::io("creating a document"))?;
        file.write_all(text).map_err(BlobError::io("writing a document"))?;
        failpoint::reach(steps.written);
        file.sync_all().map_err(BlobError::io("syncing a document"))?;
        if let Some(steps_synced) = steps.synced {
            failpoint::reach(steps_synced);
        }
        rename(&file_path, path)?;
        if let Some(steps_renamed) = steps.renamed {
            failpoint::reach(steps_renamed);
        }
    }
    // Also when it was there: whoever wrote it may have died before this.
    sync_dir(dir)
}

/// Writes a small file in the place of the one that may be there.
pub(super) fn replace_document(temporary: &Temporary, path: &Path, text: &[u8]) -> Result<(), BlobError> {
    let file_path = temporary.file();
    let mut file = fs::File::create_new(&file_path).map_err(BlobError::io("creating a document"))?;
    file.write_all(text).map_err(BlobError::io("writing a document"))?;
    file.sync_all().map_err(BlobError::io("syncing a document"))?;
    rename(&file_path, path)?;
    sync_dir(path.parent().unwrap_or(path))
}
