//! Reading a file into digest and chunk list.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::sync::mpsc;

use bytes::{Bytes, BytesMut};
use kkartifact_model::chunking::{ChunkSizes, WHOLE_FILE};
use kkartifact_model::manifest::ChunkRef;
use kkartifact_model::{ChunkId, FileDigest};
use rustix::fs::{Mode, OFlags, fstat, openat};
use sha2::{Digest as _, Sha256};

use crate::error::{AgentError, Kind, Result};
use crate::tree::{self, FileStat};

/// What a file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of all of it.
    pub sha256: FileDigest,
    /// Its chunks.
    pub chunks: Vec<ChunkRef>,
}

/// From this size on a file's SHA-256 gets a thread of its own.
const OWN_THREAD: u64 = 32 << 20;
/// How many chunks may wait for that thread.
const QUEUE: usize = 64;
const READ: usize = 1 << 20;

/// Reads a file of a directory, if it is still the one that was looked at. `path` is what messages call it.
pub fn hash_at(dir: impl AsFd, name: &str, path: &str, stat: &FileStat) -> Result<Content> {
    // Non-blocking, should a pipe have taken its place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        openat(dir, name, flags, Mode::empty()).map_err(AgentError::os(format!("opening {path:?}")))?;
    let opened = fstat(&file).map_err(AgentError::os(format!("looking at {path:?}")))?;
    let opened = FileStat::from(&opened);
    if opened.kind != tree::Kind::File || (opened.dev, opened.ino) != (stat.dev, stat.ino) {
        let message = format!("{path:?} was replaced while it was read");
        return Err(
            AgentError::new(Kind::Invalid, message).hint("try again when nothing writes to the directory")
        );
    }
    hash(&File::from(file), path, stat)
}

/// Reads a file. An error if it is written meanwhile: nobody could say what was read.
pub fn hash(file: &File, path: &str, stat: &FileStat) -> Result<Content> {
    let content = match stat.size {
        0..=WHOLE_FILE => small(file, stat.size),
        size if size < OWN_THREAD => large(file, size),
        size => large_on_two_threads(file, size),
    };
    let content = content.map_err(AgentError::io(format!("reading {path:?}")))?;
    let after = fstat(file).map_err(AgentError::os(format!("looking at {path:?}")))?;
    let after = FileStat::from(&after);
    if content.size != stat.size
        || (after.size, after.mtime, after.ctime) != (stat.size, stat.mtime, stat.ctime)
    {
        let message = format!("{path:?} was written while it was read");
        return Err(
            AgentError::new(Kind::Invalid, message).hint("try again when nothing writes to the directory")
        );
    }
    Ok(content)
}

fn chunk_ref(bytes: &[u8]) -> ChunkRef {
    ChunkRef { id: ChunkId::of(bytes), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
}

fn small(file: &File, size: u64) -> io::Result<Content> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(size + 1).read_to_end(&mut bytes)?;
    let chunks = if bytes.is_empty() { Vec::new() } else { vec![chunk_ref(&bytes)] };
    Ok(Content { size: bytes.len() as u64, sha256: FileDigest::of(&bytes), chunks })
}

fn large(file: &File, size: u64) -> io::Result<Content> {
    let (mut sha256, mut chunks) = (Sha256::new(), Vec::new());
    let size = cut(file, size, |bytes| {
        sha256.update(&bytes);
        chunks.push(chunk_ref(&bytes));
    })?;
    Ok(Content { size, sha256: FileDigest::from_bytes(sha256.finalize().into()), chunks })
}

fn large_on_two_threads(file: &File, size: u64) -> io::Result<Content> {
    let (sender, receiver) = mpsc::sync_channel::<Bytes>(QUEUE);
    std::thread::scope(|scope| {
        let digest = scope.spawn(move || {
            let mut sha256 = Sha256::new();
            for bytes in receiver {
                sha256.update(&bytes);
            }
            FileDigest::from_bytes(sha256.finalize().into())
        });
        let mut chunks = Vec::new();
        let size = cut(file, size, |bytes| {
            chunks.push(chunk_ref(&bytes));
            // The thread takes chunks until the sender is gone.
            drop(sender.send(bytes));
        });
        drop(sender);
        let sha256 = digest.join().map_err(|_| io::Error::other("the digest's thread panicked"))?;
        Ok(Content { size: size?, sha256, chunks })
    })
}

/// Cuts a file into chunks; how many bytes there were.
fn cut(mut file: &File, size: u64, mut chunk: impl FnMut(Bytes)) -> io::Result<u64> {
    let sizes = ChunkSizes::for_file(size);
    let window = sizes.max as usize;
    let (mut buffer, mut total, mut ended) = (BytesMut::new(), 0, false);
    loop {
        while !ended && buffer.len() < window {
            let start = buffer.len();
            buffer.resize(start + READ, 0);
            let read = file.read(&mut buffer[start..])?;
            buffer.truncate(start + read);
            ended = read == 0;
        }
        if buffer.is_empty() {
            return Ok(total);
        }
        let bytes = buffer.split_to(sizes.cut(&buffer)).freeze();
        total += bytes.len() as u64;
        chunk(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn hashed(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let stat = FileStat::from(&fstat(&file).unwrap());
        hash(&file, "f", &stat).unwrap()
    }

    #[test]
    fn every_way_of_reading_finds_the_same() {
        for len in [0, 1, 65_536, 65_537, 1 << 20, (32 << 20) - 1, (32 << 20) + 7] {
            let bytes = noise(len);
            let content = hashed(&bytes);
            assert_eq!(content.sha256, FileDigest::of(&bytes), "{len}");
            let mut rest = bytes.as_slice();
            for chunk in &content.chunks {
                let (head, tail) = rest.split_at(chunk.len as usize);
                assert_eq!(ChunkId::of(head), chunk.id);
                rest = tail;
            }
            assert!(rest.is_empty());
            assert_eq!(content.chunks.len() <= 1, len <= 65_536);
        }
    }

    #[test]
    fn a_file_that_is_not_what_it_was_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before").unwrap();
        let stat = FileStat::from(&fstat(&file).unwrap());
        file.write_all(b" and after").unwrap();
        file.rewind().unwrap();
        assert_eq!(hash(&file, "f", &stat).unwrap_err().kind, Kind::Invalid);
    }
}
