//! Content that is on this host already: the files in place, what the last change took out, what an interrupted
//! download left.
//!
//! A local file is only ever a guess: each chunk is read and verified before it is used. What is wrong or gone is
//! fetched instead.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use kkartifact_model::ChunkId;
use kkartifact_model::chunking::WHOLE_FILE;
use kkartifact_model::manifest::{ChunkRef, Entry, FileNode};
use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, statat};

use crate::error::{AgentError, Result};
use crate::hash::hash_at;
use crate::manifest_file::ManifestFile;
use crate::stat_cache::StatReader;
use crate::tree::{DirStack, FileStat};

/// A directory whose files are, or were, what a manifest says.
#[derive(Debug)]
pub struct Source {
    /// The directory.
    pub root: OwnedFd,
    /// What should be in it.
    pub manifest: ManifestFile,
    /// Whether files may be missing altogether, so that it pays to look.
    pub sparse: bool,
}

/// Where each chunk may be found.
#[derive(Debug, Default)]
pub struct Sources {
    list: Vec<Source>,
    /// Sorted by the first eight bytes of the chunk's id.
    index: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    id: u64,
    /// Which source, and the entry's place in its manifest.
    source: u32,
    entry: u32,
    offset: u64,
}

fn key(id: &ChunkId) -> u64 {
    id.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Sources {
    /// Indexes sources: 24 bytes of memory per chunk.
    pub fn new(list: Vec<Source>) -> Result<Self> {
        let mut index = Vec::new();
        for (source, at) in (0..).zip(&list) {
            let mut dirs = at.sparse.then(|| at.root.try_clone().map(DirStack::existing)).transpose();
            let dirs = dirs
                .as_mut()
                .map_err(|error| AgentError::io("opening a source")(std::io::Error::from(error.kind())))?;
            for (entry, found) in (0..).zip(at.manifest.entries()) {
                let found = found?;
                let Some(file) = found.file() else { continue };
                if let Some(dirs) = dirs
                    && !exists(dirs, found.path.as_str(), file.size)
                {
                    continue;
                }
                let mut offset = 0;
                for chunk in &file.chunks {
                    index.push(Place { id: key(&chunk.id), source, entry, offset });
                    offset += u64::from(chunk.len);
                }
            }
        }
        index.sort_unstable();
        index.shrink_to_fit();
        Ok(Self { list, index })
    }

    /// Whether a chunk may be found.
    pub fn may_have(&self, id: &ChunkId) -> bool {
        self.index.binary_search_by_key(&key(id), |place| place.id).is_ok()
    }

    fn places(&self, id: &ChunkId) -> impl Iterator<Item = &Place> {
        let key = key(id);
        let first = self.index.partition_point(|place| place.id < key);
        self.index[first..].iter().take_while(move |place| place.id == key)
    }
}

fn exists(dirs: &mut DirStack, path: &str, size: u64) -> bool {
    let Ok((dir, name)) = dirs.parent_of(path) else { return false };
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileStat::from(&stat).size == size)
}

/// How many different places of one chunk are tried.
const TRIES: usize = 4;

/// Reads chunks from sources. One per thread.
pub struct LocalReader {
    sources: Arc<Sources>,
    dirs: Vec<DirStack>,
    /// The entry last looked up, and its file.
    last: Option<(u32, u32, File)>,
}

impl LocalReader {
    /// A reader of these sources.
    pub fn new(sources: Arc<Sources>) -> Result<Self> {
        let clone = |source: &Source| source.root.try_clone().map(DirStack::existing);
        let dirs: std::io::Result<Vec<_>> = sources.list.iter().map(clone).collect();
        Ok(Self { dirs: dirs.map_err(AgentError::io("opening a source"))?, sources, last: None })
    }

    /// The bytes of a chunk, verified; `None` if no source has them.
    pub fn read(&mut self, chunk: &ChunkRef) -> Option<Vec<u8>> {
        let sources = self.sources.clone();
        sources.places(&chunk.id).take(TRIES).find_map(|place| {
            let bytes = self.read_at(place, chunk.len)?;
            (ChunkId::of(&bytes) == chunk.id).then_some(bytes)
        })
    }

    fn read_at(&mut self, place: &Place, len: u32) -> Option<Vec<u8>> {
        if self
            .last
            .as_ref()
            .is_none_or(|(source, entry, _)| (*source, *entry) != (place.source, place.entry))
        {
            self.last = None;
            let entry =
                self.sources.list.get(place.source as usize)?.manifest.entry_at(place.entry.into()).ok()?;
            let file = open(self.dirs.get_mut(place.source as usize)?, entry.path.as_str())?;
            self.last = Some((place.source, place.entry, file));
        }
        let (_, _, file) = self.last.as_ref()?;
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, place.offset).ok()?;
        Some(bytes)
    }
}

fn open(dirs: &mut DirStack, path: &str) -> Option<File> {
    let (dir, name) = dirs.parent_of(path).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(dir, name, flags, Mode::empty()).ok().map(File::from)
}

/// The files that the last change took out. A file that is wanted again at its old place is linked instead of
/// copied, if it has not been written since: that is what makes going back fast.
pub struct Previous {
    dirs: DirStack,
    stats: StatReader,
}

impl Previous {
    /// The files below `root`, as `stats` knows them.
    pub fn new(root: OwnedFd, stats: StatReader) -> Self {
        Self { dirs: DirStack::existing(root), stats }
    }

    /// Links a wanted file to its staging place; whether it could be. Entries are asked for in path order.
    pub fn link(&mut self, want: &Entry, staging: &mut DirStack) -> bool {
        let path = want.path.as_str();
        let (Some(file), Some(known)) = (want.file(), self.stats.find(path)) else { return false };
        if known.sha256 != file.sha256 || known.stat.size != file.size {
            return false;
        }
        let Ok((dir, name)) = self.dirs.parent_of(path) else { return false };
        let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let stat = FileStat::from(&stat);
        // Between the plan that knew the file and the change that took it out it may have been written. Small
        // ones are read again: that costs nothing.
        let read = |file: &FileNode| {
            hash_at(dir, name, path, &stat).is_ok_and(|content| content.sha256 == file.sha256)
        };
        if !known.is_unchanged(&stat) || (file.size <= WHOLE_FILE && !read(file)) {
            return false;
        }
        let Ok((to, to_name)) = staging.parent_of(path) else { return false };
        linkat(dir.as_fd(), name, to, to_name, AtFlags::empty()).is_ok()
    }
}
