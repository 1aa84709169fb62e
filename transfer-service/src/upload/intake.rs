//! Taking chunks in: verified, stored once in a project, durable before a row says so.
//!
//! Runs on a thread that may block; the async side only forwards bytes.

use std::collections::HashSet;
use std::mem;

use bytes::Bytes;
use kkartifact_blob::{PackChunk, PackOwner, PackWriter};
use kkartifact_model::api::upload::ChunksReceived;
use kkartifact_model::manifest::{ChunkRef, FileNode};
use kkartifact_model::wire::{Part, StoredChunk, WireChunk, decompress};
use kkartifact_model::{ChunkId, Code, FileDigest, failpoint};
use kkartifact_service::recovery::pack_rows;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources};
use kkartifact_store::{ChunkLocation, NewPack};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use uuid::Uuid;

/// Takes chunks for one upload.
pub(super) struct Intake {
    resources: Resources,
    handle: Handle,
    app: AuthorizedApp,
    upload: Uuid,
    writer: Option<PackWriter>,
    /// What the open pack holds.
    in_pack: HashSet<ChunkId>,
    /// Chunks that another app of the project has already sent.
    links: Vec<(ChunkId, ChunkLocation)>,
    file: Option<FileHash>,
    /// Files of several chunks whose digests were computed on the way.
    files: Vec<([u8; 32], FileDigest)>,
    /// Chunks that are not yet recorded.
    pending: u64,
    counts: ChunksReceived,
}

/// The digest of a file whose chunks come by from first to last.
struct FileHash {
    content: Sha256,
    list: ListHash,
}

/// BLAKE3 over the ids of a file's chunks: what [`kkartifact_store::Tx::is_verified_file`] asks by.
#[derive(Default)]
pub(super) struct ListHash {
    ids: blake3::Hasher,
    count: u64,
}

impl ListHash {
    pub(super) fn of(chunks: &[ChunkRef]) -> [u8; 32] {
        let mut list = Self::default();
        for chunk in chunks {
            list.push(&chunk.id);
        }
        list.finish()
    }

    fn push(&mut self, id: &ChunkId) {
        self.ids.update(id.as_bytes());
        self.count += 1;
    }

    fn finish(&self) -> [u8; 32] {
        *self.ids.finalize().as_bytes()
    }
}

impl Intake {
    pub(super) fn new(resources: &Resources, app: AuthorizedApp, upload: Uuid) -> Self {
        Self {
            resources: resources.clone(),
            handle: Handle::current(),
            app,
            upload,
            writer: None,
            in_pack: HashSet::new(),
            links: Vec::new(),
            file: None,
            files: Vec::new(),
            pending: 0,
            counts: ChunksReceived::default(),
        }
    }

