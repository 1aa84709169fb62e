//! The rules of a tree, checked while its entries stream by, in memory that grows with depth only.

use super::entry::{Entry, FileNode, Node};
use crate::path::{compare, is_below};

/// How large a tree may be. From configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// The most entries.
    pub entries: u64,
    /// The most bytes of one file.
    pub file_size: u64,
    /// The most bytes of all files together.
    pub tree_size: u64,
}

/// The most chunks of one file: bounds the memory that one entry takes, and keeps it within a frame of the wire.
/// Files of the largest size have half a million, of 1 MiB each.
pub const MAX_FILE_CHUNKS: usize = 700_000;
/// Files have a chunk for every 16 KiB at most, so this bounds the chunks of a tree.
const LEAST_CHUNK: u64 = 16 << 10;

impl Default for TreeLimits {
    fn default() -> Self {
        Self { entries: 1_000_000, file_size: 256 << 30, tree_size: 1 << 40 }
    }
}

/// What is wrong with a tree, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The same path twice.
    #[error("{0:?} is listed twice")]
    Duplicate(String),
    /// Not in path order.
    #[error("{0:?} comes after {1:?}, but entries must be in path order")]
    OutOfOrder(String, String),
    /// A path whose directory is not listed as a directory.
    #[error("{0:?} lies below something that is not a directory of this tree")]
    NoDirectory(String),
    /// A symbolic link that is absolute, leaves the tree or could leave it through another link.
    #[error(
        "the symbolic link {path:?} → {target:?} leaves the tree; only relative links that go up first ('../../x') \
         and stay inside are kept"
    )]
    EscapingLink {
        /// Where the link is.
        path: String,
        /// Where it points.
        target: String,
    },
    /// Chunks that don't add up to the file, or have a length outside the bounds.
    #[error("the chunks of {0:?} do not make up its size")]
    Chunks(String),
    /// More entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// More content than the limit, by bytes or by chunks.
    #[error("more than {0} bytes in all, or cut into far too many chunks")]
    TreeTooLarge(u64),
    /// A file of too many chunks.
    #[error("{0:?} is cut into too many chunks")]
    TooManyChunks(String),
    /// A file above the limit.
    #[error("{path:?} has {size} bytes; the limit is {limit}")]
    FileTooLarge {
        /// Where the file is.
        path: String,
        /// Its bytes.
        size: u64,
        /// The most bytes.
        limit: u64,
    },
}

/// Checks entries one after the other.
#[derive(Debug)]
pub(super) struct TreeChecker {
    limits: TreeLimits,
    entries: u64,
    bytes: u64,
    chunks: u64,
    previous: String,
    /// The directories that hold the previous path, outermost first, and that path itself if it is one.
    open: Vec<String>,
}

impl TreeChecker {
    pub(super) fn new(limits: TreeLimits) -> Self {
        Self { limits, entries: 0, bytes: 0, chunks: 0, previous: String::new(), open: Vec::new() }
    }

    pub(super) fn push(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let path = entry.path.as_str();
        self.order(path)?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(TreeError::TooManyEntries(self.limits.entries));
        }
        while self.open.last().is_some_and(|dir| !is_below(path, dir)) {
            self.open.pop();
        }
        if entry.path.parent() != self.open.last().map(String::as_str) {
            return Err(TreeError::NoDirectory(path.to_owned()));
        }
        match &entry.node {
            Node::Directory { .. } => self.open.push(path.to_owned()),
            Node::Symlink { target } => link_stays_inside(path, target, self.open.len())?,
            Node::File(file) => self.file(path, file)?,
        }
        path.clone_into(&mut self.previous);
        Ok(())
    }

    fn order(&self, path: &str) -> Result<(), TreeError> {
        match compare(&self.previous, path) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(TreeError::Duplicate(path.to_owned())),
            std::cmp::Ordering::Greater => Err(TreeError::OutOfOrder(path.to_owned(), self.previous.clone())),
        }
    }

    fn file(&mut self, path: &str, file: &FileNode) -> Result<(), TreeError> {
        if file.chunks.len() > MAX_FILE_CHUNKS {
            return Err(TreeError::TooManyChunks(path.to_owned()));
        }
        self.bytes = self.bytes.saturating_add(file.size);
        self.chunks += file.chunks.len() as u64;
        // Every file may end with a small one.
        let most = (self.limits.tree_size / LEAST_CHUNK).saturating_add(self.limits.entries);
        if self.bytes > self.limits.tree_size || self.chunks > most {
            return Err(TreeError::TreeTooLarge(self.limits.tree_size));
        }
        let limit = self.limits.file_size;
        if file.size > limit {
            return Err(TreeError::FileTooLarge { path: path.to_owned(), size: file.size, limit });
        }
        let max = crate::chunking::MAX_CHUNK;
        let sum = file.chunks.iter().try_fold(0u64, |sum, chunk| {
            if chunk.len == 0 || chunk.len > max { None } else { sum.checked_add(chunk.len.into()) }
        });
        if sum == Some(file.size) { Ok(()) } else { Err(TreeError::Chunks(path.to_owned())) }
    }
}

