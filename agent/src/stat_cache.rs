//! What files were when they were last read, so that those that have not been written since need not be read
//! again.
//!
//! One flat file in path order. A file is trusted only if size, times, inode and device are what they were *and*
//! its change time was over when it was looked at: a file that is written in the very tick in which it is read
//! looks the same before and after (git calls that "racy"). The modification time alone says nothing, since
//! programs set it; the change time only the kernel sets.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;
use std::time::Duration;

use kkartifact_model::FileDigest;
use kkartifact_model::manifest::{Mode, Mtime};
use kkartifact_model::path::compare;

use crate::error::{AgentError, Kind as ErrorKind, Result};
use crate::tree::{FileStat, Kind};

const MAGIC: &[u8; 8] = b"kkstats1";
/// Bytes of a record behind its path.
const RECORD: usize = 8 + 12 + 12 + 8 + 8 + 32;

/// How coarse a file system's times may be, in nanoseconds: a kernel tick where they have nanoseconds, two
/// seconds where they don't.
const TICK: i128 = 12_000_000;
const COARSE: i128 = 2_000_000_000;

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Where.
    pub path: String,
    /// What the file system said.
    pub stat: FileStat,
    /// SHA-256 of its content.
    pub sha256: FileDigest,
}

impl Cached {
    /// Whether the file at the path is still the same: its content need not be read.
    pub fn is_unchanged(&self, now: &FileStat) -> bool {
        let key = |s: &FileStat| (s.kind, s.size, s.mtime, s.ctime, s.ino, s.dev);
        key(&self.stat) == key(now)
    }
}

/// Whether a file that was looked at after `looked` can be told from one that is written later.
pub fn is_settled(stat: &FileStat, looked: Mtime) -> bool {
    let nanos = |time: Mtime| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let coarse = if stat.ctime.nanos == 0 { COARSE } else { TICK };
    nanos(stat.ctime) + coarse < nanos(looked)
}

/// The time by the clock that file systems take theirs from.
pub fn clock_now() -> Mtime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Mtime { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// Waits until files that were changed until now can be told from files that are changed later.
pub fn wait_a_tick() {
    let tick = Duration::from_nanos(u64::try_from(TICK).unwrap_or(0)) + Duration::from_millis(1);
    #[expect(clippy::disallowed_methods, reason = "what is waited for is the clock itself")]
    std::thread::sleep(tick);
}

/// A cache that is being written, in path order.
pub struct StatWriter {
    out: BufWriter<File>,
}

impl StatWriter {
    /// Begins a cache.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(AgentError::io(format!("creating {}", path.display())))?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(MAGIC).map_err(AgentError::io("writing the stat cache"))?;
        Ok(Self { out })
    }

    /// Adds a file that was looked at after `looked`, unless it was too young then to be trusted.
    pub fn push(&mut self, path: &str, stat: &FileStat, sha256: &FileDigest, looked: Mtime) -> Result<()> {
        if is_settled(stat, looked) { self.write(path, stat, sha256) } else { Ok(()) }
    }

    /// Adds what another cache has.
    pub fn copy(&mut self, cached: &Cached) -> Result<()> {
        self.write(&cached.path, &cached.stat, &cached.sha256)
    }

    fn write(&mut self, path: &str, stat: &FileStat, sha256: &FileDigest) -> Result<()> {
        let Ok(len) = u16::try_from(path.len()) else { return Ok(()) };
        let mut record = Vec::with_capacity(2 + path.len() + RECORD);
        record.extend_from_slice(&len.to_le_bytes());
        record.extend_from_slice(path.as_bytes());
        record.extend_from_slice(&stat.size.to_le_bytes());
        for time in [stat.mtime, stat.ctime] {
            record.extend_from_slice(&time.secs.to_le_bytes());
            record.extend_from_slice(&time.nanos.to_le_bytes());
        }
        record.extend_from_slice(&stat.ino.to_le_bytes());
        record.extend_from_slice(&stat.dev.to_le_bytes());
        record.extend_from_slice(sha256.as_bytes());
        self.out.write_all(&record).map_err(AgentError::io("writing the stat cache"))
    }

    /// Ends the cache.
    pub fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(AgentError::io("writing the stat cache"))
    }
}

/// A cache that is read in path order.
pub struct StatReader {
    input: Option<BufReader<File>>,
    ahead: Option<Cached>,
}

