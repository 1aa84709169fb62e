//! Changing the target: journal, operations, commit; and finishing a change that was interrupted.
//!
//! Until the journal has its name, nothing in the target has changed. From then on the change is finished,
//! whoever has to do it: everything that it needs is staged and durable. If it can't be finished, because the
//! directory does not let it, it is undone: the target is one version or the other, never a mix that stays.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kkartifact_model::failpoint;
use rustix::fs::{AtFlags, statat};

use super::apply::{Direction, apply};
use super::journal::{Action, Header, Operation, OperationReader, OperationWriter};
use super::report;
use super::state::{State, Target};
use crate::error::{AgentError, Kind, Result};
use crate::push::crashed;
use crate::tree::{DirStack, open_root};

/// Makes everything written to a file system durable.
pub(super) fn sync_file_system(on: impl AsFd) -> Result<()> {
    #[cfg(target_os = "linux")]
    return rustix::fs::syncfs(on).map_err(AgentError::os("syncing the file system"));
    #[cfg(not(target_os = "linux"))]
    {
        drop(on.as_fd());
        rustix::fs::sync();
        Ok(())
    }
}

/// Applies the planned operations, whose new content is staged, and records the new state.
pub(super) fn change(target: &Target, header: &Header) -> Result<()> {
    write_journal(target, header)?;
    failpoint::reach("pull.journal-written");
    finish(target).map(drop)
}

/// Turns the planned operations into the journal, now that the staged files have inodes.
fn write_journal(target: &Target, header: &Header) -> Result<()> {
    let (_, operations) = OperationReader::open(&target.file("operations"))?;
    let mut staged = DirStack::existing(open_root(&target.file("staging/tree"))?);
    let mut journal = OperationWriter::create(&target.file("journal.new"), Some(header))?;
    for operation in operations {
        let Operation { path, action } = operation?;
        let mut inode = || {
            let (dir, name) = staged.parent_of(&path)?;
            statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
        };
        let failed = || AgentError::os(format!("looking at staged {path:?}"));
        let action = match action {
            Action::Exchange { .. } => Action::Exchange { inode: inode().map_err(failed())? },
            Action::MoveIn { .. } => Action::MoveIn { inode: inode().map_err(failed())? },
            other => other,
        };
        journal.push(&path, action)?;
    }
    journal.finish()?;
    fs::rename(target.file("journal.new"), target.file("journal"))
        .map_err(AgentError::io("naming the journal"))?;
    target.sync()
}

/// Finishes the change that the journal tells of, from wherever it stands; or undoes it.
fn finish(target: &Target) -> Result<State> {
    let header = OperationReader::check(&target.file("journal"))?;
    let recorded = target.state()?.as_ref() == Some(&header.to);
    if !recorded {
        if target.root()?.is_none() {
            fs::create_dir_all(&target.path)
                .map_err(AgentError::io(format!("creating {}", target.path.display())))?;
        }
        if let Err(error) = operate(target, &header, Direction::Forward) {
            return Err(undo(target, &header, error));
        }
        failpoint::reach("pull.changed");
        sync_file_system(root(target)?)?;
        failpoint::reach("pull.target-synced");
        target.replace("state.json", &header.to.to_json()?)?;
        failpoint::reach("pull.state-recorded");
    }
    if let Some(report) = &header.report {
        report::keep(target, report)?;
    }
    if !header.repair && target.file("staging").is_dir() {
        // The staging tree has become the version before.
        target.discard("previous")?;
        fs::rename(target.file("staging"), target.file("previous"))
            .map_err(AgentError::io("keeping what was there before"))?;
    }
    target.remove("journal")?;
    target.sync()?;
    failpoint::reach("pull.journal-removed");
    Ok(header.to)
}

fn root(target: &Target) -> Result<OwnedFd> {
    let gone = || AgentError::new(Kind::NotFound, format!("{} is gone", target.path.display()));
    target.root()?.ok_or_else(gone)
}

fn operate(target: &Target, header: &Header, direction: Direction) -> Result<()> {
    let (_, operations) = OperationReader::open(&target.file("journal"))?;
    let staging = open_root(&target.file("staging/tree"))?;
    apply(operations, header.operations, root(target)?, staging, direction)
}

/// Puts everything back after a change that could not be made; the error then says so.
fn undo(target: &Target, header: &Header, cause: AgentError) -> AgentError {
    let undone = operate(target, header, Direction::Back)
        .and_then(|()| sync_file_system(root(target)?))
        .and_then(|()| target.remove("journal"))
        .and_then(|()| target.sync());
    let mut error = cause;
    match undone {
        Ok(()) => error.message.push_str("; the change was undone"),
        Err(second) => {
            let more = format!("; undoing the change failed too ({second}), so the next run tries again");
            error.message.push_str(&more);
        }
    }
    error
}

/// Finishes a change that was interrupted; the state that it led to.
pub(super) async fn recover(target: &Arc<Target>) -> Result<Option<State>> {
    let target = target.clone();
    let work = tokio::task::spawn_blocking(move || {
        if !target.is_interrupted() {
            recover_staging(&target)?;
            return Ok(None);
        }
        let state = finish(&target)?;
        // What was known of the files is from before the change.
        target.remove("stats.kept")?;
        target.tidy(&state)?;
        Ok(Some(state))
    });
    work.await.map_err(|error| crashed(&error))?
}

/// Keeps what an interrupted download had staged as a source of content.
pub(super) fn recover_staging(target: &Target) -> Result<()> {
    if !target.file("staging").is_dir() {
        return Ok(());
    }
    target.discard("leftover")?;
    fs::rename(target.file("staging"), target.file("leftover"))
        .map_err(AgentError::io("keeping what was staged"))
}
