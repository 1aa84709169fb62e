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
//!   trash/              trees to be removed
//!   report.json         reports that the server has not got yet
//! ```

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use kkartifact_model::{AppName, ManifestDigest, ProjectName, TreeDigest, VersionName};
use rustix::fs::{CWD, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state_dir::{absolute, check_private, open_up, private_dir, state_dir};
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::tree::open_dir;

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
    /// The ignore rules that it was put there with: whatever comes later, and wherever it is called from, must
    /// not take what they protect for stale.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
}

impl State {
    /// A state for tests.
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let text = r#"{"server_url":"http://x","project":"p","app":"a","applied_at":"2026-01-01T00:00:00Z",
            "current":{"version":"v1","tree_digest":"TREE","manifest_digest":"MANIFEST"}}"#;
        let digest = "0".repeat(64);
        serde_json::from_str(&text.replace("TREE", &digest).replace("MANIFEST", &digest)).unwrap()
    }

    /// The rules of then and of now together: for whoever looks, or goes back.
    pub fn all_ignored(&self, now: &[String]) -> Vec<String> {
        let more = now.iter().filter(|rule| !self.ignore.contains(rule));
        self.ignore.iter().chain(more).cloned().collect()
    }

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
    /// Takes hold of a target, which need not exist yet.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let path = absolute(path)?;
        let dir = state_dir(&path)?;
        let above = dir.parent().unwrap_or(&path);
        fs::create_dir_all(above).map_err(AgentError::io(format!("creating {}", above.display())))?;
        private_dir(&dir)?;
        Self::hold(path, dir)
    }

    /// Takes hold of a target that the agent knows, to look at it: nothing is made.
    pub fn existing(path: &Path) -> Result<Option<Arc<Self>>> {
        let path = absolute(path)?;
        let dir = state_dir(&path)?;
        if dir.is_dir() { Self::hold(path, dir).map(Some) } else { Ok(None) }
    }

    fn hold(path: PathBuf, dir: PathBuf) -> Result<Arc<Self>> {
        check_private(&dir)?;
        // Made early: on a full disk nothing can be made, but things can still be put aside.
        private_dir(&dir.join("manifests"))?;
        private_dir(&dir.join("trash"))?;
        let lock = fs::File::create(dir.join("lock")).map_err(AgentError::io("creating a lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Arc::new(Self { path, dir, _lock: lock })),
            Err(Errno::WOULDBLOCK) => {
                let message = format!("another agent works on {}", path.display());
                Err(AgentError::new(Kind::Busy, message).hint("wait until it is done"))
            }
            Err(error) => Err(AgentError::os(format!("locking {}", dir.display()))(error)),
        }
    }

    /// Whether a change was interrupted: until it is finished, the directory is a mix of two versions.
    pub fn is_interrupted(&self) -> bool {
        self.file("journal").is_file()
    }

    /// A file or directory of the state.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The target directory, if it exists. Links to it were resolved before: one that takes its place is refused.
    pub fn root(&self) -> Result<Option<OwnedFd>> {
        match open_dir(CWD, &self.path) {
            Ok(root) => Ok(Some(root)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(AgentError::new(Kind::Invalid, format!("{} is not a directory", self.path.display())))
            }
            Err(error) => Err(AgentError::os(format!("opening {}", self.path.display()))(error)),
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

    /// A manifest that is kept, if it is there and whole.
    pub fn manifest(&self, digest: &ManifestDigest) -> Option<ManifestFile> {
        ManifestFile::open(&self.manifest_path(digest)).ok().filter(ManifestFile::is_intact)
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

    /// Removes a file of the state, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(AgentError::io(format!("removing {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Puts a directory of the state aside, if it is there, to be removed when there is time: removing a tree can
    /// take long and fail, a rename can't.
    pub fn discard(&self, name: &str) -> Result<()> {
        let to = self.file("trash").join(Uuid::new_v4().simple().to_string());
        match fs::rename(self.file(name), to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(AgentError::io(format!("putting {name} aside"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was put aside.
    pub fn empty_trash(&self) -> Result<()> {
        let trash = fs::read_dir(self.file("trash")).map_err(AgentError::io("listing the trash"))?;
        for entry in trash {
            let name = entry.map_err(AgentError::io("listing the trash"))?.file_name();
            self.remove_tree(Path::new("trash").join(name))?;
        }
        Ok(())
    }

    /// Removes a directory of the state, if it is there.
    pub fn remove_tree(&self, name: impl AsRef<Path>) -> Result<()> {
        let path = self.dir.join(name);
        let mut removed = fs::remove_dir_all(&path);
        if matches!(&removed, Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied) {
            // Directories that their owner may not write are not emptied.
            removed = open_up(&path).and_then(|()| fs::remove_dir_all(&path));
        }
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
        for name in ["operations", "stats.kept", "stats.taken", "manifest.new"] {
            self.remove(name)?;
        }
        for name in ["leftover", "staging"] {
            self.discard(name)?;
        }
        self.empty_trash()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_state_that_others_could_have_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("app");
        drop(Target::open(&target).unwrap());
        let state = dir.path().join(".app.kkartifact");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Target::open(&target).unwrap_err().kind, Kind::Guard);
        fs::remove_dir_all(&state).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &state).unwrap();
        assert_eq!(Target::open(&target).unwrap_err().kind, Kind::Guard);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn looking_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Target::existing(&dir.path().join("not/there")).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn trash_is_emptied_also_of_what_its_owner_may_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open(&dir.path().join("app")).unwrap();
        fs::create_dir_all(target.file("previous/tree/lib/ro")).unwrap();
        fs::write(target.file("previous/tree/lib/ro/f"), "x").unwrap();
        fs::set_permissions(target.file("previous/tree/lib/ro"), fs::Permissions::from_mode(0o555)).unwrap();
        target.discard("previous").unwrap();
        target.discard("previous").unwrap();
        assert!(!target.file("previous").exists());
        target.empty_trash().unwrap();
        assert_eq!(fs::read_dir(target.file("trash")).unwrap().count(), 0);
    }

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
