//! The entries of a version with what is in them, in order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{ChunkRef, Entry, FileNode, ManifestRoot, Mtime};
use kkartifact_service::Content;
use kkartifact_service::content::Entries;
use kkartifact_store::AppId;
use tokio::runtime::Handle;

/// Chunks are located and read together up to so many bytes…
const BYTES: u64 = 1 << 20;
/// … and so many chunks, …
const CHUNKS: usize = 500;
/// … of so many entries.
const ENTRIES: usize = 500;

/// What a version has, for a thread that may block. Most files are small, so chunks are read together across
/// the borders of files.
pub(super) struct Contents {
    /// The time of what has none of its own.
    pub(super) published: Mtime,
    content: Content,
    handle: Handle,
    app: AppId,
    entries: Entries,
    /// Entries that were looked at before their turn.
    ahead: VecDeque<Entry>,
    /// Chunks of what comes next, without gaps. Behind them nothing has been read.
    ready: VecDeque<Bytes>,
}

impl Contents {
    pub(super) fn new(content: &Content, app: AppId, root: Arc<ManifestRoot>, published: Mtime) -> Self {
        Self {
            published,
            handle: Handle::current(),
            app,
            entries: content.entries(app, root),
            content: content.clone(),
            ahead: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next entry. The one before must have been read to its end.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        match self.ahead.pop_front() {
            Some(entry) => Ok(Some(entry)),
            None => self.load(),
        }
    }

    /// The bytes of the file that was the last entry.
    pub(super) fn bytes<'a>(&'a mut self, file: &'a FileNode) -> FileBytes<'a> {
        FileBytes { contents: self, rest: &file.chunks, current: Bytes::new() }
    }

    fn load(&mut self) -> io::Result<Option<Entry>> {
        self.entries.next().transpose().map_err(io::Error::other)
    }

    /// The next chunk. `rest` are the chunks of the file from this one on.
    fn chunk(&mut self, rest: &[ChunkRef]) -> io::Result<Bytes> {
        if self.ready.is_empty() {
            let ids = self.next_ids(rest)?;
            let read = self.handle.block_on(self.content.read_chunks(self.app, &ids));
            self.ready.extend(read.map_err(io::Error::other)?);
        }
        self.ready.pop_front().ok_or_else(|| io::Error::other("fewer chunks were read than asked for"))
    }

    /// Which chunks are read together: of the file, and of what comes behind it.
    fn next_ids(&mut self, rest: &[ChunkRef]) -> io::Result<Vec<ChunkId>> {
        let mut group = Group::default();
        let mut has_room = group.add(rest);
        let mut looked_at = 0;
        while has_room && looked_at < ENTRIES {
            if looked_at == self.ahead.len() {
                match self.load()? {
                    Some(entry) => self.ahead.push_back(entry),
                    None => break,
                }
            }
            has_room = self.ahead[looked_at].file().is_none_or(|file| group.add(&file.chunks));
            looked_at += 1;
        }
        Ok(group.ids)
    }
}

#[derive(Default)]
struct Group {
    ids: Vec<ChunkId>,
    bytes: u64,
}

impl Group {
    /// Adds as many as fit, but at least one to an empty group; whether all did.
    fn add(&mut self, chunks: &[ChunkRef]) -> bool {
        for chunk in chunks {
            let bytes = self.bytes + u64::from(chunk.len);
            if !self.ids.is_empty() && (bytes > BYTES || self.ids.len() == CHUNKS) {
                return false;
            }
            self.ids.push(chunk.id);
            self.bytes = bytes;
        }
        true
    }
}

/// The bytes of a file.
pub(super) struct FileBytes<'a> {
    contents: &'a mut Contents,
    rest: &'a [ChunkRef],
    current: Bytes,
}

impl Read for FileBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty()
            && let Some((_, rest)) = self.rest.split_first()
        {
            self.current = self.contents.chunk(self.rest)?;
            self.rest = rest;
        }
        let len = self.current.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}
