//! Going through a manifest block by block.

use std::collections::HashSet;
use std::sync::Arc;

use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{Entry, ManifestRoot};
use kkartifact_store::AppId;
use tokio::runtime::Handle;

use super::{Content, decode};
use crate::error::ApiResult;

/// The entries of a manifest in path order. Holds one block at a time. Blocks the thread while it waits for
/// storage, so it belongs on a thread that may block.
pub struct Entries {
    content: Content,
    handle: Handle,
    app: AppId,
    root: Arc<ManifestRoot>,
    next_block: usize,
    block: std::vec::IntoIter<Entry>,
    left_out: Arc<HashSet<ChunkId>>,
    failed: bool,
}

impl Entries {
    pub(super) fn new(content: Content, app: AppId, root: Arc<ManifestRoot>) -> Self {
        let handle = Handle::current();
        Self {
            content,
            handle,
            app,
            root,
            next_block: 0,
            block: Vec::new().into_iter(),
            left_out: Arc::default(),
            failed: false,
        }
    }

    /// Leaves out these blocks.
    #[must_use]
    pub fn without_blocks(mut self, left_out: Arc<HashSet<ChunkId>>) -> Self {
        self.left_out = left_out;
        self
    }

    /// Leaves out the blocks whose chunk references all come before `wanted`; how many references were left out.
    pub fn skip_to_ref(&mut self, wanted: u64) -> u64 {
        let mut skipped = 0;
        while let Some(block) = self.root.blocks.get(self.next_block)
            && skipped + block.refs <= wanted
        {
            skipped += block.refs;
            self.next_block += 1;
        }
        skipped
    }

    fn load(&mut self) -> ApiResult<bool> {
        while self.root.blocks.get(self.next_block).is_some_and(|block| self.left_out.contains(&block.id)) {
            self.next_block += 1;
        }
        let Some(block) = self.root.blocks.get(self.next_block) else { return Ok(false) };
        let records = self.handle.block_on(self.content.block(self.app, block))?;
        self.block = decode(&records)?.into_iter();
        self.next_block += 1;
        Ok(true)
    }
}

impl Iterator for Entries {
    type Item = ApiResult<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            if let Some(entry) = self.block.next() {
                return Some(Ok(entry));
            }
            match self.load() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
