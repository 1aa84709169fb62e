//! Applying: what is staged changes places with what is there, operation by operation, as the journal says.
//!
//! `renameat2(RENAME_EXCHANGE)` swaps two files in one step, so a path is never absent, and the staging tree
//! becomes the version before. Where a file system has no exchange, the old one steps aside first.
//!
//! Whether an operation has been done is read from the staging tree, which nobody but the agent writes: what is in
//! place may be changed at any moment by the program that runs there.

use std::os::fd::{BorrowedFd, OwnedFd};

use kkartifact_model::failpoint;
use kkartifact_model::manifest::Mode;
use kkartifact_model::path::STATE_SUFFIX;
use rustix::fs::{
    AtFlags, CWD, FileType, OFlags, RenameFlags, chmodat, fchmod, fstat, openat, renameat, renameat_with,
    statat,
};
use rustix::io::Errno;

use super::journal::{Action, Operation, OperationReader};
use super::stage::raw;
use crate::error::{AgentError, Result};
use crate::tree::{DirStack, open_dir};

/// Which way operations are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To what is staged. Operations that are done already are passed over.
    Forward,
    /// Back to what was there. Operations that were not done are passed over, and so is what has been removed
    /// or taken meanwhile.
    Back,
}

/// Does what the journal says. No operation lies below another one but a change of mode, so their order does not
/// matter, in neither direction.
pub(super) fn apply(
    operations: OperationReader,
    count: u64,
    target: OwnedFd,
    staging: OwnedFd,
    direction: Direction,
) -> Result<()> {
    let mut applier = Applier { target: DirStack::existing(target), staging: DirStack::creating(staging) };
    for (done, operation) in (1..).zip(operations) {
        let operation = operation?;
        let path = operation.path.as_str();
        match (direction, applier.operate(&operation, direction)) {
            (_, Ok(())) => {}
            (Direction::Back, Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::EXIST)) => continue,
            (_, Err(error)) => return Err(explain(path, error)),
        }
        if done == 1 {
            failpoint::reach("pull.first-change");
        }
        if done == count.div_ceil(2) {
            failpoint::reach("pull.half-changed");
        }
    }
    Ok(())
}

fn explain(path: &str, errno: Errno) -> AgentError {
    let error = AgentError::os(format!("changing {path:?}"))(errno);
    match errno {
        Errno::XDEV => {
            error.hint("something in the directory is mounted from elsewhere: list it under 'ignore'")
        }
        Errno::BUSY => error.hint("it is a mount point: list it under 'ignore'"),
        _ => error,
    }
}

struct Applier {
    target: DirStack,
    staging: DirStack,
}

/// A name in an open directory.
#[derive(Clone, Copy)]
struct At<'a> {
    dir: BorrowedFd<'a>,
    name: &'a str,
}

impl Applier {
    fn operate(&mut self, operation: &Operation, direction: Direction) -> Result<(), Errno> {
        let path = operation.path.as_str();
        let place = At::of(&mut self.target, path)?;
        let forward = direction == Direction::Forward;
        match operation.action {
            Action::Exchange { inode } | Action::MoveIn { inode } => {
                let staged = At::of(&mut self.staging, path)?;
                settle(staged, place)?;
                let held = staged.inode()?;
                match (held == Some(inode), forward) {
                    (true, false) | (false, true) => Ok(()),
                    (true, true) => writable(&[place, staged], || match place.inode()? {
                        Some(_) => exchange(staged, place),
                        None => rename(staged, place),
                    }),
                    (false, false) => writable(&[place, staged], || match held {
                        Some(_) => exchange(staged, place),
                        None => rename(place, staged),
                    }),
                }
            }
            Action::MoveOut => {
                let staged = At::of(&mut self.staging, path)?;
                match (staged.inode()?.is_some(), forward) {
                    (true, true) | (false, false) => Ok(()),
                    // What should go may have gone by itself.
                    (false, true) if place.inode()?.is_none() => Ok(()),
                    (false, true) => writable(&[place, staged], || rename(place, staged)),
                    (true, false) => writable(&[place, staged], || rename(staged, place)),
                }
            }
            Action::Chmod { from, to } => set_mode(place, if forward { to } else { from }),
        }
    }
}

