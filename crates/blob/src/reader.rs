//! Reading chunks, verified.

use bytes::Bytes;
use kkartifact_model::{ChunkId, wire};
use uuid::Uuid;

use crate::error::BlobError;
use crate::store::{BlobStore, blocking};

/// Where a chunk is, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkAt {
    /// Its name.
    pub id: ChunkId,
    /// The pack that holds it.
    pub pack: Uuid,
    /// Where its stored bytes begin.
    pub offset: u64,
    /// How many bytes are stored.
    pub stored_len: u32,
    /// Bytes before compression.
    pub len: u32,
}

/// Chunks that lie beside each other are read together, up to so many bytes.
const RUN: u64 = 1 << 20;

impl ChunkAt {
    /// The original bytes of the chunk, if `stored` really is it.
    fn verify(&self, stored: &Bytes) -> Result<Bytes, BlobError> {
        let damaged = |why| BlobError::Damaged(format!("chunk {} in pack {}", self.id, self.pack), why);
        let bytes = wire::decompress(stored, self.len).map_err(|error| damaged(error.0))?;
        if ChunkId::of(&bytes) == self.id {
            Ok(bytes)
        } else {
            Err(damaged("its bytes don't match its digest"))
        }
    }
}

impl BlobStore {
    /// The original bytes of a chunk, verified against its digest.
    pub async fn read_chunk(&self, at: &ChunkAt) -> Result<Bytes, BlobError> {
        let stored = self.read(at.pack, at.offset, u64::from(at.stored_len)).await?;
        at.verify(&stored)
    }

    /// The original bytes of chunks, verified, in the order given. Neighbours are read together; callers bound
    /// the number.
    pub async fn read_chunks(&self, chunks: &[ChunkAt]) -> Result<Vec<Bytes>, BlobError> {
        let stored = self.read_stored(chunks).await?;
        let chunks = chunks.to_vec();
        let verify = move || chunks.iter().zip(&stored).map(|(at, stored)| at.verify(stored)).collect();
        blocking("verifying chunks", verify).await
    }

    /// The stored bytes of chunks, each of them verified: for whoever writes them elsewhere.
    pub async fn read_verified(&self, chunks: &[ChunkAt]) -> Result<Vec<Bytes>, BlobError> {
        let stored = self.read_stored(chunks).await?;
        let chunks = chunks.to_vec();
        let verify = move || {
            let verified =
                chunks.iter().zip(&stored).try_for_each(|(at, stored)| at.verify(stored).map(drop));
            verified.map(|()| stored)
        };
        blocking("verifying chunks", verify).await
    }

    /// The stored bytes of chunks as they are: for receivers that verify them themselves.
    pub async fn read_stored(&self, chunks: &[ChunkAt]) -> Result<Vec<Bytes>, BlobError> {
        let mut out = Vec::with_capacity(chunks.len());
        let mut rest = chunks;
        while !rest.is_empty() {
            let (run, tail) = rest.split_at(neighbours(rest));
            let (first, last) = (run[0], run[run.len() - 1]);
            let end = last.offset + u64::from(last.stored_len);
            let bytes = self.read(first.pack, first.offset, end - first.offset).await?;
            for at in run {
                let start = usize::try_from(at.offset - first.offset).unwrap_or(usize::MAX);
                out.push(bytes.slice(start..start + at.stored_len as usize));
            }
            rest = tail;
        }
        Ok(out)
    }
}

/// How many chunks from the start lie one behind the other in one pack, within [`RUN`] bytes.
fn neighbours(chunks: &[ChunkAt]) -> usize {
    let mut end = chunks[0].offset;
    chunks
        .iter()
        .take_while(|at| {
            let joins = at.pack == chunks[0].pack && at.offset == end;
            end = at.offset + u64::from(at.stored_len);
            joins && (end - chunks[0].offset <= RUN || at.offset == chunks[0].offset)
        })
        .count()
        .max(1)
}
