//! Before a version is published: is all of its content there, and is it what the manifest claims?

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kkartifact_model::manifest::{ChunkRef, Entry, FileNode, ManifestRoot};
use kkartifact_model::{ChunkId, Code, FileDigest};
use kkartifact_service::content::together;
use kkartifact_service::{ApiError, ApiResult, Content, Resources};
use kkartifact_store::{AppId, ChunkLocation, Database, PackId, VersionPack};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::intake::ListHash;

/// Entries are verified together until they have so many chunk references.
const BATCH: usize = 1000;
/// Chunks of a file are read together up to so many bytes.
const READ: u64 = 1 << 20;

/// Verifies the content of a manifest and tells which chunks of which packs it needs. Runs on a thread that may
/// block.
pub(super) fn verify(
    resources: &Resources,
    app: AppId,
    root_id: ChunkId,
    root: &Arc<ManifestRoot>,
) -> ApiResult<Vec<VersionPack>> {
    let mut verifier = Verifier {
        content: resources.content.clone(),
        db: resources.db.clone(),
        handle: Handle::current(),
        app,
        entries: Vec::new(),
        refs: 0,
        missing: 0,
        packs: BTreeMap::new(),
    };
    verifier.use_own(&[root_id])?;
    for blocks in root.blocks.chunks(BATCH) {
        verifier.use_own(&blocks.iter().map(|block| block.id).collect::<Vec<_>>())?;
    }
    for entry in resources.content.entries(app, root.clone()) {
        verifier.push(entry?)?;
    }
    verifier.finish()
}

struct Verifier {
    content: Content,
    db: Database,
    handle: Handle,
    app: AppId,
    entries: Vec<Entry>,
    refs: usize,
    missing: u64,
    /// One bit per chunk that is needed.
    packs: BTreeMap<PackId, Vec<u8>>,
}

impl Verifier {
    fn push(&mut self, entry: Entry) -> ApiResult<()> {
        if let Some(file) = entry.file() {
            self.refs += file.chunks.len().max(1);
            self.entries.push(entry);
        }
        if self.refs >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> ApiResult<()> {
        let entries = std::mem::take(&mut self.entries);
        self.refs = 0;
        let files: Vec<_> = entries.iter().filter_map(|e| Some((e.path.as_str(), e.file()?))).collect();
        let mut ids: Vec<_> = files.iter().flat_map(|(_, file)| file.chunks.iter().map(|c| c.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = self.use_chunks(&ids)?;
        let mut unproven = Vec::new();
        for (path, file) in files {
            if self.is_there(path, file, &found)? && !proven_by_row(path, file, &found)? {
                unproven.push((path, file));
            }
        }
        // Reading is pointless while something is missing.
        if self.missing > 0 { Ok(()) } else { self.prove(&unproven) }
    }

    /// Looks chunks up and notes that the version needs them.
    fn use_chunks(&mut self, ids: &[ChunkId]) -> ApiResult<HashMap<ChunkId, ChunkLocation>> {
        let found = self.handle.block_on(self.content.locate(self.app, ids))?;
        for at in found.values() {
            let bits = self.packs.entry(at.pack_id).or_default();
            let (byte, bit) = (at.ordinal as usize / 8, at.ordinal % 8);
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            bits[byte] |= 1 << bit;
        }
        Ok(found)
    }

    /// The same for what the server has made of the manifest. What is cached can be read without being stored, and a
    /// version must not be published whose manifest is not.
    fn use_own(&mut self, ids: &[ChunkId]) -> ApiResult<()> {
        let found = self.use_chunks(ids)?;
        if ids.iter().all(|id| found.contains_key(id)) {
            return Ok(());
        }
        let message = "the manifest of this upload is not stored any more; send it again and finish";
        Err(ApiError::new(Code::UploadIncomplete, message))
    }

    fn is_there(
        &mut self,
        path: &str,
        file: &FileNode,
        found: &HashMap<ChunkId, ChunkLocation>,
    ) -> ApiResult<bool> {
        let before = self.missing;
        for chunk in &file.chunks {
            match found.get(&chunk.id) {
                None => self.missing += 1,
                Some(at) if at.len != chunk.len => {
                    let message =
                        format!("{path}: chunk {} has {} bytes, not {}", chunk.id, at.len, chunk.len);
                    return Err(ApiError::new(Code::InvalidManifest, message));
                }
                Some(_) => {}
            }
        }
        Ok(self.missing == before)
    }

    /// Finds files whose digests nobody has checked, reads them and remembers the result.
    fn prove(&mut self, files: &[(&str, &FileNode)]) -> ApiResult<()> {
        if files.is_empty() {
            return Ok(());
        }
        let known = self.handle.block_on(async {
            let mut tx = self.db.read().await?;
            let mut known = Vec::with_capacity(files.len());
            for (_, file) in files {
                known.push(tx.is_verified_file(&ListHash::of(&file.chunks), &file.sha256).await?);
            }
            Ok::<_, ApiError>(known)
        })?;
        let mut proven = Vec::new();
        for ((path, file), _) in files.iter().zip(known).filter(|(_, known)| !known) {
            let sha256 = self.read(&file.chunks)?;
            check(path, file, sha256)?;
            proven.push((ListHash::of(&file.chunks), sha256));
        }
        if proven.is_empty() {
            return Ok(());
        }
        proven.sort_unstable();
        self.handle.block_on(async {
            let mut tx = self.db.begin().await?;
            for (list, sha256) in &proven {
                tx.add_verified_file(list, sha256).await?;
            }
            Ok(tx.commit().await?)
        })
    }

    fn read(&self, chunks: &[ChunkRef]) -> ApiResult<FileDigest> {
        let mut sha256 = Sha256::new();
        let mut rest = chunks;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(together(rest, READ));
            rest = tail;
            let ids: Vec<_> = part.iter().map(|chunk| chunk.id).collect();
            for bytes in self.handle.block_on(self.content.read_chunks(self.app, &ids))? {
                sha256.update(&bytes);
            }
        }
        Ok(FileDigest::from_bytes(sha256.finalize().into()))
    }

    fn finish(mut self) -> ApiResult<Vec<VersionPack>> {
        self.flush()?;
        if self.missing > 0 {
            return Err(incomplete(self.missing));
        }
        Ok(self.packs.into_iter().map(|(pack, chunks)| VersionPack { pack, chunks }).collect())
    }
}

/// The refusal where content is missing.
pub(super) fn incomplete(missing: u64) -> ApiError {
    ApiError::new(
        Code::UploadIncomplete,
        format!(
            "{missing} chunks of this version have not arrived; ask what is missing, send it and finish again"
        ),
    )
}

/// Whether the row of the file's only chunk says its digest; an error if it says another one.
fn proven_by_row(path: &str, file: &FileNode, found: &HashMap<ChunkId, ChunkLocation>) -> ApiResult<bool> {
    let sha256 = match file.chunks.as_slice() {
        [] => Some(FileDigest::of(b"")),
        [chunk] => found.get(&chunk.id).and_then(|at| at.sha256),
        _ => None,
    };
    sha256.map(|sha256| check(path, file, sha256)).transpose().map(|checked| checked.is_some())
}

fn check(path: &str, file: &FileNode, sha256: FileDigest) -> ApiResult<()> {
    if sha256 == file.sha256 {
        return Ok(());
    }
    let message = format!("{path} has SHA-256 {sha256}, but the manifest says {}", file.sha256);
    Err(ApiError::new(Code::DigestMismatch, message))
}
