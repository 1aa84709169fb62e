//! Chunks on the wire and at rest: compressed where that is shorter, told apart by their lengths alone.

use bytes::Bytes;

use super::frame::{CHUNKS, ORDERED_CHUNKS, head};
use super::{BadStream, MAX_FRAME};
use crate::ChunkId;

/// Zstandard's fastest ordinary level: most of the gain for little time.
const LEVEL: i32 = 1;
/// What compression must save to be worth decompressing: one part in 16.
const WORTH: usize = 16;
/// Below this, frame overhead eats the gain.
const MIN_COMPRESS: usize = 64;

/// Compresses; reused, since setting one up costs more than a small chunk.
pub struct Compressor(Option<zstd::bulk::Compressor<'static>>);

impl Compressor {
    /// A compressor for one thread.
    pub fn new() -> Self {
        Self(zstd::bulk::Compressor::new(LEVEL).ok())
    }

    /// The compressed form, if it is worth it.
    pub fn compress(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() < MIN_COMPRESS {
            return None;
        }
        let compressed = self.0.as_mut()?.compress(bytes).ok()?;
        (compressed.len() <= bytes.len() - bytes.len() / WORTH).then_some(compressed)
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

/// The original bytes of what is stored: itself if it has the original's length, else decompressed. Never makes
/// more than `len` bytes.
pub fn decompress(stored: &Bytes, len: u32) -> Result<Bytes, BadStream> {
    let len = len as usize;
    if stored.len() == len {
        return Ok(stored.clone());
    }
    if stored.len() > len {
        return Err(BadStream("a chunk is longer than announced"));
    }
    match zstd::bulk::decompress(stored, len) {
        Ok(bytes) if bytes.len() == len => Ok(bytes.into()),
        _ => Err(BadStream("a chunk does not decompress to its length")),
    }
}

/// Which part of a file a chunk is, as the sender says it. A receiver that sees a file's chunks from first to
/// last can verify the file's own digest on the way instead of reading everything again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// The file begins with this chunk.
    pub first: bool,
    /// The file ends with this chunk.
    pub last: bool,
}

/// A chunk in the form in which it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its name.
    pub id: ChunkId,
    /// Bytes before compression.
    pub len: u32,
    /// The bytes: compressed if there are fewer than `len`.
    pub stored: Bytes,
}

impl StoredChunk {
    /// Names and, where worth it, compresses the bytes.
    pub fn new(compressor: &mut Compressor, bytes: &[u8]) -> Self {
        let stored = compressor.compress(bytes).map_or_else(|| Bytes::copy_from_slice(bytes), Bytes::from);
        Self { id: ChunkId::of(bytes), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), stored }
    }
}

/// A chunk as it came over the wire; nothing about it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireChunk {
    /// What the sender calls it; `None` in ordered streams.
    pub id: Option<ChunkId>,
    /// Which part of a file it is said to be.
    pub part: Part,
    /// Bytes before compression.
    pub len: u32,
    /// The bytes: compressed if there are fewer than `len`.
    pub stored: Bytes,
}

/// The bits of a length that tell the part; lengths are far below.
const FIRST: u32 = 1 << 31;
const LAST: u32 = 1 << 30;

/// Collects chunks for one frame.
#[derive(Debug)]
pub struct BatchWriter {
    with_ids: bool,
    count: u32,
    heads: Vec<u8>,
    data: Vec<u8>,
}

impl BatchWriter {
    /// For frames that name each chunk.
    pub fn with_ids() -> Self {
        Self { with_ids: true, count: 0, heads: Vec::new(), data: Vec::new() }
    }

    /// For frames whose order names the chunks.
    pub fn in_order() -> Self {
        Self { with_ids: false, ..Self::with_ids() }
    }

    /// Adds a chunk.
    pub fn push(&mut self, chunk: &StoredChunk, part: Part) {
        if self.with_ids {
            self.heads.extend_from_slice(chunk.id.as_bytes());
        }
        let part = if part.first { FIRST } else { 0 } | if part.last { LAST } else { 0 };
        self.heads.extend_from_slice(&(chunk.len | part).to_le_bytes());
        self.heads.extend_from_slice(&u32::try_from(chunk.stored.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.data.extend_from_slice(&chunk.stored);
        self.count += 1;
    }

    /// Bytes collected.
    pub fn len(&self) -> usize {
        self.heads.len() + self.data.len()
    }

    /// Whether nothing is collected.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The frame, in two parts; the writer is empty again.
    pub fn take(&mut self) -> [Bytes; 2] {
        let kind = if self.with_ids { CHUNKS } else { ORDERED_CHUNKS };
        let mut first = head(kind, 4 + self.len()).to_vec();
        first.extend_from_slice(&self.count.to_le_bytes());
        first.append(&mut self.heads);
        self.count = 0;
        [first.into(), std::mem::take(&mut self.data).into()]
    }
}

/// Reads the payload of a frame of chunks.
pub(super) fn decode(mut payload: Bytes, with_ids: bool) -> Result<Vec<WireChunk>, BadStream> {
    const CUT: BadStream = BadStream("a frame of chunks is cut short");
    let head = if with_ids { 40 } else { 8 };
    let count = take(&mut payload, 4).map(|b| number(&b)).ok_or(CUT)? as usize;
    let heads = count.checked_mul(head).and_then(|len| take(&mut payload, len)).ok_or(CUT)?;
    let mut chunks = Vec::with_capacity(count);
    for head in heads.chunks_exact(head) {
        let (id, lengths) = head.split_at(head.len() - 8);
        let (len, stored) = (number(&lengths[..4]), number(&lengths[4..]));
        let part = Part { first: len & FIRST != 0, last: len & LAST != 0 };
        let len = len & !(FIRST | LAST);
        if len as usize > MAX_FRAME || stored > len {
            return Err(BadStream("a chunk has an impossible length"));
        }
        let stored = take(&mut payload, stored as usize).ok_or(CUT)?;
        chunks.push(WireChunk { id: ChunkId::try_from(id).ok(), part, len, stored });
    }
    if payload.is_empty() { Ok(chunks) } else { Err(BadStream("bytes behind the chunks")) }
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_is_compressed_and_comes_back() {
        let mut compressor = Compressor::new();
        let text = b"text ".repeat(100);
        let chunk = StoredChunk::new(&mut compressor, &text);
        assert!(chunk.stored.len() < 100);
        assert_eq!(decompress(&chunk.stored, chunk.len).unwrap(), text);
        let mut noise = [0; 5000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(StoredChunk::new(&mut compressor, &noise).stored.len(), 5000);
    }

    #[test]
    fn a_bomb_or_a_lie_about_the_length_is_refused() {
        let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 50 << 20], 3).unwrap());
        assert!(decompress(&bomb, 1 << 20).is_err());
        let honest = Bytes::from(zstd::bulk::compress(&[0; 1000], 3).unwrap());
        assert!(decompress(&honest, 999).is_err() && decompress(&honest, 1001).is_err());
        assert!(decompress(&honest, 3).is_err());
        assert_eq!(decompress(&honest, 1000).unwrap().len(), 1000);
    }
}
