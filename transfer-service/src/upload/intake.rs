//! Taking chunks in: verified, stored once in a project, durable before a row says so.
//!
//! Runs on a thread that may block; the async side only forwards bytes.

use std::collections::HashSet;
use std::mem;

use bytes::Bytes;
use kkartifact_blob::{MAX_CHUNKS, PackChunk, PackOwner, PackWriter, SealedPack};
use kkartifact_model::api::upload::ChunksReceived;
use kkartifact_model::manifest::{ChunkRef, FileNode};
use kkartifact_model::wire::{Part, StoredChunk, WireChunk, decompress};
use kkartifact_model::{ChunkId, Code, FileDigest, failpoint};
use kkartifact_service::recovery::pack_rows;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources};
use kkartifact_store::{ChunkLocation, NewPack, PackId, Tx};
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
    /// What has been taken since the last record: in the open pack, or to be linked.
    seen: HashSet<ChunkId>,
    /// Chunks that the project has already.
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
            seen: HashSet::new(),
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
            self.pending += 1;
            match (self.seen.insert(chunk.id), known.get(&chunk.id)) {
                // Also what the app has itself: the upload relies on it from now on.
                (true, Some(at)) => self.links.push((chunk.id, *at)),
                (true, None) => new.push(chunk),
                (false, _) => {}
            }
        }
        self.append(new)?;
        let full = self.writer.as_ref().is_some_and(PackWriter::is_full);
        if full || self.links.len().max(self.files.len()) >= MAX_CHUNKS { self.record() } else { Ok(()) }
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
        let appended = self.handle.block_on(writer.append(chunks));
        if appended.is_err() {
            // A pack that could not be written is not sealed: what it held has not been taken.
            self.writer = None;
        }
        Ok(appended?)
    }

    /// Makes what was taken durable, and says so in the database.
    fn record(&mut self) -> ApiResult<()> {
        let sealed = match self.writer.take() {
            Some(writer) => Some(self.handle.block_on(writer.seal())?),
            None => None,
        };
        self.seen.clear();
        let (links, mut files) = (mem::take(&mut self.links), mem::take(&mut self.files));
        files.sort_unstable();
        files.dedup();
        // One transaction for each kind of row, its rows in order: two uploads that bring the same never wait for
        // each other in a circle.
        self.handle.block_on(async {
            if let Some(pack) = &sealed {
                self.record_pack(pack).await?;
            }
            if !links.is_empty() {
                self.record_links(links).await?;
            }
            if !files.is_empty() {
                let mut tx = self.resources.db.begin().await?;
                for (list, sha256) in &files {
                    tx.add_verified_file(list, sha256).await?;
                }
                tx.commit().await?;
            }
            Ok::<_, ApiError>(())
        })?;
        failpoint::reach("pack.recorded");
        self.counts.durable += mem::take(&mut self.pending);
        Ok(())
    }

    async fn record_pack(&self, pack: &SealedPack) -> ApiResult<()> {
        let chunks = pack_rows(&pack.entries);
        let (key, size, element) = (pack.key, pack.size, self.resources.element);
        let (project, app) = (self.app.project_id, self.app.id);
        let mut tx = self.resources.db.begin().await?;
        let new = NewPack { key, element, project, app, size, chunks: &chunks };
        // Between sealing a pack and this, a process may hang for long. Then somebody may have adopted the pack like one
        // that a crash has left, and found that nothing needs it: it is claimed, or its object is gone and its row as
        // well. The look at the object comes last: nobody claims and removes what this transaction has recorded and
        // relies on.
        let Some(id) = tx.insert_pack(&new, self.resources.clock.now()).await? else {
            return Err(collected());
        };
        rely(&mut tx, &[id]).await?;
        if !self.resources.blob.has_pack(key).await? {
            return Err(collected());
        }
        self.pin(&mut tx, &[id]).await?;
        Ok(tx.commit().await?)
    }

    async fn record_links(&self, links: Vec<(ChunkId, ChunkLocation)>) -> ApiResult<()> {
        let mut packs: Vec<_> = links.iter().map(|(_, at)| at.pack_id).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut tx = self.resources.db.begin().await?;
        rely(&mut tx, &packs).await?;
        tx.link_chunks(self.app.id, &links).await?;
        self.pin(&mut tx, &packs).await?;
        Ok(tx.commit().await?)
    }

    /// Relies on packs until the upload ends, unless it has ended.
    async fn pin(&self, tx: &mut Tx, packs: &[PackId]) -> ApiResult<()> {
        let end = self.resources.upload_end();
        if tx.touch_upload(self.upload, end).await? {
            tx.pin_packs(self.upload, packs).await?;
        }
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

/// Relies on packs until the transaction ends. What is about to be collected is not there any more, and what was sent
/// of it was not kept: the sender tries again and is told that it is missing.
async fn rely(tx: &mut Tx, packs: &[PackId]) -> ApiResult<()> {
    if tx.lock_packs(packs).await?.is_empty() { Ok(()) } else { Err(collected()) }
}

fn collected() -> ApiError {
    ApiError::unavailable("storage is being tidied up; try again", "a pack was claimed")
}
