//! Staging: the new files of a version, written at their places in a tree beside the target, complete and
//! verified before anything in the target changes.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use kkartifact_model::manifest::{ChunkRef, Entry, FileNode, Mode, Mtime, Node, RefSet};
use kkartifact_model::wire::{WireChunk, decompress};
use kkartifact_model::{ChunkId, FileDigest, failpoint};
use rustix::fs::{OFlags, Timespec, Timestamps, chmodat, fchmod, futimens, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::source::{LocalReader, Previous, Sources};
use crate::client::{ChunkStream, Client, VersionPath};
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::progress::Step;
use crate::tree::DirStack;

/// What is staged, from where, and how.
pub struct Staging {
    /// The version's manifest.
    pub want: ManifestFile,
    /// Which of its entries are staged, by their place.
    pub stage: RefSet,
    /// Content of this host.
    pub sources: Arc<Sources>,
    /// The tree that is filled.
    pub tree: OwnedFd,
    /// Where the rest comes from; `None` where everything should be on this host.
    pub remote: Option<(Client, VersionPath)>,
    /// How many streams at the same time.
    pub concurrency: usize,
}

/// What has to be fetched, and which files are copies of others.
pub struct Wanted {
    /// Chunk references.
    pub refs: RefSet,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that staging takes on the disk.
    pub room: u64,
    /// Places of files → the place of a staged file with the same content.
    copies: HashMap<u64, u64>,
    /// Files that are there by a link.
    linked: RefSet,
}

/// A stream is worth opening for so many bytes.
const STREAM: u64 = 8 << 20;

impl Staging {
    /// Finds out what has to be fetched. Links what the last change took out and is wanted again.
    pub fn resolve(&self, mut previous: Option<Previous>) -> Result<Wanted> {
        let mut wanted = Wanted {
            refs: RefSet::new(self.want.root().refs()),
            bytes: 0,
            room: 0,
            copies: HashMap::new(),
            linked: RefSet::new(self.want.root().entries()),
        };
        let mut tree = self.dirs()?;
        let mut first: HashMap<FileDigest, u64> = HashMap::new();
        let mut index = 0;
        for (place, entry) in (0..).zip(self.want.entries()) {
            let entry = entry?;
            let refs = index..index + entry.ref_count();
            index = refs.end;
            let Some(file) = entry.file().filter(|_| self.stage.contains(place)) else { continue };
            if previous.as_mut().is_some_and(|previous| previous.link(&entry, &mut tree)) {
                wanted.linked.insert(place);
                continue;
            }
            wanted.room += file.size;
            let missing: Vec<_> =
                file.chunks.iter().zip(refs).filter(|(c, _)| !self.sources.may_have(&c.id)).collect();
            if missing.is_empty() {
                continue;
            }
            if let Some(same) = first.get(&file.sha256) {
                wanted.copies.insert(place, *same);
                continue;
            }
            first.insert(file.sha256, place);
            for (chunk, index) in missing {
                wanted.refs.insert(index);
                wanted.bytes += u64::from(chunk.len);
            }
        }
        Ok(wanted)
    }

    fn dirs(&self) -> Result<DirStack> {
        Ok(DirStack::creating(self.tree.try_clone().map_err(AgentError::io("opening the staging tree"))?))
    }

    /// Fills the tree. Runs on a thread that may block.
    pub fn fill(&self, wanted: &Wanted, step: &Step) -> Result<()> {
        let failed = Mutex::new(RefSet::new(self.want.root().refs()));
        let odd_modes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let handle = Handle::current();
            let workers: Vec<_> = self
                .divide(wanted)
                .into_iter()
                .map(|part| {
                    let (handle, failed, odd_modes) = (handle.clone(), &failed, &odd_modes);
                    scope.spawn(move || {
                        let _runtime = handle.enter();
                        Worker::new(self, wanted, step, &part, handle.clone())?.run(&part, failed, odd_modes)
                    })
                })
                .collect();
            for worker in workers {
                worker.join().map_err(|_| AgentError::new(Kind::Failed, "a worker crashed"))??;
            }
            Ok::<_, AgentError>(())
        })?;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.fetch_failed(&failed, step)?;
        self.copy(&wanted.copies)?;
        self.set_odd_modes(odd_modes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cuts the manifest into runs of blocks with about as much to fetch each.
    fn divide(&self, wanted: &Wanted) -> Vec<Part> {
        let blocks = &self.want.root().blocks;
        let streams = (wanted.bytes / STREAM).clamp(1, self.concurrency as u64);
        let share = wanted.refs.count().div_ceil(streams).max(1);
        let (mut parts, mut start, mut count) = (Vec::new(), Place::default(), 0);
        let mut at = Place::default();
        for block in blocks {
            count += wanted.refs.within(at.reference, at.reference + block.refs).count();
            at.block += 1;
            at.entry += u64::from(block.entries);
            at.reference += block.refs;
            if count >= share {
                parts.push(Part { start, end: at });
                (start, count) = (at, 0);
            }
        }
        if start.block < at.block {
            parts.push(Part { start, end: at });
        }
        parts
    }

    /// Fetches chunks that a local source promised and could not give, and puts them into their files.
    fn fetch_failed(&self, failed: &RefSet, step: &Step) -> Result<()> {
        if failed.is_empty() {
            return Ok(());
        }
        let mut stream = self.stream(failed.clone())?;
        let (mut dirs, mut index) = (self.dirs()?, 0);
        for entry in self.want.entries() {
            let entry = entry?;
            let Some(file) = entry.file() else { continue };
            let refs = index..index + file.chunks.len() as u64;
            index = refs.end;
            if !refs.clone().any(|index| failed.contains(index)) {
                continue;
            }
            let path = entry.path.as_str();
            let out = open_staged(&mut dirs, path, OFlags::RDWR)?;
            let mut offset = 0;
            for (chunk, index) in file.chunks.iter().zip(refs) {
                if failed.contains(index) {
                    let bytes = receive(&Handle::current(), &mut stream, chunk)?;
                    out.write_all_at(&bytes, offset).map_err(AgentError::io(format!("writing {path:?}")))?;
                    step.add(u64::from(chunk.len));
                }
                offset += u64::from(chunk.len);
            }
            finish_file(&out, path, file)?;
        }
        Ok(())
    }

    fn stream(&self, wanted: RefSet) -> Result<ChunkStream> {
        let Some((client, version)) = &self.remote else {
            let message = "content of this version is no longer on this host";
            return Err(AgentError::new(Kind::NotFound, message).hint("pull the version from the server"));
        };
        Ok(client.chunks(version, wanted))
    }

    /// Copies files whose content has been staged at another place.
    fn copy(&self, copies: &HashMap<u64, u64>) -> Result<()> {
        let mut places: Vec<_> = copies.iter().collect();
        places.sort_unstable();
        let mut dirs = self.dirs()?;
        for (to, from) in places {
            let (to, from) = (self.want.entry_at(*to)?, self.want.entry_at(*from)?);
            let Some(file) = to.file() else { continue };
            let mut source = open_staged(&mut dirs, from.path.as_str(), OFlags::RDONLY)?;
            let mut out = create(&mut dirs, to.path.as_str())?;
            std::io::copy(&mut source, &mut out).map_err(AgentError::io(format!("writing {:?}", to.path)))?;
            finish_file(&out, to.path.as_str(), file)?;
        }
        Ok(())
    }

    /// Gives directories that can't be worked in their modes at last, deepest first.
    fn set_odd_modes(&self, mut modes: Vec<(String, Mode)>) -> Result<()> {
        let mut dirs = self.dirs()?;
        modes.sort_unstable();
        for (path, mode) in modes.iter().rev() {
            let (dir, name) = dirs.parent_of(path).map_err(AgentError::os(format!("opening {path:?}")))?;
            let done = chmodat(dir, name, raw(*mode), rustix::fs::AtFlags::empty());
            done.map_err(AgentError::os(format!("setting the mode of {path:?}")))?;
            dirs.forget();
        }
        Ok(())
    }
}

/// A place in a manifest, counted in three ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    block: usize,
    entry: u64,
    reference: u64,
}

