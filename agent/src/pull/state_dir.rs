//! Where the state of a target lies, and who may have written it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kkartifact_model::path::STATE_SUFFIX;
use rustix::fs::CWD;

use crate::error::{AgentError, Kind, Result};

/// The path that a target has one state under.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(AgentError::io(format!("resolving {}", path.display())))?;
    // Where the directory exists, links above it are resolved, so that it has one state whatever it is called.
    Ok(path.canonicalize().unwrap_or(path))
}

/// Where the state of a target is, or would be.
pub(super) fn state_dir(path: &Path) -> Result<PathBuf> {
    let inside = path.join(STATE_SUFFIX);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(AgentError::usage(format!("{} can't be a target", path.display())));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(STATE_SUFFIX);
    let beside = parent.join(hidden);
    let beside_is_closed = || {
        path.is_dir() && !beside.is_dir() && rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_err()
    };
    if inside.is_dir() || is_mount_point(path, parent) || beside_is_closed() {
        return Ok(inside);
    }
    Ok(beside)
}

/// Whether a directory is mounted, also from the same file system: then nothing can be renamed into it.
fn is_mount_point(path: &Path, parent: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
        if let Ok(found) = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
            && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        {
            return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
    }
    matches!((fs::metadata(path), fs::metadata(parent)), (Ok(own), Ok(above)) if own.dev() != above.dev())
}

/// A directory that only its owner may enter.
pub(super) fn private_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(AgentError::io(format!("creating {}", path.display()))),
    }
}

/// Refuses a state that somebody else could have written: what it says is done to the target.
pub(super) fn check_private(dir: &Path) -> Result<()> {
    let found = fs::symlink_metadata(dir).map_err(AgentError::io(format!("looking at {}", dir.display())))?;
    let own = rustix::process::geteuid().as_raw();
    // The last six bits are what others may.
    if found.is_dir() && found.uid() == own && found.mode().trailing_zeros() >= 6 {
        return Ok(());
    }
    let message = format!(
        "{} must be a directory that belongs to the user who runs the agent ({own}) and is closed to others",
        dir.display()
    );
    Err(AgentError::new(Kind::Guard, message)
        .hint(format!("run as user {}, or look who made it and remove it", found.uid())))
}

/// Makes every directory of a tree writable for its owner.
pub(super) fn open_up(dir: &Path) -> std::io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
