//! One path of a tree.

use serde::{Deserialize, Serialize};

use crate::{ChunkId, FileDigest, TreePath};

/// One path and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: TreePath,
    /// What.
    pub node: Node,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(FileNode),
    /// A directory. Every directory of a tree is listed, so that empty ones and their modes survive.
    Directory {
        /// Permission bits.
        mode: Mode,
    },
    /// A symbolic link that stays inside the tree.
    Symlink {
        /// Where it points, relative to the directory that holds it.
        target: String,
    },
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Permission bits.
    pub mode: Mode,
    /// When it was last modified; not part of a version's identity.
    pub mtime: Option<Mtime>,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: FileDigest,
    /// The content as chunks in order; empty for an empty file. Their lengths add up to `size`.
    pub chunks: Vec<ChunkRef>,
}

/// A chunk as a file refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Bytes, at least 1.
    pub len: u32,
}

/// Permission bits `0o000`–`0o777`. Set-user-id, set-group-id and sticky bits are not carried: a pull often
/// runs as root, and a build must not be able to plant a privileged program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mode(u16);

impl Mode {
    /// `rw-r--r--`
    pub const FILE: Self = Self(0o644);
    /// `rwxr-xr-x`
    pub const EXECUTABLE: Self = Self(0o755);

    /// Keeps the permission bits of a `st_mode`.
    pub const fn from_bits(bits: u32) -> Self {
        Self((bits & 0o777) as u16)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }
}

/// A modification time: seconds since 1970 and nanoseconds below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

impl Entry {
    /// Whether both are the same content at the same path: all but modification time and chunking.
    pub fn same_content(&self, other: &Self) -> bool {
        self.path == other.path && self.node.same_content(&other.node)
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&FileNode> {
        match &self.node {
            Node::File(file) => Some(file),
            _ => None,
        }
    }

    /// How many chunks the entry refers to.
    pub fn ref_count(&self) -> u64 {
        self.file().map_or(0, |file| file.chunks.len() as u64)
    }
}

impl Node {
    /// Whether both are the same content: all but modification time and chunking.
    pub fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => a.sha256 == b.sha256 && a.size == b.size && a.mode == b.mode,
            (a, b) => a == b,
        }
    }
}