/// The part of a manifest that one worker stages.
struct Part {
    start: Place,
    end: Place,
}

/// Stages one part.
struct Worker<'a> {
    staging: &'a Staging,
    wanted: &'a Wanted,
    step: &'a Step,
    dirs: DirStack,
    local: LocalReader,
    stream: Option<ChunkStream>,
    handle: Handle,
}

impl<'a> Worker<'a> {
    fn new(
        staging: &'a Staging,
        wanted: &'a Wanted,
        step: &'a Step,
        part: &Part,
        handle: Handle,
    ) -> Result<Self> {
        let refs = wanted.refs.within(part.start.reference, part.end.reference);
        let stream = if refs.is_empty() { None } else { Some(staging.stream(refs)?) };
        let local = LocalReader::new(staging.sources.clone())?;
        Ok(Self { staging, wanted, step, dirs: staging.dirs()?, local, stream, handle })
    }

    fn run(
        &mut self,
        part: &Part,
        failed: &Mutex<RefSet>,
        odd_modes: &Mutex<Vec<(String, Mode)>>,
    ) -> Result<()> {
        let (mut place, mut index) = (part.start.entry, part.start.reference);
        for block in part.start.block..part.end.block {
            for entry in self.staging.want.block(block)? {
                let (this, refs) = (place, index..index + entry.ref_count());
                place += 1;
                index = refs.end;
                if !self.staging.stage.contains(this) {
                    continue;
                }
                let done = match &entry.node {
                    Node::File(file) => self.file(this, &entry, file, refs.start, failed)?,
                    Node::Symlink { target } => self.symlink(entry.path.as_str(), target)?,
                    Node::Directory { mode } => self.directory(entry.path.as_str(), *mode, odd_modes)?,
                };
                if done {
                    failpoint::reach("pull.first-file-staged");
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &str, mode: Mode, odd: &Mutex<Vec<(String, Mode)>>) -> Result<bool> {
        let failed = || AgentError::os(format!("creating directory {path:?}"));
        let (dir, name) = self.dirs.parent_of(path).map_err(failed())?;
        match mkdirat(dir, name, raw(Mode::from_bits(0o700))) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed()(error)),
        }
        // One that we could not work in gets its mode at the end.
        if mode.bits() & 0o700 != 0o700 {
            odd.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), mode));
        }
        let workable = Mode::from_bits(mode.bits() | 0o700);
        chmodat(dir, name, raw(workable), rustix::fs::AtFlags::empty()).map_err(failed())?;
        Ok(false)
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<bool> {
        let failed = || AgentError::os(format!("creating link {path:?}"));
        let (dir, name) = self.dirs.parent_of(path).map_err(failed())?;
        symlinkat(target, dir, name).map_err(failed())?;
        Ok(true)
    }

    /// Stages a file; whether it is there now.
    fn file(
        &mut self,
        place: u64,
        entry: &Entry,
        file: &FileNode,
        first_ref: u64,
        failed: &Mutex<RefSet>,
    ) -> Result<bool> {
        let path = entry.path.as_str();
        if self.wanted.copies.contains_key(&place) {
            return Ok(false);
        }
        if self.wanted.linked.contains(place) {
            let out = open_staged(&mut self.dirs, path, OFlags::RDONLY)?;
            finish_file(&out, path, file)?;
            return Ok(true);
        }
        let out = create(&mut self.dirs, path)?;
        let (mut offset, mut complete) = (0, true);
        for (index, chunk) in (first_ref..).zip(&file.chunks) {
            let bytes = if self.wanted.refs.contains(index) {
                let Some(stream) = &mut self.stream else {
                    return Err(AgentError::new(
                        Kind::Failed,
                        "a chunk is wanted and there is no stream for it",
                    ));
                };
                self.step.add(u64::from(chunk.len));
                Some(receive(&self.handle, stream, chunk)?)
            } else {
                self.local.read(chunk)
            };
            if let Some(bytes) = bytes {
                out.write_all_at(&bytes, offset).map_err(AgentError::io(format!("writing {path:?}")))?;
            } else {
                complete = false;
                failed.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
            }
            offset += u64::from(chunk.len);
        }
        if complete {
            finish_file(&out, path, file)?;
        }
        Ok(complete)
    }
}