impl StatReader {
    /// Opens a cache. One that is missing or unreadable is an empty one: it only saves time.
    pub fn open(path: &Path) -> Self {
        let mut input = File::open(path).ok().map(|file| BufReader::with_capacity(1 << 18, file));
        let mut magic = [0; 8];
        let good =
            input.as_mut().is_some_and(|input| input.read_exact(&mut magic).is_ok() && &magic == MAGIC);
        let mut reader = Self { input: input.filter(|_| good), ahead: None };
        reader.advance();
        reader
    }

    fn advance(&mut self) {
        self.ahead = self.input.as_mut().and_then(|input| record(input).ok());
        if self.ahead.is_none() {
            self.input = None;
        }
    }

    /// The record of a path. Paths are asked for in path order.
    pub fn find(&mut self, path: &str) -> Option<Cached> {
        loop {
            match compare(&self.ahead.as_ref()?.path, path) {
                Ordering::Less => self.advance(),
                Ordering::Greater => return None,
                Ordering::Equal => return self.next(),
            }
        }
    }
}

/// Every record in path order.
impl Iterator for StatReader {
    type Item = Cached;

    fn next(&mut self) -> Option<Cached> {
        let next = self.ahead.take();
        self.advance();
        next
    }
}

fn record(input: &mut impl Read) -> Result<Cached> {
    let mut len = [0; 2];
    let damaged = |_| AgentError::new(ErrorKind::Failed, "the stat cache ends");
    input.read_exact(&mut len).map_err(damaged)?;
    let mut path = vec![0; usize::from(u16::from_le_bytes(len))];
    input.read_exact(&mut path).map_err(damaged)?;
    let path = String::from_utf8(path)
        .map_err(|_| AgentError::new(ErrorKind::Failed, "the stat cache is damaged"))?;
    let mut record = [0; RECORD];
    input.read_exact(&mut record).map_err(damaged)?;
    let number =
        |at: usize, len: usize| record[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let time = |at: usize| Mtime {
        secs: number(at, 8).cast_signed(),
        nanos: u32::try_from(number(at + 8, 4)).unwrap_or(0),
    };
    let stat = FileStat {
        kind: Kind::File,
        mode: Mode::FILE,
        special_bits: false,
        size: number(0, 8),
        mtime: time(8),
        ctime: time(20),
        ino: number(32, 8),
        dev: number(40, 8),
    };
    let sha256 = FileDigest::try_from(&record[48..]);
    let sha256 = sha256.map_err(|_| AgentError::new(ErrorKind::Failed, "the stat cache is damaged"))?;
    Ok(Cached { path, stat, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ctime: i64, size: u64) -> FileStat {
        FileStat {
            kind: Kind::File,
            mode: Mode::FILE,
            special_bits: false,
            size,
            mtime: Mtime { secs: 5, nanos: 6 },
            ctime: Mtime { secs: ctime, nanos: 500 },
            ino: 7,
            dev: 8,
        }
    }

    #[test]
    fn what_is_written_is_found_in_path_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let looked = Mtime { secs: 100, nanos: 0 };
        let mut writer = StatWriter::create(&path).unwrap();
        for (name, ctime) in [("a", 1), ("a/b", 2), ("a.txt", 3), ("young", 100)] {
            writer.push(name, &stat(ctime, 9), &FileDigest::of(name.as_bytes()), looked).unwrap();
        }
        writer.finish().unwrap();
        let mut reader = StatReader::open(&path);
        assert_eq!(reader.find("a").unwrap().sha256, FileDigest::of(b"a"));
        assert!(reader.find("a/a").is_none());
        let found = reader.find("a.txt").unwrap();
        assert!(
            found.is_unchanged(&stat(3, 9))
                && !found.is_unchanged(&stat(4, 9))
                && !found.is_unchanged(&stat(3, 8))
        );
        assert!(reader.find("young").is_none(), "too young to be told from a later write");
        assert!(StatReader::open(&dir.path().join("none")).find("a").is_none());
    }

    #[test]
    fn coarse_clocks_need_more_distance() {
        let mut file = stat(99, 1);
        assert!(is_settled(&file, Mtime { secs: 100, nanos: 0 }));
        file.ctime.nanos = 0;
        assert!(!is_settled(&file, Mtime { secs: 100, nanos: 0 }));
        assert!(is_settled(&file, Mtime { secs: 102, nanos: 0 }));
    }
}
