//! Entries → blocks, digests and the root, one entry at a time.

use sha2::{Digest as _, Sha256};

use super::check::{TreeChecker, TreeError, TreeLimits};
use super::entry::{Entry, Node};
use super::record::RecordWriter;
use super::root::{BlockRef, ManifestRoot};
use crate::{ChunkId, ManifestDigest, TreeDigest};

/// A block ends behind a path whose hash says so, on average every 256 entries…
const AVERAGE_ENTRIES: u64 = 256;
/// … but not before this many, …
const MIN_ENTRIES: u32 = 64;
/// … and at the latest after this many, …
const MAX_ENTRIES: u32 = 2048;
/// … or this many bytes. (A single entry may be larger: a chunk list.)
const MAX_BYTES: usize = 128 << 10;

/// A finished block: a run of records, named by its digest like any other chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// BLAKE3 of `records`.
    pub id: ChunkId,
    /// What [`super::RecordReader`] reads.
    pub records: Vec<u8>,
}

/// The digest that makes two trees the same content.
///
/// SHA-256 over one line per entry in path order, each ended by NUL: `F mode size sha256 path`, `D mode path`
/// or `L path` NUL `target`; modes as four octal digits.
#[derive(Debug, Default)]
pub struct TreeHasher(Sha256);

impl TreeHasher {
    /// Adds an entry; entries come in path order.
    pub fn push(&mut self, entry: &Entry) {
        let path = &entry.path;
        let line = match &entry.node {
            Node::File(file) => format!("F {:04o} {} {} {path}\0", file.mode.bits(), file.size, file.sha256),
            Node::Directory { mode } => format!("D {:04o} {path}\0", mode.bits()),
            Node::Symlink { target } => format!("L {path}\0{target}\0"),
        };
        self.0.update(line);
    }

    /// The digest of all entries added.
    pub fn finish(self) -> TreeDigest {
        TreeDigest::from_bytes(self.0.finalize().into())
    }
}

/// Builds a manifest from entries in path order and checks the tree's rules on the way.
#[derive(Debug)]
pub struct ManifestBuilder {
    checker: TreeChecker,
    tree: TreeHasher,
    exact: blake3::Hasher,
    single: RecordWriter,
    block: RecordWriter,
    current: BlockRef,
    root: ManifestRoot,
}

impl ManifestBuilder {
    /// An empty tree.
    pub fn new(limits: TreeLimits) -> Self {
        Self {
            checker: TreeChecker::new(limits),
            tree: TreeHasher::default(),
            exact: blake3::Hasher::new(),
            single: RecordWriter::without_times(),
            block: RecordWriter::default(),
            current: BlockRef::default(),
            root: ManifestRoot::default(),
        }
    }

    /// Adds the next entry; returns a block when one is full.
    pub fn push(&mut self, entry: &Entry) -> Result<Option<Block>, TreeError> {
        self.checker.push(entry)?;
        self.tree.push(entry);
        self.single.put(entry);
        self.exact.update(&self.single.take());

        if self.current.entries == 0 {
            entry.path.as_str().clone_into(&mut self.current.first);
        }
        self.block.put(entry);
        self.current.entries += 1;
        self.current.refs += entry.ref_count();
        if let Some(file) = entry.file() {
            self.root.files += 1;
            self.root.bytes = self.root.bytes.saturating_add(file.size);
        }
        Ok(self.is_full(entry.path.as_str()).then(|| self.end_block()))
    }

    fn is_full(&self, path: &str) -> bool {
        let entries = self.current.entries;
        entries >= MAX_ENTRIES
            || self.block.len() >= MAX_BYTES
            || (entries >= MIN_ENTRIES && fnv1a(path).is_multiple_of(AVERAGE_ENTRIES))
    }

    fn end_block(&mut self) -> Block {
        let records = self.block.take();
        let id = ChunkId::of(&records);
        let mut done = std::mem::take(&mut self.current);
        done.id = id;
        done.len = u32::try_from(records.len()).unwrap_or(u32::MAX);
        self.root.blocks.push(done);
        Block { id, records }
    }

    /// The last block, if one is begun, and the root.
    pub fn finish(mut self) -> (Option<Block>, ManifestRoot) {
        let last = (self.current.entries > 0).then(|| self.end_block());
        self.root.tree_digest = self.tree.finish();
        self.root.manifest_digest = ManifestDigest::from_bytes(*self.exact.finalize().as_bytes());
        (last, self.root)
    }
}

/// FNV-1a, 64 bits, folded: cheap and good enough to scatter block boundaries.
fn fnv1a(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FileNode, Mode, Mtime, RecordReader};
    use crate::{FileDigest, TreePath};

    fn file(index: usize, content: &str, secs: i64) -> Entry {
        let (size, sha256) = (content.len() as u64, FileDigest::of(content.as_bytes()));
        let chunk = super::super::ChunkRef {
            id: ChunkId::of(content.as_bytes()),
            len: u32::try_from(content.len()).unwrap(),
        };
        let mtime = Some(Mtime { secs, nanos: 7 });
        let node = Node::File(FileNode { mode: Mode::FILE, mtime, size, sha256, chunks: vec![chunk] });
        Entry { path: TreePath::new(format!("file{index:06}")).unwrap(), node }
    }

    fn build(entries: &[Entry]) -> (Vec<Block>, ManifestRoot) {
        let mut builder = ManifestBuilder::new(TreeLimits::default());
        let mut blocks: Vec<_> = entries.iter().filter_map(|e| builder.push(e).unwrap()).collect();
        let (last, root) = builder.finish();
        blocks.extend(last);
        (blocks, root)
    }

    fn tree(count: usize, edited: usize, secs: i64) -> Vec<Entry> {
        (0..count).map(|i| file(i, if i == edited { "edited" } else { "text" }, secs)).collect()
    }

    #[test]
    fn blocks_hold_all_entries_and_the_root_counts_them() {
        let entries = tree(5000, usize::MAX, 1);
        let (blocks, root) = build(&entries);
        let read: Vec<_> =
            blocks.iter().flat_map(|b| RecordReader::new(&b.records)).map(Result::unwrap).collect();
        assert!(read.iter().zip(&entries).all(|(r, e)| *r == super::super::Record::Put(e.clone())));
        assert_eq!((root.entries(), root.refs(), root.files, root.bytes), (5000, 5000, 5000, 20_000));
        assert!((5..=40).contains(&blocks.len()), "{}", blocks.len());
    }

    #[test]
    fn an_edit_changes_one_block() {
        let (before, _) = build(&tree(5000, usize::MAX, 1));
        let (after, _) = build(&tree(5000, 2500, 1));
        assert_eq!(after.iter().filter(|block| !before.contains(block)).count(), 1);
    }

    #[test]
    fn times_are_carried_but_not_part_of_any_digest() {
        let (blocks, one) = build(&tree(100, 3, 1));
        let (other, two) = build(&tree(100, 3, 2));
        assert_eq!((one.tree_digest, one.manifest_digest), (two.tree_digest, two.manifest_digest));
        assert_ne!(blocks, other);
        assert_ne!(one.tree_digest, build(&tree(100, 4, 1)).1.tree_digest);
    }

    #[test]
    fn the_tree_digest_is_the_documented_text() {
        let line = format!("F 0644 4 {} file000000\0", FileDigest::of(b"text"));
        let (_, root) = build(&tree(1, 9, 1));
        assert_eq!(root.tree_digest.as_bytes(), FileDigest::of(line.as_bytes()).as_bytes());
    }
}
