//! The root of a manifest: its table of contents.

use super::Malformed;
use super::varint::{Cursor, put};
use crate::{ChunkId, ManifestDigest, TreeDigest};

const MAGIC: &[u8; 4] = b"kkm1";

/// The root: what the version row points to. Stored as a chunk of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRoot {
    /// The blocks in path order.
    pub blocks: Vec<BlockRef>,
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// What makes the manifest the same, chunks included.
    pub manifest_digest: ManifestDigest,
}

/// One block as the root knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRef {
    /// BLAKE3 of the records.
    pub id: ChunkId,
    /// Bytes of the records.
    pub len: u32,
    /// How many entries.
    pub entries: u32,
    /// How many chunks the entries refer to.
    pub refs: u64,
    /// The first entry's path.
    pub first: String,
}

impl Default for BlockRef {
    fn default() -> Self {
        Self { id: ChunkId::from_bytes([0; 32]), len: 0, entries: 0, refs: 0, first: String::new() }
    }
}

impl Default for ManifestRoot {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            files: 0,
            bytes: 0,
            tree_digest: TreeDigest::from_bytes([0; 32]),
            manifest_digest: ManifestDigest::from_bytes([0; 32]),
        }
    }
}

impl ManifestRoot {
    /// Entries of all blocks.
    pub fn entries(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.entries)).sum()
    }

    /// Chunk references of all blocks: one more than the largest index of a [`super::RefSet`].
    pub fn refs(&self) -> u64 {
        self.blocks.iter().map(|block| block.refs).sum()
    }

    /// The index of the block that holds `path` if any does.
    pub fn block_of(&self, path: &str) -> Option<usize> {
        self.blocks.partition_point(|block| crate::path::compare(&block.first, path).is_le()).checked_sub(1)
    }

    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(self.tree_digest.as_bytes());
        out.extend_from_slice(self.manifest_digest.as_bytes());
        put(&mut out, self.files);
        put(&mut out, self.bytes);
        put(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            out.extend_from_slice(block.id.as_bytes());
            put(&mut out, block.len.into());
            put(&mut out, block.entries.into());
            put(&mut out, block.refs);
            put(&mut out, block.first.len() as u64);
            out.extend_from_slice(block.first.as_bytes());
        }
        out
    }

    /// Reads the binary form.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.bytes(4)? != MAGIC {
            return Err(Malformed("not a manifest root"));
        }
        let tree_digest = TreeDigest::from_bytes(cursor.array()?);
        let manifest_digest = ManifestDigest::from_bytes(cursor.array()?);
        let (files, bytes) = (cursor.varint()?, cursor.varint()?);
        let count = cursor.count(36)?;
        let blocks = (0..count).map(|_| block(&mut cursor)).collect::<Result<Vec<_>, Malformed>>()?;
        if !cursor.is_empty() {
            return Err(Malformed("bytes behind the end"));
        }
        Ok(Self { blocks, files, bytes, tree_digest, manifest_digest })
    }
}

fn block(cursor: &mut Cursor<'_>) -> Result<BlockRef, Malformed> {
    let id = ChunkId::from_bytes(cursor.array()?);
    let (len, entries, refs) = (cursor.number()?, cursor.number()?, cursor.varint()?);
    let first = cursor.number()?;
    Ok(BlockRef { id, len, entries, refs, first: cursor.text(first)?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> ManifestRoot {
        let block = |first: &str| BlockRef {
            first: first.into(),
            entries: 3,
            refs: 9,
            len: 70,
            ..BlockRef::default()
        };
        ManifestRoot {
            blocks: vec![block("a"), block("a/b"), block("c")],
            files: 8,
            bytes: 1 << 40,
            ..ManifestRoot::default()
        }
    }

    #[test]
    fn roots_round_trip_and_cut_ones_are_refused() {
        let bytes = root().encode();
        assert_eq!(ManifestRoot::decode(&bytes).unwrap(), root());
        for cut in 0..bytes.len() {
            assert!(ManifestRoot::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_path_is_looked_for_in_the_one_block_that_can_hold_it() {
        for (path, index) in [
            ("0", None),
            ("a", Some(0)),
            ("a/b", Some(1)),
            ("a/z/z", Some(1)),
            ("a.txt", Some(1)),
            ("c", Some(2)),
            ("z", Some(2)),
        ] {
            assert_eq!(root().block_of(path), index, "{path}");
        }
    }
}
