//! Going through a source directory in tree order.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use kkartifact_model::TreePath;
use kkartifact_model::manifest::check::check_link;
use kkartifact_model::path::{MAX_DEPTH, collision_key, is_reserved};
use rustix::fs::readlinkat;

use super::dirs::open_dir;
use super::ignore_rules::IgnoreRules;
use super::stat::{FileStat, Found, Kind, list};
use crate::error::{AgentError, Kind as ErrorKind, Result};

/// One path that is part of the tree.
#[derive(Debug)]
pub struct Walked {
    /// Where.
    pub path: TreePath,
    /// What is there.
    pub stat: FileStat,
    /// Where it points, if it is a symbolic link.
    pub target: Option<String>,
}

/// What can't be part of a version: all of it, so that nobody has to find out one by one.
#[derive(Debug, Default)]
pub struct Problems {
    /// Refused, with reasons; at most [`Problems::KEPT`].
    pub refused: Vec<String>,
    /// How many were refused.
    pub count: u64,
    /// Names that some file systems would take for each other.
    pub collisions: Vec<String>,
    /// How many files have set-user-id, set-group-id or sticky bits, which are not carried.
    pub special_bits: u64,
}

impl Problems {
    const KEPT: usize = 1000;
    const SHOWN: usize = 20;

    fn refuse(&mut self, path: &str, reason: &str) {
        self.count += 1;
        if self.refused.len() < Self::KEPT {
            self.refused.push(format!("{path:?} {reason}"));
        }
    }

    /// An error if anything was refused.
    pub fn into_result(self) -> Result<Self> {
        if self.count == 0 {
            return Ok(self);
        }
        let shown = &self.refused[..self.refused.len().min(Self::SHOWN)];
        let more = match self.count - shown.len() as u64 {
            0 => String::new(),
            more => format!("\n  … and {more} more"),
        };
        let list = shown.join("\n  ");
        let message =
            format!("{} paths can't be part of a version; nothing was sent:\n  {list}{more}", self.count);
        Err(AgentError::new(ErrorKind::Invalid, message).hint("remove them, or add them to 'ignore'"))
    }
}

/// Goes through a tree in path order and hands each path to `visit`. What can't be part of a version is
/// collected, not visited.
pub fn walk(
    root: impl AsFd,
    ignore: &IgnoreRules,
    visit: &mut dyn FnMut(Walked) -> Result<()>,
) -> Result<Problems> {
    let mut walker = Walker { ignore, visit, problems: Problems::default() };
    walker.directory(root.as_fd(), "", 0)?;
    Ok(walker.problems)
}

struct Walker<'a> {
    ignore: &'a IgnoreRules,
    visit: &'a mut dyn FnMut(Walked) -> Result<()>,
    problems: Problems,
}

impl Walker<'_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, prefix: &str, depth: usize) -> Result<()> {
        let found = list(dir).map_err(AgentError::os(format!("reading directory {prefix:?}")))?;
        let mut keys = HashSet::with_capacity(found.len());
        for found in found {
            let path = format!("{prefix}{}", found.shown);
            let is_directory = found.stat.kind == Kind::Directory;
            if is_reserved(&found.shown) || self.ignore.matches(&path, is_directory) {
                continue;
            }
            if !keys.insert(collision_key(&found.shown)) {
                self.problems.collisions.push(path.clone());
            }
            self.one(dir, &path, &found, depth)?;
        }
        Ok(())
    }

    fn one(&mut self, dir: BorrowedFd<'_>, path: &str, found: &Found, depth: usize) -> Result<()> {
        let (Some(name), stat) = (&found.name, found.stat) else {
            self.problems.refuse(path, "is not UTF-8");
            return Ok(());
        };
        if let Kind::Other(what) = stat.kind {
            self.problems.refuse(path, &format!("is {what}"));
            return Ok(());
        }
        let tree_path = match TreePath::new(path) {
            Ok(tree_path) => tree_path,
            Err(error) => {
                self.problems.refuse(path, error.reason);
                return Ok(());
            }
        };
        let mut target = None;
        if stat.kind == Kind::Symlink {
            let link = readlinkat(dir, name.as_str(), Vec::new());
            let link = link.map_err(AgentError::os(format!("reading link {path:?}")))?;
            let Ok(text) = link.into_string() else {
                self.problems.refuse(path, "points to something that is not UTF-8");
                return Ok(());
            };
            if check_link(&tree_path, &text).is_err() {
                self.problems.refuse(
                    path,
                    &format!("→ {text:?} leaves the tree (only links that stay inside are kept)"),
                );
                return Ok(());
            }
            target = Some(text);
        }
        if stat.kind == Kind::File && stat.special_bits {
            self.problems.special_bits += 1;
        }
        (self.visit)(Walked { path: tree_path, stat, target })?;
        if stat.kind == Kind::Directory && depth < MAX_DEPTH {
            let below = open_dir(dir, name).map_err(AgentError::os(format!("opening directory {path:?}")))?;
            self.directory(below.as_fd(), &format!("{path}/"), depth + 1)?;
        }
        Ok(())
    }
}
