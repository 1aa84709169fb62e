//! After a change: what is known of the files in place, and of those that it took out, so that the next run need
//! not read them.

use kkartifact_model::manifest::{Mtime, RefSet};
use rustix::fs::{AtFlags, statat};

use super::state::Target;
use crate::error::{AgentError, Result};
use crate::manifest_file::ManifestFile;
use crate::stat_cache::{StatReader, StatWriter, clock_now};
use crate::tree::{DirStack, FileStat, open_root};

/// Writes `stats` for the files in place. What was staged is only taken for known if nobody has written it since:
/// it has the size and time that it was staged with, or a time before the staging was complete.
pub(super) fn remember_current(
    target: &Target,
    manifest: &ManifestFile,
    staged: &RefSet,
    staged_until: Mtime,
) -> Result<()> {
    let looked = clock_now();
    let Some(root) = target.root()? else { return Ok(()) };
    let mut dirs = DirStack::existing(root);
    let mut kept = StatReader::open(&target.file("stats.kept"));
    let mut out = StatWriter::create(&target.file("stats.new"))?;
    for (place, entry) in (0..).zip(manifest.entries()) {
        let entry = entry?;
        let Some(file) = entry.file() else { continue };
        let path = entry.path.as_str();
        if staged.contains(place) {
            let untouched = |stat: &FileStat| {
                stat.size == file.size
                    && file.mtime.map_or(stat.mtime <= staged_until, |own| stat.mtime == own)
            };
            if let Some(stat) = look(&mut dirs, path).filter(untouched) {
                out.push(path, &stat, &file.sha256, looked)?;
            }
        } else if let Some(cached) = kept.find(path) {
            out.copy(&cached)?;
        }
    }
    out.finish()?;
    std::fs::rename(target.file("stats.new"), target.file("stats"))
        .map_err(AgentError::io("keeping the stat cache"))
}

/// Writes `previous/stats`: what the plan knew of the files that the change took out, with the change time that
/// they have now.
pub(super) fn remember_previous(target: &Target) -> Result<()> {
    let looked = clock_now();
    let Ok(root) = open_root(&target.file("previous/tree")) else { return Ok(()) };
    let mut dirs = DirStack::existing(root);
    let mut out = StatWriter::create(&target.file("previous/stats"))?;
    for before in StatReader::open(&target.file("stats.taken")) {
        if let Some(stat) = look(&mut dirs, &before.path)
            && (stat.ino, stat.size, stat.mtime) == (before.stat.ino, before.stat.size, before.stat.mtime)
        {
            out.push(&before.path, &stat, &before.sha256, looked)?;
        }
    }
    out.finish()
}

fn look(dirs: &mut DirStack, path: &str) -> Option<FileStat> {
    let (dir, name) = dirs.parent_of(path).ok()?;
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| FileStat::from(&stat))
}
