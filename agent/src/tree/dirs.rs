//! Open directories along a path. Each component is opened relative to the one before, links are not followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::error::{AgentError, Result};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory that a person named; here links are followed, since the person chose the path.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(AgentError::os(format!("opening {}", path.display())))
}

/// Opens a directory of a directory; a link is not one.
pub fn open_dir(at: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, DIRECTORY, Mode::empty())
}

/// A root directory and the directories open along the path last used. Paths that come in tree order open each
/// directory once.
#[derive(Debug)]
pub struct DirStack {
    root: OwnedFd,
    open: Vec<(String, OwnedFd)>,
    create: bool,
}

impl DirStack {
    /// Directories below `root` that exist.
    pub fn existing(root: OwnedFd) -> Self {
        Self { root, open: Vec::new(), create: false }
    }

    /// Directories below `root` that are made where they are missing.
    pub fn creating(root: OwnedFd) -> Self {
        Self { root, open: Vec::new(), create: true }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory that holds `path`, and the last component.
    pub fn parent_of<'p>(&mut self, path: &'p str) -> Result<(BorrowedFd<'_>, &'p str), Errno> {
        match path.rsplit_once('/') {
            Some((parent, name)) => Ok((self.dir(parent)?, name)),
            None => Ok((self.root.as_fd(), path)),
        }
    }

    /// The directory at `path`; the root for the empty path.
    pub fn dir(&mut self, path: &str) -> Result<BorrowedFd<'_>, Errno> {
        let components: Vec<_> = path.split('/').filter(|component| !component.is_empty()).collect();
        let same =
            self.open.iter().zip(&components).take_while(|((name, _), wanted)| name == *wanted).count();
        self.open.truncate(same);
        for name in &components[same..] {
            let at = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let fd = match open_dir(at, *name) {
                Err(Errno::NOENT) if self.create => {
                    match mkdirat(at, *name, Mode::from_raw_mode(0o700)) {
                        // Another thread was faster.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    open_dir(at, *name)?
                }
                other => other?,
            };
            self.open.push(((*name).to_owned(), fd));
        }
        Ok(self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// Forgets open directories: after something above them was moved.
    pub fn forget(&mut self) {
        self.open.clear();
    }
}