/// A link is kept when it first goes up, not above the tree, and then only down: the directories above a link
/// are real ones, so the way up is exact, and each link met on the way down obeys the same rule. A `..` behind
/// a name could start from wherever that name leads, so it is refused.
fn link_stays_inside(path: &str, target: &str, depth: usize) -> Result<(), TreeError> {
    let mut ups = 0;
    let mut down = false;
    let inside = !target.is_empty()
        && target.len() <= crate::path::MAX_PATH
        && !target.starts_with('/')
        && !target.contains('\0')
        && target.split('/').all(|component| match component {
            ".." if down => false,
            ".." => {
                ups += 1;
                ups <= depth
            }
            "" | "." => true,
            _ => {
                down = true;
                true
            }
        });
    if inside {
        Ok(())
    } else {
        Err(TreeError::EscapingLink { path: path.to_owned(), target: target.chars().take(200).collect() })
    }
}

/// Whether a symbolic link at `path` (a valid tree path) may be part of a tree.
pub fn check_link(path: &crate::TreePath, target: &str) -> Result<(), TreeError> {
    link_stays_inside(path.as_str(), target, path.depth() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ChunkRef, Mode};
    use crate::{ChunkId, FileDigest, TreePath};

    fn directory(path: &str) -> Entry {
        Entry { path: TreePath::new(path).unwrap(), node: Node::Directory { mode: Mode::EXECUTABLE } }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: TreePath::new(path).unwrap(), node: Node::Symlink { target: target.into() } }
    }

    fn file(path: &str, size: u64, chunks: &[u32]) -> Entry {
        let chunks = chunks.iter().map(|len| ChunkRef { id: ChunkId::of(b""), len: *len }).collect();
        let node = FileNode { mode: Mode::FILE, mtime: None, size, sha256: FileDigest::of(b""), chunks };
        Entry { path: TreePath::new(path).unwrap(), node: Node::File(node) }
    }

    fn run(entries: &[Entry]) -> Result<(), TreeError> {
        let mut checker = TreeChecker::new(TreeLimits { entries: 5, file_size: 100, tree_size: 250 });
        entries.iter().try_for_each(|entry| checker.push(entry))
    }

    #[test]
    fn a_path_listed_twice_is_refused() {
        let error = run(&[file("a", 0, &[]), file("a", 0, &[])]).unwrap_err();
        assert_eq!(error, TreeError::Duplicate("a".into()));
    }

    #[test]
    fn a_path_below_a_file_is_refused() {
        let error = run(&[file("a", 0, &[]), file("a/b", 0, &[])]).unwrap_err();
        assert_eq!(error, TreeError::NoDirectory("a/b".into()));
        assert!(run(&[link("a", "b"), file("a/b", 0, &[])]).is_err());
        assert!(run(&[directory("a"), file("a/b/c", 0, &[])]).is_err());
        assert!(run(&[directory("a"), directory("b"), file("b/c", 0, &[])]).is_ok());
    }

    #[test]
    fn order_and_limits_hold() {
        assert!(matches!(run(&[file("b", 0, &[]), file("a", 0, &[])]), Err(TreeError::OutOfOrder(..))));
        let six: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|p| file(p, 0, &[])).to_vec();
        assert_eq!(run(&six), Err(TreeError::TooManyEntries(5)));
        assert!(matches!(run(&[file("a", 101, &[101])]), Err(TreeError::FileTooLarge { .. })));
    }

    #[test]
    fn chunks_must_make_up_the_file() {
        assert!(run(&[file("a", 10, &[4, 6])]).is_ok());
        for (size, chunks) in
            [(10, &[4, 5][..]), (10, &[]), (0, &[1]), (4, &[4, 0]), (1, &[u32::MAX, u32::MAX])]
        {
            assert_eq!(run(&[file("a", size, chunks)]), Err(TreeError::Chunks("a".into())));
        }
    }

    #[test]
    fn links_that_leave_the_tree_are_refused() {
        for target in ["x", "../x", "../d/x", "./x", "x/y", "..", "x//y"] {
            assert_eq!(run(&[directory("d"), link("d/l", target)]), Ok(()), "{target}");
        }
        for target in ["", "/etc/passwd", "../..", "../../x", "x/../../..", "x/..", "a\0b"] {
            let error = run(&[directory("d"), link("d/l", target)]).unwrap_err();
            assert!(matches!(error, TreeError::EscapingLink { .. }), "{target}");
        }
    }
}
