//! A manifest in a file: blocks one after the other, then the root, so that neither writing nor reading ever
//! holds more than a block.
//!
//! ```text
//! file    = block* root offset* trailer
//! trailer = root-len (8) blocks (8) BLAKE3 of root and offsets (32) magic (8)
//! ```

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{
    Block, Entry, ManifestBuilder, ManifestRoot, Record, RecordReader, TreeLimits,
};
use kkartifact_model::wire::{Compressor, decompress};

use crate::error::{AgentError, Kind, Result};

const MAGIC: &[u8; 8] = b"kkmanif1";
const TRAILER: u64 = 56;

/// Limits of trees that this host made or has accepted: the server has its own.
pub const LOCAL_LIMITS: TreeLimits =
    TreeLimits { entries: u64::MAX, file_size: u64::MAX, tree_size: u64::MAX };

/// A manifest that is being written.
pub struct ManifestWriter {
    path: PathBuf,
    out: BufWriter<File>,
    builder: ManifestBuilder,
    compressor: Compressor,
    offsets: Vec<u64>,
    offset: u64,
}

impl ManifestWriter {
    /// Begins a manifest in a new file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(AgentError::io(format!("creating {}", path.display())))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 18, file),
            builder: ManifestBuilder::new(LOCAL_LIMITS),
            compressor: Compressor::new(),
            offsets: Vec::new(),
            offset: 0,
        })
    }

    /// Adds the next entry in path order.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        match self.builder.push(entry)? {
            Some(block) => self.block(&block),
            None => Ok(()),
        }
    }

    fn block(&mut self, block: &Block) -> Result<()> {
        let stored = self.compressor.compress(&block.records);
        let stored = stored.as_deref().unwrap_or(&block.records);
        self.write(stored)?;
        self.offsets.push(self.offset);
        self.offset += stored.len() as u64;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(AgentError::io(format!("writing {}", self.path.display())))
    }

    /// Ends the manifest and opens it for reading.
    pub fn finish(mut self) -> Result<ManifestFile> {
        let builder = std::mem::replace(&mut self.builder, ManifestBuilder::new(LOCAL_LIMITS));
        let (last, root) = builder.finish();
        if let Some(block) = last {
            self.block(&block)?;
        }
        let mut index = root.encode();
        let root_len = index.len() as u64;
        for offset in self.offsets.iter().chain([&self.offset]) {
            index.extend_from_slice(&offset.to_le_bytes());
        }
        let digest = blake3::hash(&index);
        self.write(&index)?;
        self.write(&root_len.to_le_bytes())?;
        self.write(&(self.offsets.len() as u64).to_le_bytes())?;
        self.write(digest.as_bytes())?;
        self.write(MAGIC)?;
        self.out.flush().map_err(AgentError::io(format!("writing {}", self.path.display())))?;
        ManifestFile::open(&self.path)
    }
}