impl<'a> At<'a> {
    fn of(dirs: &'a mut DirStack, path: &'a str) -> Result<Self, Errno> {
        let (dir, name) = dirs.parent_of(path)?;
        Ok(Self { dir, name })
    }

    fn inode(self) -> Result<Option<u64>, Errno> {
        match statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_ino)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Renames to a free name. Not every file system can refuse a taken one by itself.
fn rename(from: At<'_>, to: At<'_>) -> Result<(), Errno> {
    match renameat_with(from.dir, from.name, to.dir, to.name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.inode()?.is_none() => {
            renameat(from.dir, from.name, to.dir, to.name)
        }
        other => other,
    }
}

/// Swaps two names. Where the file system can't, the one in place steps aside: for a moment the name is absent.
fn exchange(staged: At<'_>, place: At<'_>) -> Result<(), Errno> {
    match renameat_with(staged.dir, staged.name, place.dir, place.name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let aside = aside(staged.name);
            renameat(place.dir, place.name, staged.dir, aside.as_str())?;
            renameat(staged.dir, staged.name, place.dir, place.name)?;
            renameat(staged.dir, aside.as_str(), staged.dir, staged.name)
        }
        other => other,
    }
}

/// Completes an exchange by way of a third name that was interrupted, or takes it back.
fn settle(staged: At<'_>, place: At<'_>) -> Result<(), Errno> {
    let name = aside(staged.name);
    let aside = At { dir: staged.dir, name: &name };
    if aside.inode()?.is_none() {
        return Ok(());
    }
    rename(aside, if staged.inode()?.is_none() { staged } else { place })
}

/// A name that no version can have.
fn aside(name: &str) -> String {
    format!(".{}{STATE_SUFFIX}", &blake3::hash(name.as_bytes()).to_hex()[..16])
}

/// Changes permission bits through a handle: a link that has taken the place meanwhile is not followed.
fn set_mode(at: At<'_>, mode: Mode) -> Result<(), Errno> {
    let open = |access| {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(at.dir, at.name, flags, rustix::fs::Mode::empty())
    };
    match open(OFlags::RDONLY).or_else(|_| open(OFlags::WRONLY)) {
        Ok(file) => fchmod(&file, raw(mode)),
        #[cfg(target_os = "linux")]
        Err(Errno::ACCESS) => {
            use std::os::fd::AsRawFd as _;
            // Neither readable nor writable, but ours: a handle that is only a place can be named through /proc.
            let handle = open(OFlags::PATH)?;
            if FileType::from_raw_mode(fstat(&handle)?.st_mode) == FileType::Symlink {
                return Err(Errno::LOOP);
            }
            let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
            chmodat(CWD, name.as_str(), raw(mode), AtFlags::empty())
        }
        Err(error) => Err(error),
    }
}

/// Renames something, which needs write permission on both directories and on a directory that moves: where the
/// owner has taken it away, it is given for that moment.
fn writable(places: &[At<'_>; 2], work: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match work() {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let mut opened = Vec::new();
    for at in places {
        opened.push(open_dir(at.dir, ".")?);
        if let Ok(moving) = open_dir(at.dir, at.name) {
            opened.push(moving);
        }
    }
    let mut changed = Vec::new();
    for dir in &opened {
        let mode = rustix::fs::Mode::from_raw_mode(fstat(dir)?.st_mode & 0o7777);
        if !mode.contains(rustix::fs::Mode::RWXU) && fchmod(dir, mode | rustix::fs::Mode::RWXU).is_ok() {
            changed.push((dir, mode));
        }
    }
    let done = work();
    for (dir, mode) in changed {
        // By its handle, wherever it is now.
        fchmod(dir, mode)?;
    }
    done
}