/// Takes the next chunk of a stream, if it is the one that it should be.
fn receive(handle: &Handle, stream: &mut ChunkStream, chunk: &ChunkRef) -> Result<Vec<u8>> {
    let WireChunk { stored, len, .. } = handle.block_on(stream.next_chunk())?;
    let damaged = || {
        let message = format!("the server sent something else than chunk {}", chunk.id);
        AgentError::new(Kind::Invalid, message).hint("run 'kkartifact admin verify' on the server")
    };
    let bytes = decompress(&stored, len).map_err(|_| damaged())?;
    if len == chunk.len && ChunkId::of(&bytes) == chunk.id { Ok(bytes.to_vec()) } else { Err(damaged()) }
}

fn create(dirs: &mut DirStack, path: &str) -> Result<File> {
    let failed = || AgentError::os(format!("creating {path:?}"));
    let (dir, name) = dirs.parent_of(path).map_err(failed())?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir.as_fd(), name, flags, raw(Mode::from_bits(0o600))).map(File::from).map_err(failed())
}

fn open_staged(dirs: &mut DirStack, path: &str, access: OFlags) -> Result<File> {
    let failed = || AgentError::os(format!("opening staged {path:?}"));
    let (dir, name) = dirs.parent_of(path).map_err(failed())?;
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir.as_fd(), name, flags, rustix::fs::Mode::empty()).map(File::from).map_err(failed())
}

/// Gives a complete file its mode and time.
fn finish_file(out: &File, path: &str, file: &FileNode) -> Result<()> {
    fchmod(out, raw(file.mode)).map_err(AgentError::os(format!("setting the mode of {path:?}")))?;
    let Some(Mtime { secs, nanos }) = file.mtime else { return Ok(()) };
    let time = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    futimens(out, &times).map_err(AgentError::os(format!("setting the time of {path:?}")))
}

pub(super) fn raw(mode: Mode) -> rustix::fs::Mode {
    rustix::fs::Mode::from_raw_mode(mode.bits())
}