/// A manifest in a file.
#[derive(Debug, Clone)]
pub struct ManifestFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    root: ManifestRoot,
    /// Where each block begins, and where the last one ends.
    offsets: Vec<u64>,
    /// The place of each block's first entry.
    first_entries: Vec<u64>,
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl ManifestFile {
    /// Opens a manifest; an error if it was cut or its index was changed.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(AgentError::io(format!("opening {}", path.display())))?;
        let damaged = || AgentError::new(Kind::Invalid, format!("{} is damaged", path.display()));
        let read = |offset: u64, len: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged())?];
            file.read_exact_at(&mut bytes, offset).map_err(|_| damaged())?;
            Ok(bytes)
        };
        let size = file.metadata().map_err(AgentError::io("looking at a manifest"))?.len();
        let trailer_at = size.checked_sub(TRAILER).ok_or_else(damaged)?;
        let trailer = read(trailer_at, TRAILER)?;
        let number = |at: usize| little_endian(&trailer[at..]);
        let (root_len, blocks) = (number(0), number(8));
        let index_len = blocks.checked_add(1).and_then(|n| n.checked_mul(8)?.checked_add(root_len));
        let index_len = index_len.filter(|len| *len <= trailer_at).ok_or_else(damaged)?;
        let index = read(trailer_at - index_len, index_len)?;
        if trailer[48..] != MAGIC[..] || trailer[16..48] != blake3::hash(&index).as_bytes()[..] {
            return Err(damaged());
        }
        let (root, offsets) = index.split_at(usize::try_from(root_len).map_err(|_| damaged())?);
        let offsets: Vec<u64> = offsets.chunks_exact(8).map(little_endian).collect();
        let root = ManifestRoot::decode(root)?;
        if root.blocks.len() + 1 != offsets.len() {
            return Err(damaged());
        }
        let mut next = 0;
        let first_entries = root.blocks.iter().map(|block| {
            let first = next;
            next += u64::from(block.entries);
            first
        });
        let first_entries = first_entries.collect();
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), file, root, offsets, first_entries }) })
    }

    /// The root.
    pub fn root(&self) -> &ManifestRoot {
        &self.inner.root
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether every block is what the root says.
    pub fn is_intact(&self) -> bool {
        let blocks = &self.root().blocks;
        (0..blocks.len())
            .all(|at| self.records(at).is_ok_and(|records| ChunkId::of(&records) == blocks[at].id))
    }

    /// The records of a block.
    pub fn records(&self, block: usize) -> Result<Bytes> {
        let inner = &self.inner;
        let damaged = || AgentError::new(Kind::Invalid, format!("{} is damaged", inner.path.display()));
        let (start, end) = (inner.offsets[block], inner.offsets[block + 1]);
        let len = end.checked_sub(start).and_then(|len| usize::try_from(len).ok()).ok_or_else(damaged)?;
        let mut stored = vec![0; len];
        inner.file.read_exact_at(&mut stored, start).map_err(|_| damaged())?;
        decompress(&stored.into(), inner.root.blocks[block].len).map_err(|_| damaged())
    }

    /// The entries of a block.
    pub fn block(&self, block: usize) -> Result<Vec<Entry>> {
        let records = self.records(block)?;
        let entries = RecordReader::new(&records).map(|record| match record? {
            Record::Put(entry) => Ok(entry),
            _ => Err(AgentError::new(Kind::Invalid, format!("{} is damaged", self.path().display()))),
        });
        entries.collect()
    }

    /// The entry of this place in path order.
    pub fn entry_at(&self, ordinal: u64) -> Result<Entry> {
        let firsts = &self.inner.first_entries;
        let block = firsts.partition_point(|first| *first <= ordinal).saturating_sub(1);
        let place = usize::try_from(ordinal - firsts.get(block).copied().unwrap_or(0)).unwrap_or(usize::MAX);
        let outside = || AgentError::new(Kind::Failed, "an entry beyond the last was asked for");
        if block >= self.root().blocks.len() {
            return Err(outside());
        }
        self.block(block)?.into_iter().nth(place).ok_or_else(outside)
    }

    /// All entries in path order.
    pub fn entries(&self) -> Entries {
        Entries { manifest: self.clone(), next: 0, block: Vec::new().into_iter() }
    }
}

/// The entries of a manifest file. Holds one block.
pub struct Entries {
    manifest: ManifestFile,
    next: usize,
    block: std::vec::IntoIter<Entry>,
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.block.next() {
                return Some(Ok(entry));
            }
            if self.next == self.manifest.root().blocks.len() {
                return None;
            }
            match self.manifest.block(self.next) {
                Ok(block) => self.block = block.into_iter(),
                Err(error) => {
                    self.next = self.manifest.root().blocks.len();
                    return Some(Err(error));
                }
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kkartifact_model::TreePath;
    use kkartifact_model::manifest::{Mode, Node};

    fn entries(count: usize) -> Vec<Entry> {
        let entry = |i| Entry {
            path: TreePath::new(format!("d{i:05}")).unwrap(),
            node: Node::Directory { mode: Mode::EXECUTABLE },
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn what_is_written_is_read_and_found() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, 3000] {
            let path = dir.path().join("m");
            let mut writer = ManifestWriter::create(&path).unwrap();
            for entry in entries(count) {
                writer.push(&entry).unwrap();
            }
            let file = writer.finish().unwrap();
            let read: Vec<_> = file.entries().collect::<Result<_>>().unwrap();
            assert_eq!(read, entries(count));
            assert_eq!(file.root().entries(), count as u64);
            assert!(file.is_intact());
            assert!((0..count).step_by(7).all(|i| file.entry_at(i as u64).unwrap() == entries(count)[i]));
            assert!(file.entry_at(count as u64).is_err());
        }
    }

    #[test]
    fn a_cut_or_changed_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut writer = ManifestWriter::create(&path).unwrap();
        for entry in entries(300) {
            writer.push(&entry).unwrap();
        }
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(ManifestFile::open(&path).unwrap_err().kind, Kind::Invalid);
        }
        let mut bad = whole.clone();
        let at = whole.len() - 100;
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(ManifestFile::open(&path).is_err());
        let mut bad = whole;
        bad[40] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(!ManifestFile::open(&path).is_ok_and(|file| file.is_intact()));
    }
}
