//! Where files are cut into chunks: content-defined chunking, so that an edit moves about the edit.
//!
//! `FastCDC` (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems", 2020) as the `fastcdc` crate implements it. Both sides must cut alike to share chunks, so the sizes
//! are constants of the format.

use fastcdc::v2020::FastCDC;

/// The most bytes of a chunk of a file.
pub const MAX_CHUNK: u32 = 4 << 20;
/// A file of at most this size is one chunk: below it, an edit moves about as much as its neighbourhood.
pub const WHOLE_FILE: u64 = 64 << 10;
/// Up to this size a file is cut into chunks of 32 KiB on average; beyond, the average doubles with the size, so
/// that the chunk list stays below about 200,000 entries until the average reaches 1 MiB.
const FINE_UP_TO: u64 = 4 << 30;
const FINE_AVERAGE: u32 = 32 << 10;

/// The sizes for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// The fewest bytes, except at a file's end.
    pub min: u32,
    /// What cut points aim at.
    pub average: u32,
    /// The most bytes.
    pub max: u32,
}

impl ChunkSizes {
    /// The sizes for a file of so many bytes.
    pub fn for_file(size: u64) -> Self {
        let mut average = FINE_AVERAGE;
        let mut reach = FINE_UP_TO;
        while reach < size && average < MAX_CHUNK / 4 {
            average *= 2;
            reach *= 2;
        }
        Self { min: average / 2, average, max: average * 4 }
    }

    /// The length of the first chunk of `data`. `data` holds at least [`Self::max`] bytes, or all that is left.
    pub fn cut(self, data: &[u8]) -> usize {
        let window = &data[..data.len().min(self.max as usize)];
        let cutter = FastCDC::new(window, self.min as usize, self.average as usize, self.max as usize);
        cutter.cut(0, window.len()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without pattern, the same at every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut out);
        out
    }

    fn cut_all(data: &[u8]) -> Vec<&[u8]> {
        let sizes = ChunkSizes::for_file(data.len() as u64);
        let (mut rest, mut chunks) = (data, Vec::new());
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(sizes.cut(rest));
            chunks.push(chunk);
            rest = tail;
        }
        chunks
    }

    #[test]
    fn chunks_keep_their_bounds_and_an_edit_changes_few() {
        let old = noise(4 << 20);
        let mut new = old.clone();
        new.splice(2_000_000..2_000_000, *b"an insertion");
        let (old, new) = (cut_all(&old), cut_all(&new));
        assert!(old[..old.len() - 1].iter().all(|c| (16 << 10..=128 << 10).contains(&c.len())));
        assert!(old.len() > 60, "{}", old.len());
        let changed = new.iter().filter(|chunk| !old.contains(chunk)).count();
        assert!(changed <= 3, "{changed}");
    }

    #[test]
    fn large_files_have_larger_chunks_within_the_limit() {
        assert_eq!(ChunkSizes::for_file(4 << 30).average, 32 << 10);
        assert_eq!(ChunkSizes::for_file((4 << 30) + 1).average, 64 << 10);
        assert_eq!(ChunkSizes::for_file(u64::MAX).max, MAX_CHUNK);
    }

    #[test]
    fn a_buffer_that_ends_is_cut_at_its_end() {
        let sizes = ChunkSizes::for_file(100_000);
        assert_eq!(sizes.cut(b"short"), 5);
    }
}
