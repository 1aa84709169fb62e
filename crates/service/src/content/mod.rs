//! Reading what apps have: manifests and chunks, through a cache that is bounded in bytes.

mod entries;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kkartifact_blob::{BlobError, BlobStore, ChunkAt};
use kkartifact_model::manifest::{BlockRef, ChunkRef, Entry, ManifestRoot, Record, RecordReader};
use kkartifact_model::{ChunkId, TreePath};
use kkartifact_store::{AppId, ChunkLocation, Database};
use moka::sync::Cache;

use crate::error::{ApiError, ApiResult};

pub use entries::Entries;

/// Manifests and chunks of apps. Every look-up names the app: what another app has is not there.
#[derive(Clone)]
pub struct Content {
    db: Database,
    blob: BlobStore,
    /// Blocks as they are encoded.
    blocks: Cache<(AppId, ChunkId), Bytes>,
    roots: Cache<(AppId, ChunkId), Arc<ManifestRoot>>,
}

/// In which form chunks are read.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// As they were before compression, verified.
    Original,
    /// As they are stored: the receiver verifies them.
    Stored,
}

/// What a block of a root costs in memory, about.
const BLOCK_REF: usize = 200;

impl Content {
    pub(crate) fn new(db: Database, blob: BlobStore, cache_bytes: u64) -> Self {
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let blocks = Cache::builder()
            .max_capacity(cache_bytes / 2)
            .weigher(move |_, block: &Bytes| weight(block.len() + 100))
            .build();
        let roots = Cache::builder()
            .max_capacity(cache_bytes / 2)
            .weigher(move |_, root: &Arc<ManifestRoot>| weight(root.blocks.len() * BLOCK_REF + 100))
            .build();
        Self { db, blob, blocks, roots }
    }

    /// Where an app's chunks are; those that it has not are absent. Callers bound the number of ids.
    pub async fn locate(&self, app: AppId, ids: &[ChunkId]) -> ApiResult<HashMap<ChunkId, ChunkLocation>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut tx = self.db.read().await?;
        let found = tx.locate_chunks(app, ids).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Where an app's chunks are, in the order asked; an error if it has not one of them. Callers bound the number.
    pub async fn places(&self, app: AppId, ids: &[ChunkId]) -> ApiResult<Vec<ChunkAt>> {
        let found = self.locate(app, ids).await?;
        let place = |id: &ChunkId| found.get(id).map(|at| chunk_at(*id, at)).ok_or_else(|| missing(*id));
        ids.iter().map(place).collect()
    }

    /// A chunk of an app, verified.
    pub async fn chunk(&self, app: AppId, id: ChunkId) -> ApiResult<Bytes> {
        self.read_chunks(app, &[id]).await?.pop().ok_or_else(|| missing(id))
    }

    /// The original bytes of an app's chunks, verified, in the order asked. Callers bound the number and the bytes.
    pub async fn read_chunks(&self, app: AppId, ids: &[ChunkId]) -> ApiResult<Vec<Bytes>> {
        let places = self.places(app, ids).await?;
        self.read(app, &places, Form::Original).await
    }

    /// The stored bytes of an app's chunks, whose places [`Content::places`] gave a while ago, in their order: for
    /// receivers that verify them themselves. Callers bound the bytes.
    pub async fn read_stored(&self, app: AppId, places: &[ChunkAt]) -> ApiResult<Vec<Bytes>> {
        self.read(app, places, Form::Stored).await
    }

    /// Reads chunks where they were found. If a pack has gone since, its chunks have been moved to another one: they are
    /// looked up again, once.
    async fn read(&self, app: AppId, places: &[ChunkAt], form: Form) -> ApiResult<Vec<Bytes>> {
        match self.try_read(places, form).await {
            Err(BlobError::NotFound(_)) => {
                let ids: Vec<_> = places.iter().map(|at| at.id).collect();
                let places = self.places(app, &ids).await?;
                Ok(self.try_read(&places, form).await?)
            }
            read => Ok(read?),
        }
    }

    async fn try_read(&self, places: &[ChunkAt], form: Form) -> Result<Vec<Bytes>, BlobError> {
        match form {
            Form::Original => self.blob.read_chunks(places).await,
            Form::Stored => self.blob.read_stored(places).await,
        }
    }

    /// The root of a manifest.
    pub async fn root(&self, app: AppId, id: ChunkId) -> ApiResult<Arc<ManifestRoot>> {
        if let Some(root) = self.roots.get(&(app, id)) {
            return Ok(root);
        }
        let root = Arc::new(ManifestRoot::decode(&self.chunk(app, id).await?).map_err(ApiError::internal)?);
        self.roots.insert((app, id), root.clone());
        Ok(root)
    }

    /// The records of a block.
    pub async fn block(&self, app: AppId, block: &BlockRef) -> ApiResult<Bytes> {
        if let Some(records) = self.blocks.get(&(app, block.id)) {
            return Ok(records);
        }
        let records = self.chunk(app, block.id).await?;
        self.blocks.insert((app, block.id), records.clone());
        Ok(records)
    }

    /// The entry at a path.
    pub async fn find(&self, app: AppId, root: &ManifestRoot, path: &TreePath) -> ApiResult<Option<Entry>> {
        let Some(index) = root.block_of(path.as_str()) else { return Ok(None) };
        let records = self.block(app, &root.blocks[index]).await?;
        let found = decode(&records)?.into_iter().find(|entry| entry.path == *path);
        Ok(found)
    }

    /// The entries of a manifest in path order, for a thread that may block.
    pub fn entries(&self, app: AppId, root: Arc<ManifestRoot>) -> Entries {
        Entries::new(self.clone(), app, root)
    }
}

/// The entries of a block. A block that was stored and can't be read is our fault.
pub fn decode(records: &[u8]) -> ApiResult<Vec<Entry>> {
    let entry = |record| match record {
        Ok(Record::Put(entry)) => Ok(entry),
        Ok(_) => Err(ApiError::internal("a stored manifest has a record that is not an entry")),
        Err(error) => Err(ApiError::internal(error)),
    };
    RecordReader::new(records).map(entry).collect()
}

/// How many chunks from the start are read together: as many as have so many bytes, but at least one.
pub fn together(chunks: &[ChunkRef], bytes: u64) -> usize {
    let mut sum = 0;
    let fits = |chunk: &&ChunkRef| {
        sum += u64::from(chunk.len);
        sum <= bytes
    };
    chunks.iter().take_while(fits).count().max(1).min(chunks.len())
}

/// A chunk's place for the content store.
fn chunk_at(id: ChunkId, at: &ChunkLocation) -> ChunkAt {
    ChunkAt { id, pack: at.pack, offset: at.offset, stored_len: at.stored_len, len: at.len }
}

/// A chunk that a manifest names and no row knows.
fn missing(id: ChunkId) -> ApiError {
    ApiError::internal(format!("chunk {id} of a stored manifest has no place"))
}

#[cfg(test)]
mod tests;
