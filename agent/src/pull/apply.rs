//! Applying: what is staged changes places with what is there, operation by operation, as the journal says.
//!
//! `renameat2(RENAME_EXCHANGE)` swaps two files in one step, so a path is never absent, and the staging tree
//! becomes the version before. Where a file system has no exchange, the old one steps aside first.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use kkartifact_model::failpoint;
use kkartifact_model::manifest::Mode;
use rustix::fs::{
    AtFlags, OFlags, RenameFlags, chmodat, fchmod, fstat, openat, renameat, renameat_with, statat,
};
use rustix::io::Errno;

use super::journal::{Action, Operation, OperationReader};
use super::stage::raw;
use crate::error::{AgentError, Result};
use crate::tree::DirStack;

/// Does what the journal says. Operations that are done already are passed over.
pub(super) fn apply(
    operations: OperationReader,
    count: u64,
    target: OwnedFd,
    staging: OwnedFd,
) -> Result<()> {
    let mut applier = Applier { target: DirStack::existing(target), staging: DirStack::creating(staging) };
    for (done, operation) in (1..).zip(operations) {
        let operation = operation?;
        let path = operation.path.as_str();
        applier.operate(&operation).map_err(AgentError::os(format!("changing {path:?}")))?;
        if done == 1 {
            failpoint::reach("pull.first-change");
        }
        if done == count.div_ceil(2) {
            failpoint::reach("pull.half-changed");
        }
    }
    Ok(())
}

struct Applier {
    target: DirStack,
    staging: DirStack,
}

impl Applier {
    fn operate(&mut self, operation: &Operation) -> Result<(), Errno> {
        let path = operation.path.as_str();
        let (dir, name) = self.target.parent_of(path)?;
        let in_place = inode(dir, name)?;
        match operation.action {
            Action::Exchange { inode } | Action::MoveIn { inode } if in_place == Some(inode) => Ok(()),
            Action::MoveOut { inode } if in_place != Some(inode) => Ok(()),
            Action::Exchange { .. } | Action::MoveIn { .. } => {
                let (from, from_name) = self.staging.parent_of(path)?;
                writable(dir, || match in_place {
                    Some(_) => exchange(from, from_name, dir, name),
                    None => renameat_with(from, from_name, dir, name, RenameFlags::NOREPLACE),
                })
            }
            Action::MoveOut { .. } => {
                let (to, to_name) = self.staging.parent_of(path)?;
                writable(dir, || renameat_with(dir, name, to, to_name, RenameFlags::NOREPLACE))
            }
            Action::Chmod { mode } => set_mode(dir, name, mode),
        }
    }
}

/// Changes permission bits through a handle: a link that has taken the place meanwhile is not followed.
fn set_mode(dir: BorrowedFd<'_>, name: &str, mode: Mode) -> Result<(), Errno> {
    let open = |access| {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(dir, name, flags, rustix::fs::Mode::empty())
    };
    match open(OFlags::RDONLY).or_else(|_| open(OFlags::WRONLY)) {
        Ok(file) => fchmod(&file, raw(mode)),
        // Neither readable nor writable: only the name is left to go by.
        Err(Errno::ACCESS) => chmodat(dir, name, raw(mode), AtFlags::SYMLINK_NOFOLLOW),
        Err(error) => Err(error),
    }
}

fn inode(dir: BorrowedFd<'_>, name: &str) -> Result<Option<u64>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does something in a directory, which is made writable for it if it must.
fn writable(dir: BorrowedFd<'_>, work: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match work() {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_bits(fstat(dir)?.st_mode);
            fchmod(dir, raw(Mode::from_bits(mode.bits() | 0o700)))?;
            let done = work();
            fchmod(dir, raw(mode))?;
            done
        }
        other => other,
    }
}

/// Swaps two names. Where the file system can't, the one in place steps aside: for a moment the name is absent.
fn exchange(from: BorrowedFd<'_>, from_name: &str, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match renameat_with(from, from_name, dir, name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let aside = format!("{from_name}.kkartifact-aside");
            renameat(dir, name, from, aside.as_str())?;
            renameat(from, from_name, dir.as_fd(), name)?;
            renameat(from, aside.as_str(), from, from_name)
        }
        other => other,
    }
}
