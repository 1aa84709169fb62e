//! From a directory to its manifest. Files that have not been written since the last push are not read.

use std::iter::Peekable;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kkartifact_model::TreePath;
use kkartifact_model::manifest::{Entry, FileNode, Mtime, Node};

use crate::error::{AgentError, Kind as ErrorKind, Result};
use crate::hash::hash_at;
use crate::manifest_file::{Entries, ManifestFile, ManifestWriter};
use crate::progress::Step;
use crate::stat_cache::{StatReader, StatWriter, clock_now};
use crate::tree::{FileStat, IgnoreRules, Kind, Problems, Walked, walk};

/// What a scan found.
pub struct Scanned {
    /// The manifest.
    pub manifest: ManifestFile,
    /// What is worth a warning.
    pub problems: Problems,
}

/// Files are read in batches of so many, or of so many bytes, on all cores.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 64 << 20;

/// What a scan knows from before, and where it writes.
pub struct ScanFiles {
    /// The manifest of the last scan.
    pub old_manifest: Option<ManifestFile>,
    /// What the files were then.
    pub old_stats: PathBuf,
    /// Where the manifest goes.
    pub manifest: PathBuf,
    /// Where it goes what the files are.
    pub stats: PathBuf,
}

/// Scans a directory. An error lists everything that can't be part of a version.
pub fn scan(root: BorrowedFd<'_>, ignore: &IgnoreRules, files: &ScanFiles, step: &Step) -> Result<Scanned> {
    let mut scanner = Scanner {
        root,
        step,
        known: Known {
            stats: StatReader::open(&files.old_stats),
            entries: files.old_manifest.as_ref().map(|manifest| manifest.entries().peekable()),
        },
        manifest: ManifestWriter::create(&files.manifest)?,
        stats: StatWriter::create(&files.stats)?,
        looked: clock_now(),
        batch: Vec::new(),
        bytes: 0,
    };
    let problems = walk(root, ignore, &mut |walked| scanner.visit(walked))?.into_result()?;
    scanner.flush()?;
    scanner.stats.finish()?;
    Ok(Scanned { manifest: scanner.manifest.finish()?, problems })
}

/// What the last push knew.
struct Known {
    stats: StatReader,
    entries: Option<Peekable<Entries>>,
}

impl Known {
    /// The last push's entry of a path. Paths are asked for in path order.
    fn entry(&mut self, path: &TreePath) -> Option<Entry> {
        let entries = self.entries.as_mut()?;
        while let Some(Ok(entry)) = entries.peek() {
            match entry.path.cmp(path) {
                std::cmp::Ordering::Less => drop(entries.next()),
                std::cmp::Ordering::Equal => return entries.next()?.ok(),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }
}

/// A path whose entry is known, or has to be read.
struct Waiting {
    path: TreePath,
    stat: FileStat,
    old: Option<Entry>,
    node: Option<Node>,
}

struct Scanner<'a> {
    root: BorrowedFd<'a>,
    step: &'a Step,
    known: Known,
    manifest: ManifestWriter,
    stats: StatWriter,
    looked: Mtime,
    batch: Vec<Waiting>,
    bytes: u64,
}

impl Scanner<'_> {
    fn visit(&mut self, walked: Walked) -> Result<()> {
        let Walked { path, stat, target } = walked;
        let old = self.known.entry(&path);
        let node = match (stat.kind, target) {
            (Kind::Directory, _) => Some(Node::Directory { mode: stat.mode }),
            (_, Some(target)) => Some(Node::Symlink { target }),
            _ => self.unchanged(&path, &stat, old.as_ref()),
        };
        if node.is_none() {
            self.bytes += stat.size;
        }
        self.step.add(1);
        self.batch.push(Waiting { path, stat, old, node });
        if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// The file of the last push, if this one has not been written since.
    fn unchanged(&mut self, path: &TreePath, stat: &FileStat, old: Option<&Entry>) -> Option<Node> {
        let cached = self.known.stats.find(path.as_str())?;
        let file = old?.file()?;
        let same = cached.is_unchanged(stat) && cached.sha256 == file.sha256 && stat.size == file.size;
        same.then(|| Node::File(FileNode { mode: stat.mode, mtime: Some(stat.mtime), ..file.clone() }))
    }

    fn flush(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        read_all(self.root, &mut batch)?;
        for Waiting { path, stat, old, node } in batch {
            let Some(node) = node else {
                return Err(AgentError::new(ErrorKind::Failed, format!("{path} was not read")));
            };
            let mut entry = Entry { path, node };
            if let Some(file) = entry.file() {
                self.stats.push(entry.path.as_str(), &stat, &file.sha256, self.looked)?;
            }
            // The same content keeps its entry, time included: it is the time at which the content changed.
            if let Some(old) = old.filter(|old| old.same_content(&entry)) {
                entry = old;
            }
            self.manifest.push(&entry)?;
        }
        Ok(())
    }
}

/// Reads the files of a batch that are not known, on all cores.
fn read_all(root: BorrowedFd<'_>, batch: &mut [Waiting]) -> Result<()> {
    let unknown: Vec<_> = batch.iter_mut().filter(|waiting| waiting.node.is_none()).map(Mutex::new).collect();
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(unknown.len().div_ceil(16)).max(1);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(waiting) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut waiting = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let path = waiting.path.as_str();
            let content = hash_at(root, path, path, &waiting.stat)?;
            waiting.node = Some(Node::File(FileNode {
                mode: waiting.stat.mode,
                mtime: Some(waiting.stat.mtime),
                size: content.size,
                sha256: content.sha256,
                chunks: content.chunks,
            }));
        }
        Ok(())
    };
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| AgentError::new(ErrorKind::Failed, "a reader crashed"))??;
        }
        Ok(())
    })
}
