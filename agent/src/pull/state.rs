//! What the agent keeps beside a target: which version is in place, its manifest, what the last change took out,
//! and the journal of a change in progress.
//!
//! It lies beside the target, on the same file system and closed to others: inside, a web server would serve it
//! and an exchange of directories would move it. Inside only where the target is a mount point or the directory
//! above can't be written.
//!
//! ```text
//! .<name>.kkartifact/
//!   lock                one agent at a time
//!   state.json          what is in place
//!   manifests/<digest>  of what is in place and what was before
//!   stats               what the files in place were when they were last read
//!   staging/tree        the next version's new files, at their places
//!   journal             a change in progress
//!   previous/tree       what the last change took out: the staging tree after the exchange
//!   leftover/tree       staging that was interrupted: a source of content
//!   report.json         a report that the server has not got yet
//! ```

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use kkartifact_model::path::STATE_SUFFIX;
use kkartifact_model::{AppName, ManifestDigest, ProjectName, TreeDigest, VersionName};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::tree::open_root;

/// What is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The server that it came from.
    pub server_url: String,
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// What is in place.
    pub current: Deployed,
    /// What was in place before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Deployed>,
    /// Since when.
    pub applied_at: DateTime<Utc>,
}

impl State {
    /// The text of `state.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))
    }
}

/// A version on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Its name; absent for adopted content that is no version of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionName>,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// Names its manifest.
    pub manifest_digest: ManifestDigest,
}

impl Deployed {
    /// The version's name as people see it.
    pub fn shown(&self) -> String {
        self.version.as_ref().map_or_else(|| "content of no version".to_owned(), ToString::to_string)
    }
}

/// A target directory and what is kept beside it, held by this process.
#[derive(Debug)]
pub struct Target {
    /// The directory that versions are applied to. May not exist yet.
    pub path: PathBuf,
    /// Where the state is.
    pub dir: PathBuf,
    _lock: fs::File,
}

impl Target {
    /// Takes hold of a target.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let path = absolute(path)?;
        let dir = state_dir(&path)?;
        fs::create_dir_all(dir.join("manifests"))
            .map_err(AgentError::io(format!("creating {}", dir.display())))?;
        let lock = fs::File::create(dir.join("lock")).map_err(AgentError::io("creating a lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            AgentError::new(Kind::Busy, format!("another agent works on {}", path.display()))
                .hint("wait until it is done")
        })?;
        Ok(Arc::new(Self { path, dir, _lock: lock }))
    }

    /// A file or directory of the state.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The target directory, if it exists.
    pub fn root(&self) -> Result<Option<OwnedFd>> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(format!("looking at {}", self.path.display()))(error)),
            Ok(found) if found.is_dir() => open_root(&self.path).map(Some),
            Ok(found) if found.is_symlink() && self.path.is_dir() => open_root(&self.path).map(Some),
            Ok(_) => {
                Err(AgentError::new(Kind::Invalid, format!("{} is not a directory", self.path.display())))
            }
        }
    }

    /// What is in place, as far as the agent knows.
    pub fn state(&self) -> Result<Option<State>> {
        let path = self.file("state.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                AgentError::new(Kind::Invalid, format!("{} is not readable: {error}", path.display()))
                    .hint("remove it and adopt the directory again")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(format!("reading {}", path.display()))(error)),
        }
    }

    /// Where a manifest is kept.
    pub fn manifest_path(&self, digest: &ManifestDigest) -> PathBuf {
        self.file("manifests").join(digest.to_string())
    }

    /// A manifest that is kept.
    pub fn manifest(&self, digest: &ManifestDigest) -> Option<ManifestFile> {
        ManifestFile::open(&self.manifest_path(digest)).ok()
    }

    /// Replaces a file of the state, durably.
    pub fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        let temporary = self.file(&format!("{name}.new"));
        let failed = || AgentError::io(format!("writing {}", self.file(name).display()));
        let mut file = fs::File::create(&temporary).map_err(failed())?;
        file.write_all(text).and_then(|()| file.sync_all()).map_err(failed())?;
        fs::rename(&temporary, self.file(name)).map_err(failed())?;
        self.sync()
    }

    /// Removes a file or directory of the state, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(AgentError::io(format!("removing {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes the names of the state durable.
    pub fn sync(&self) -> Result<()> {
        let synced = fs::File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(AgentError::io(format!("syncing {}", self.dir.display())))
    }

    /// Makes a directory of the state.
    pub fn create_dir(&self, name: &str) -> Result<()> {
        private_dir(&self.file(name))
    }

    /// Removes what a finished change leaves: what was downloaded before, and manifests that neither the version
    /// in place nor the one before needs.
    pub fn tidy(&self, state: &State) -> Result<()> {
        for name in ["leftover", "operations", "stats.kept", "stats.taken", "manifest.new"] {
            self.remove(name)?;
        }
        let needed: Vec<_> = std::iter::once(&state.current)
            .chain(&state.previous)
            .map(|deployed| deployed.manifest_digest.to_string())
            .collect();
        let manifests = fs::read_dir(self.file("manifests")).map_err(AgentError::io("listing manifests"))?;
        for entry in manifests {
            let entry = entry.map_err(AgentError::io("listing manifests"))?;
            if !needed.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path()).map_err(AgentError::io("removing a manifest"))?;
            }
        }
        Ok(())
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(AgentError::io(format!("resolving {}", path.display())))?;
    // Where the directory exists, links above it are resolved, so that it has one state whatever it is called.
    Ok(path.canonicalize().unwrap_or(path))
}

/// Where the state of a target is. Made if need be.
fn state_dir(path: &Path) -> Result<PathBuf> {
    let inside = path.join(STATE_SUFFIX);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(AgentError::usage(format!("{} can't be a target", path.display())));
    };
    let beside = parent.join(format!(".{}{STATE_SUFFIX}", name.to_string_lossy()));
    if inside.is_dir() || is_mount_point(path, parent) {
        return private_dir(&inside).map(|()| inside);
    }
    fs::create_dir_all(parent).map_err(AgentError::io(format!("creating {}", parent.display())))?;
    match private_dir(&beside) {
        Ok(()) => Ok(beside),
        Err(_) if path.is_dir() => private_dir(&inside).map(|()| inside),
        Err(error) => Err(error),
    }
}

fn is_mount_point(path: &Path, parent: &Path) -> bool {
    matches!((fs::metadata(path), fs::metadata(parent)), (Ok(own), Ok(above)) if own.dev() != above.dev())
}

/// A directory that only its owner may enter.
fn private_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(AgentError::io(format!("creating {}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_state_lies_beside_the_target_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(&dir.path().join("app")).unwrap();
        assert_eq!(target.dir.file_name().unwrap(), ".app.kkartifact");
        assert_eq!(fs::metadata(&target.dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!target.path.exists() && target.root().unwrap().is_none());
        assert_eq!(Target::open(&target.path).unwrap_err().kind, Kind::Busy);
    }
}