    /// Takes what came over the wire, if every chunk is what it is called.
    pub(super) fn take(&mut self, chunks: Vec<WireChunk>) -> ApiResult<()> {
        let mut verified = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let id = chunk.id.ok_or_else(|| ApiError::invalid("chunks must be sent with their ids"))?;
            if chunk.len == 0 || chunk.len > kkartifact_model::chunking::MAX_CHUNK {
                return Err(ApiError::invalid(format!("chunk {id} has {} bytes", chunk.len)));
            }
            let bytes = decompress(&chunk.stored, chunk.len)?;
            if ChunkId::of(&bytes) != id {
                let message =
                    format!("what was sent as chunk {id} is something else; nothing of it was kept");
                return Err(ApiError::new(Code::DigestMismatch, message));
            }
            self.counts.bytes += u64::from(chunk.len);
            let sha256 = self.follow_file(id, chunk.part, &bytes);
            verified.push(PackChunk { id, len: chunk.len, sha256, stored: chunk.stored });
        }
        self.store(verified)
    }

    /// Computes the digest of the file that the chunks make up, from its first to its last. The digest itself,
    /// if the file is this one chunk.
    fn follow_file(&mut self, id: ChunkId, part: Part, bytes: &Bytes) -> Option<FileDigest> {
        if part.first {
            self.file = Some(FileHash { content: Sha256::new(), list: ListHash::default() });
        }
        let file = self.file.as_mut()?;
        file.content.update(bytes);
        file.list.push(&id);
        if !part.last {
            return None;
        }
        let file = self.file.take()?;
        let sha256 = FileDigest::from_bytes(file.content.finalize().into());
        if file.list.count == 1 {
            return Some(sha256);
        }
        self.files.push((file.list.finish(), sha256));
        None
    }

    /// Stores chunks that the caller has made or verified. What the project has already is not stored again.
    pub(super) fn store(&mut self, chunks: Vec<PackChunk>) -> ApiResult<()> {
        self.counts.received += chunks.len() as u64;
        let mut ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let known = self.handle.block_on(async {
            let mut tx = self.resources.db.read().await?;
            tx.locate_chunks_in_project(self.app.project_id, self.app.id, &ids).await
        })?;
        let mut new = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            match known.get(&chunk.id) {
                Some(at) if at.own => self.counts.durable += 1,
                Some(at) => {
                    self.links.push((chunk.id, *at));
                    self.pending += 1;
                }
                None => {
                    self.pending += 1;
                    if self.in_pack.insert(chunk.id) {
                        new.push(chunk);
                    }
                }
            }
        }
        self.append(new)
    }

    /// Stores chunks that this process has made: they need no verification.
    pub(super) fn store_made(&mut self, chunks: Vec<StoredChunk>) -> ApiResult<()> {
        let pack_chunk = |c: StoredChunk| PackChunk { id: c.id, len: c.len, sha256: None, stored: c.stored };
        self.store(chunks.into_iter().map(pack_chunk).collect())
    }

    /// Notes the digest of a file that this process has just computed.
    pub(super) fn note_file(&mut self, file: &FileNode) {
        if file.chunks.len() > 1 {
            self.files.push((ListHash::of(&file.chunks), file.sha256));
        }
    }

    fn append(&mut self, chunks: Vec<PackChunk>) -> ApiResult<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        if self.writer.is_none() {
            let owner = PackOwner { project: self.app.project.clone(), app: self.app.name.clone() };
            self.writer = Some(self.handle.block_on(self.resources.blob.create_pack(owner))?);
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        self.handle.block_on(writer.append(chunks))?;
        if writer.is_full() { self.record() } else { Ok(()) }
    }

    /// Makes what was taken durable, and says so in the database.
    fn record(&mut self) -> ApiResult<()> {
        let sealed = match self.writer.take() {
            Some(writer) => Some(self.handle.block_on(writer.seal())?),
            None => None,
        };
        self.in_pack.clear();
        let (links, files) = (mem::take(&mut self.links), mem::take(&mut self.files));
        self.handle.block_on(async {
            let mut tx = self.resources.db.begin().await?;
            if let Some(pack) = &sealed {
                let chunks = pack_rows(&pack.entries);
                let (key, size) = (pack.key, pack.size);
                let (project, app) = (self.app.project_id, self.app.id);
                let new =
                    NewPack { key, element: self.resources.element, project, app, size, chunks: &chunks };
                let id = tx.insert_pack(&new, self.resources.clock.now()).await?;
                tx.pin_packs(self.upload, &[id]).await?;
            }
            if !links.is_empty() {
                let mut packs: Vec<_> = links.iter().map(|(_, at)| at.pack_id).collect();
                packs.sort_unstable();
                packs.dedup();
                // What is about to be collected is not there any more: the sender is told that it is missing.
                let gone = tx.lock_packs(&packs).await?;
                let links: Vec<_> = links.into_iter().filter(|(_, at)| !gone.contains(&at.pack_id)).collect();
                tx.link_chunks(self.app.id, &links).await?;
                packs.retain(|pack| !gone.contains(pack));
                tx.pin_packs(self.upload, &packs).await?;
            }
            for (list, sha256) in &files {
                tx.add_verified_file(list, sha256).await?;
            }
            tx.commit().await
        })?;
        failpoint::reach("pack.recorded");
        self.counts.durable += mem::take(&mut self.pending);
        Ok(())
    }

    /// Makes the rest durable.
    pub(super) fn finish(mut self) -> ApiResult<ChunksReceived> {
        if self.pending > 0 || !self.files.is_empty() {
            self.record()?;
        }
        metrics::counter!("kkartifact_received_bytes_total").increment(self.counts.bytes);
        Ok(self.counts)
    }
}
