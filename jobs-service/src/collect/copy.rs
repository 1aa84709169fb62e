//! Copies what versions need of packs into a new one, as it is stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use kkartifact_blob::{
    BlobError, BlobStore, ChunkAt, PackChunk, PackEntry, PackOwner, PackWriter, SealedPack, TARGET_SIZE,
};
use kkartifact_model::ChunkId;
use kkartifact_store::{AppRow, ChunkSet, CompactablePack, CompactedPack, PackId};
use uuid::Uuid;

use super::Run;
use crate::attempt::Failure;

/// Chunks are read together up to so many bytes.
const BATCH: u64 = 4 << 20;

/// What came of a copy.
pub(super) enum Copied {
    /// The new pack is durable; no row knows it yet.
    Sealed(SealedPack, Vec<CompactedPack>),
    /// No version needs anything of the packs.
    Nothing,
    /// One of the packs can't be read; nothing was written.
    Unreadable(PackId, String),
    /// There is no room for a pack; nothing was written.
    Full,
}

/// Why copying a pack has stopped.
enum Stopped {
    Unreadable(String),
    Full,
    Failed(Failure),
}

/// What went wrong with the new pack.
impl From<BlobError> for Stopped {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::Full,
            other => Self::Failed(other.into()),
        }
    }
}

/// Copies packs of an app in the order given, until the new one is large enough.
pub(super) async fn copy(run: &Run<'_>, app: &AppRow, packs: &[CompactablePack]) -> Result<Copied, Failure> {
    let resources = &run.attempt.resources;
    let owner = PackOwner { project: app.project.clone(), app: app.name.clone() };
    let mut copier = Copier { blob: resources.blob.clone(), owner, writer: None, ordinals: HashMap::new() };
    let mut old = Vec::with_capacity(packs.len());
    for pack in packs {
        let mut tx = resources.db.read().await?;
        let needed = tx.needed_chunks(pack.id).await?;
        tx.commit().await?;
        match copier.add(pack.key, &needed).await {
            Ok(moved) => old.push(CompactedPack { id: pack.id, moved }),
            Err(Stopped::Unreadable(why)) => return Ok(Copied::Unreadable(pack.id, why)),
            Err(Stopped::Full) => return Ok(Copied::Full),
            Err(Stopped::Failed(failure)) => return Err(failure),
        }
        // More may be needed than was counted.
        if copier.writer.as_ref().is_some_and(|writer| writer.size() >= TARGET_SIZE) {
            break;
        }
    }
    let Some(writer) = copier.writer else { return Ok(Copied::Nothing) };
    match writer.seal().await {
        Ok(sealed) => Ok(Copied::Sealed(sealed, old)),
        Err(BlobError::Full) => Ok(Copied::Full),
        Err(error) => Err(error.into()),
    }
}

struct Copier {
    blob: BlobStore,
    owner: PackOwner,
    writer: Option<PackWriter>,
    /// Where in the new pack chunks are, or will be once they are read. A chunk that two packs have is copied once.
    ordinals: HashMap<ChunkId, u32>,
}

impl Copier {
    /// Copies chunks of a pack; by ordinal, what their ordinals are now.
    async fn add(&mut self, pack: Uuid, needed: &ChunkSet) -> Result<Vec<Option<u32>>, Stopped> {
        let footer = self.blob.read_footer(pack).await;
        let (footer, _) = footer.map_err(|error| Stopped::Unreadable(error.to_string()))?;
        let mut moved = vec![None; footer.entries.len()];
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for ordinal in needed.ordinals() {
            let index = ordinal as usize;
            let (Some(entry), Some(moved)) = (footer.entries.get(index), moved.get_mut(index)) else {
                let why = format!("a version needs chunk {ordinal} of it, which it has not");
                return Err(Stopped::Unreadable(why));
            };
            let next = u32::try_from(self.ordinals.len()).unwrap_or(u32::MAX);
            *moved = Some(match self.ordinals.entry(entry.id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(free) => {
                    batch.push(*entry);
                    bytes += u64::from(entry.stored_len);
                    *free.insert(next)
                }
            });
            if bytes >= BATCH {
                self.append(pack, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.append(pack, batch).await?;
        Ok(moved)
    }

    /// Copies chunks, if every one is what it is called.
    async fn append(&mut self, pack: Uuid, entries: Vec<PackEntry>) -> Result<(), Stopped> {
        if entries.is_empty() {
            return Ok(());
        }
        let place = |entry: &PackEntry| ChunkAt {
            id: entry.id,
            pack,
            offset: entry.offset,
            stored_len: entry.stored_len,
            len: entry.len,
        };
        let places: Vec<_> = entries.iter().map(place).collect();
        let stored = self.blob.read_verified(&places).await;
        let stored = stored.map_err(|error| Stopped::Unreadable(error.to_string()))?;
        let chunk = |(entry, stored): (PackEntry, _)| PackChunk {
            id: entry.id,
            len: entry.len,
            sha256: entry.sha256,
            stored,
        };
        let chunks = entries.into_iter().zip(stored).map(chunk).collect();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.blob.create_pack(self.owner.clone()).await?),
        };
        Ok(writer.append(chunks).await?)
    }
}
