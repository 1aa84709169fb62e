//! What has to change: the target as it is, beside the manifest as it should be. Both stream by in path order.

use std::iter::Peekable;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kkartifact_model::manifest::{Entry, FileNode, Mode, Mtime, Node, RefSet};
use kkartifact_model::path::{is_below, is_reserved};
use rustix::fs::readlinkat;
use serde::Serialize;

use super::journal::{Action, OperationWriter};
use crate::error::{AgentError, Kind as ErrorKind, Result};
use crate::hash::hash_at;
use crate::manifest_file::{Entries, ManifestFile};
use crate::stat_cache::{StatReader, StatWriter, clock_now};
use crate::tree::{Found, IgnoreRules, Kind, list, open_dir};

/// What a change amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Files that are in place already.
    pub kept: u64,
    /// Paths that are new.
    pub added: u64,
    /// Paths whose content, kind or mode changes.
    pub changed: u64,
    /// Files that go.
    pub deleted: u64,
    /// Bytes of files that are new or change.
    pub bytes: u64,
    /// Paths that are left alone: ignored, or nothing that a version could have.
    pub untouched: u64,
}

impl Counts {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added + self.changed + self.deleted == 0
    }
}

/// One change, as a dry run or a diff shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// `+`, `-` or `~`.
    pub change: char,
    /// Where.
    pub path: String,
}

/// What has to change.
pub struct Plan {
    /// What it amounts to.
    pub counts: Counts,
    /// Which entries of the manifest have to be staged, by their place.
    pub stage: RefSet,
    /// The first changes, if they were asked for.
    pub shown: Vec<Shown>,
    /// How many operations there are.
    pub operations: u64,
}

/// Where a planner writes, and how much it shows.
pub struct Files<'a> {
    /// The operations.
    pub operations: &'a Path,
    /// What is known of the files that stay.
    pub kept: &'a Path,
    /// What is known of the files that go, or change.
    pub taken: &'a Path,
    /// What is known of the files from before.
    pub stats: &'a Path,
    /// How many changes to show.
    pub show: usize,
}

/// Plans. `root` is the target if it exists. With `trust` false every file is read, whatever is known of it.
pub fn plan(
    root: Option<BorrowedFd<'_>>,
    want: &ManifestFile,
    ignore: &IgnoreRules,
    files: &Files<'_>,
    trust: bool,
) -> Result<Plan> {
    let nowhere = Path::new("");
    let mut planner = Planner {
        want: want.entries().peekable(),
        place: 0,
        ignore,
        stats: StatReader::open(if trust { files.stats } else { nowhere }),
        kept: StatWriter::create(files.kept)?,
        taken: StatWriter::create(files.taken)?,
        looked: clock_now(),
        operations: OperationWriter::create(files.operations, None)?,
        counts: Counts::default(),
        stage: RefSet::new(want.root().entries()),
        shown: Vec::new(),
        show: files.show,
    };
    match root {
        Some(root) => planner.directory(root, "")?,
        None => planner.absent("")?,
    }
    planner.kept.finish()?;
    planner.taken.finish()?;
    let operations = planner.operations.finish()?;
    Ok(Plan { counts: planner.counts, stage: planner.stage, shown: planner.shown, operations })
}

struct Planner<'a> {
    want: Peekable<Entries>,
    /// The place of the entry that `want` has next.
    place: u64,
    ignore: &'a IgnoreRules,
    stats: StatReader,
    kept: StatWriter,
    taken: StatWriter,
    looked: Mtime,
    operations: OperationWriter,
    counts: Counts,
    stage: RefSet,
    shown: Vec<Shown>,
    show: usize,
}

