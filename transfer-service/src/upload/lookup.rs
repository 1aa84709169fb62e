//! Which of a manifest's chunks the app has. Answered per app, always: knowing a digest must not tell what
//! others have.

use std::collections::BTreeSet;

use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{Entry, RefSet};
use kkartifact_service::{ApiResult, Content};
use kkartifact_store::{AppId, PackId};
use tokio::runtime::Handle;

/// How many references are looked up together.
const BATCH: usize = 1000;

/// Collects references in order and tells which are missing.
pub(super) struct Lookup {
    content: Content,
    handle: Handle,
    app: AppId,
    /// References that wait to be looked up; `None` for one that is known to be there.
    waiting: Vec<Option<ChunkId>>,
    missing: RefSet,
    packs: BTreeSet<PackId>,
}

impl Lookup {
    pub(super) fn new(content: Content, app: AppId) -> Self {
        let (waiting, missing, packs) = (Vec::with_capacity(BATCH), RefSet::default(), BTreeSet::new());
        Self { content, handle: Handle::current(), app, waiting, missing, packs }
    }

    /// Adds an entry's references. Those of an inherited entry are there: the base is live and pinned.
    pub(super) fn add(&mut self, entry: &Entry, inherited: bool) -> ApiResult<()> {
        for chunk in entry.file().into_iter().flat_map(|file| &file.chunks) {
            self.waiting.push((!inherited).then_some(chunk.id));
            if self.waiting.len() == BATCH {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> ApiResult<()> {
        let mut ids: Vec<_> = self.waiting.iter().copied().flatten().collect();
        ids.sort_unstable();
        ids.dedup();
        let found = self.handle.block_on(self.content.locate(self.app, &ids))?;
        self.packs.extend(found.values().map(|at| at.pack_id));
        for id in self.waiting.drain(..) {
            self.missing.push(id.is_some_and(|id| !found.contains_key(&id)));
        }
        Ok(())
    }

    /// The references that are missing, and the packs that hold the others.
    pub(super) fn finish(mut self) -> ApiResult<(RefSet, Vec<PackId>)> {
        self.flush()?;
        Ok((self.missing, self.packs.into_iter().collect()))
    }
}