impl Planner<'_> {
    /// Plans a directory that is there and should be.
    fn directory(&mut self, dir: BorrowedFd<'_>, prefix: &str) -> Result<()> {
        let found = list(dir).map_err(AgentError::os(format!("reading directory {prefix:?}")))?;
        for found in &found {
            let Some(name) = &found.name else {
                self.counts.untouched += 1;
                continue;
            };
            let path = format!("{prefix}{name}");
            self.absent_before(prefix, name)?;
            let wanted = self.next_if_at(&path)?;
            let is_directory = found.stat.kind == Kind::Directory;
            if is_reserved(name) || self.ignore.matches(&path, is_directory) {
                self.counts.untouched += 1;
                self.skip_below(&path)?;
                continue;
            }
            match wanted {
                Some((place, entry)) => self.both(dir, &path, found, place, &entry)?,
                None => self.stale(dir, &path, found)?,
            }
        }
        self.absent(prefix)
    }

    /// Plans what should be in a directory before `name` and is not there.
    fn absent_before(&mut self, prefix: &str, name: &str) -> Result<()> {
        while let Some(path) = self.peek_in(prefix)?
            && path[prefix.len()..] < *name
        {
            self.move_in()?;
        }
        Ok(())
    }

    /// Plans the rest of what should be in a directory.
    fn absent(&mut self, prefix: &str) -> Result<()> {
        while self.peek_in(prefix)?.is_some() {
            self.move_in()?;
        }
        Ok(())
    }

    /// The path of the next wanted entry if it lies directly in a directory.
    fn peek_in(&mut self, prefix: &str) -> Result<Option<String>> {
        match self.want.peek() {
            Some(Ok(entry)) => {
                let path = entry.path.as_str();
                Ok((path.starts_with(prefix) && !path[prefix.len()..].contains('/')).then(|| path.to_owned()))
            }
            Some(Err(_)) => self.next().map(|_| None),
            None => Ok(None),
        }
    }

    fn next(&mut self) -> Result<Option<(u64, Entry)>> {
        let Some(entry) = self.want.next() else { return Ok(None) };
        self.place += 1;
        Ok(Some((self.place - 1, entry?)))
    }

    fn next_if_at(&mut self, path: &str) -> Result<Option<(u64, Entry)>> {
        match self.want.peek() {
            Some(Ok(entry)) if entry.path.as_str() != path => Ok(None),
            _ => self.next(),
        }
    }

    /// Passes over what is wanted below a path.
    fn skip_below(&mut self, path: &str) -> Result<()> {
        while self
            .want
            .peek()
            .is_some_and(|entry| entry.as_ref().map_or(true, |e| is_below(e.path.as_str(), path)))
        {
            self.next()?;
        }
        Ok(())
    }

    /// Plans a wanted path that is not there, with all below it, as one move.
    fn move_in(&mut self) -> Result<()> {
        let Some((place, entry)) = self.next()? else { return Ok(()) };
        let path = entry.path.as_str();
        let is_directory = matches!(entry.node, Node::Directory { .. });
        if self.ignore.matches(path, is_directory) {
            return self.skip_below(path);
        }
        self.operations.push(path, Action::MoveIn { inode: 0 })?;
        self.stage_with_below(place, &entry)
    }

    /// Marks an entry and all below it as to be staged.
    fn stage_with_below(&mut self, place: u64, entry: &Entry) -> Result<()> {
        self.stage_one(place, entry, '+');
        if !matches!(entry.node, Node::Directory { .. }) {
            return Ok(());
        }
        let top = entry.path.as_str();
        while self.want.peek().is_some_and(|e| e.as_ref().map_or(true, |e| is_below(e.path.as_str(), top))) {
            let Some((place, below)) = self.next()? else { break };
            let is_directory = matches!(below.node, Node::Directory { .. });
            if self.ignore.matches(below.path.as_str(), is_directory) {
                self.skip_below(below.path.as_str())?;
            } else {
                self.stage_one(place, &below, '+');
            }
        }
        Ok(())
    }

    fn stage_one(&mut self, place: u64, entry: &Entry, change: char) {
        self.stage.insert(place);
        if let Some(file) = entry.file() {
            self.counts.bytes += file.size;
        }
        if change == '+' {
            self.counts.added += 1;
        }
        self.show(change, entry.path.as_str());
    }

    fn show(&mut self, change: char, path: &str) {
        if self.shown.len() < self.show {
            self.shown.push(Shown { change, path: path.to_owned() });
        }
    }

    /// Plans a path that is there and wanted.
    fn both(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &str,
        found: &Found,
        place: u64,
        want: &Entry,
    ) -> Result<()> {
        let stat = &found.stat;
        match (&want.node, stat.kind) {
            (Node::Directory { mode }, Kind::Directory) => {
                if *mode != stat.mode {
                    self.chmod(path, stat.mode, *mode)?;
                }
                let below = open_dir(dir, &found.shown);
                let below = below.map_err(AgentError::os(format!("opening directory {path:?}")))?;
                self.directory(below.as_fd(), &format!("{path}/"))
            }
            (Node::File(file), Kind::File) if self.same_content(dir, path, found, file)? => {
                self.counts.kept += 1;
                if file.mode == stat.mode { Ok(()) } else { self.chmod(path, stat.mode, file.mode) }
            }
            (Node::Symlink { target }, Kind::Symlink) if points_to(dir, path, &found.shown, target)? => {
                self.counts.kept += 1;
                Ok(())
            }
            (_, Kind::Directory) => {
                // A file where a directory is: the directory goes as a whole, or the file can't come.
                if self.has_untouchable(dir, path, found)? {
                    let message = format!(
                        "{path:?} is a directory with ignored paths in it, but the version has a file there"
                    );
                    return Err(AgentError::new(ErrorKind::Conflict, message)
                        .hint("move the ignored paths elsewhere"));
                }
                self.count_stale(dir, path, found)?;
                self.exchange(path, place, want)
            }
            _ => self.exchange(path, place, want),
        }
    }

    fn chmod(&mut self, path: &str, from: Mode, to: Mode) -> Result<()> {
        self.counts.changed += 1;
        self.show('~', path);
        self.operations.push(path, Action::Chmod { from, to })
    }

    fn exchange(&mut self, path: &str, place: u64, want: &Entry) -> Result<()> {
        self.counts.changed += 1;
        self.operations.push(path, Action::Exchange { inode: 0 })?;
        if matches!(want.node, Node::Directory { .. }) {
            self.stage_with_below(place, want)
        } else {
            self.stage_one(place, want, '~');
            Ok(())
        }
    }

    /// Whether a file has the wanted content: by what is known of it, else by reading it.
    fn same_content(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &str,
        found: &Found,
        want: &FileNode,
    ) -> Result<bool> {
        let stat = &found.stat;
        let cached = self.stats.find(path).filter(|cached| cached.is_unchanged(stat));
        let sha256 = match cached {
            Some(cached) => cached.sha256,
            None if stat.size != want.size => return Ok(false),
            None => hash_at(dir, &found.shown, path, stat)?.sha256,
        };
        let same = sha256 == want.sha256 && stat.size == want.size;
        let known = if same { &mut self.kept } else { &mut self.taken };
        known.push(path, stat, &sha256, self.looked)?;
        Ok(same)
    }

    /// Plans a path that is there and not wanted.
    fn stale(&mut self, dir: BorrowedFd<'_>, path: &str, found: &Found) -> Result<()> {
        match found.stat.kind {
            // Sockets and pipes belong to whoever runs, not to a version.
            Kind::Other(_) => {
                self.counts.untouched += 1;
                Ok(())
            }
            Kind::Directory if self.has_untouchable(dir, path, found)? => {
                let below = open_dir(dir, &found.shown);
                let below = below.map_err(AgentError::os(format!("opening directory {path:?}")))?;
                self.directory(below.as_fd(), &format!("{path}/"))
            }
            _ => {
                self.count_stale(dir, path, found)?;
                self.operations.push(path, Action::MoveOut)
            }
        }
    }

    /// Whether a directory holds anything that must stay where it is.
    fn has_untouchable(&mut self, dir: BorrowedFd<'_>, path: &str, found: &Found) -> Result<bool> {
        let below =
            open_dir(dir, &found.shown).map_err(AgentError::os(format!("opening directory {path:?}")))?;
        for found in list(&below).map_err(AgentError::os(format!("reading directory {path:?}")))? {
            let path = format!("{path}/{}", found.shown);
            let is_directory = found.stat.kind == Kind::Directory;
            if found.name.is_none()
                || is_reserved(&found.shown)
                || matches!(found.stat.kind, Kind::Other(_))
                || self.ignore.matches(&path, is_directory)
                || (is_directory && self.has_untouchable(below.as_fd(), &path, &found)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn count_stale(&mut self, dir: BorrowedFd<'_>, path: &str, found: &Found) -> Result<()> {
        if found.stat.kind != Kind::Directory {
            self.counts.deleted += 1;
            self.show('-', path);
            if let Some(cached) = self.stats.find(path).filter(|cached| cached.is_unchanged(&found.stat)) {
                self.taken.copy(&cached)?;
            }
            return Ok(());
        }
        let below =
            open_dir(dir, &found.shown).map_err(AgentError::os(format!("opening directory {path:?}")))?;
        let list = list(&below).map_err(AgentError::os(format!("reading directory {path:?}")))?;
        if list.is_empty() {
            self.counts.deleted += 1;
            self.show('-', path);
        }
        list.iter()
            .try_for_each(|found| self.count_stale(below.as_fd(), &format!("{path}/{}", found.shown), found))
    }
}

fn points_to(dir: BorrowedFd<'_>, path: &str, name: &str, target: &str) -> Result<bool> {
    let link = readlinkat(dir, name, Vec::new()).map_err(AgentError::os(format!("reading link {path:?}")))?;
    Ok(link.as_bytes() == target.as_bytes())
}
