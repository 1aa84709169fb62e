//! Sending what is missing: a few long streams, each fed by a thread that reads, verifies and compresses.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{Entry, RefSet};
use kkartifact_model::wire::{BatchWriter, Compressor, Part, StoredChunk, encode_end};
use rustix::fs::{Mode, OFlags, openat};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::crashed;
use crate::client::Attempt;
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::progress::Step;
use crate::tree::DirStack;

/// A stream is worth opening for so many bytes.
const STREAM: u64 = 16 << 20;
/// How many frames may wait for the network, per stream.
const QUEUE: usize = 2;

/// Which references go over which stream.
pub(super) struct Plan {
    /// What to send: each missing chunk once.
    wanted: RefSet,
    bytes: u64,
    streams: Vec<Stream>,
}

/// The blocks of one stream, and the first reference in them.
struct Stream {
    blocks: Range<usize>,
    first_ref: u64,
}

/// Divides what is missing among streams. A chunk that occurs twice is sent once.
pub(super) fn plan(manifest: &ManifestFile, missing: &RefSet, concurrency: usize) -> Result<Plan> {
    let mut wanted = missing.clone();
    let (mut seen, mut index) = (HashSet::new(), 0u64);
    let mut bytes = Vec::with_capacity(manifest.root().blocks.len());
    for block in 0..manifest.root().blocks.len() {
        let mut block_bytes = 0;
        for entry in manifest.block(block)? {
            for chunk in entry.file().into_iter().flat_map(|file| &file.chunks) {
                if wanted.contains(index) {
                    if seen.insert(half(&chunk.id)) {
                        block_bytes += u64::from(chunk.len);
                    } else {
                        wanted.remove(index);
                    }
                }
                index += 1;
            }
        }
        bytes.push(block_bytes);
    }
    let total: u64 = bytes.iter().sum();
    let count = (total / STREAM).clamp(1, concurrency as u64);
    Ok(Plan { wanted, bytes: total, streams: divide(manifest, &bytes, total.div_ceil(count)) })
}

/// Half of an id tells chunks apart well enough; what it would not, the server would ask for again.
fn half(id: &ChunkId) -> u128 {
    id.as_bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Cuts the blocks into runs of about `share` bytes.
fn divide(manifest: &ManifestFile, bytes: &[u64], share: u64) -> Vec<Stream> {
    let (mut streams, mut start, mut first_ref, mut refs, mut sum) = (Vec::new(), 0, 0, 0, 0);
    for (block, block_bytes) in bytes.iter().enumerate() {
        sum += block_bytes;
        refs += manifest.root().blocks[block].refs;
        if sum >= share.max(1) {
            streams.push(Stream { blocks: start..block + 1, first_ref });
            (start, first_ref, sum) = (block + 1, refs, 0);
        }
    }
    if sum > 0 {
        streams.push(Stream { blocks: start..bytes.len(), first_ref });
    }
    streams
}

/// Sends a plan; how many chunks. On failure what has arrived whole is kept by the server.
pub(super) async fn send(
    agent: &Agent,
    manifest: &ManifestFile,
    root: &OwnedFd,
    upload: Uuid,
    plan: Plan,
) -> Result<u64, Attempt> {
    let step = agent.progress.bytes("sending", plan.bytes);
    let wanted = std::sync::Arc::new(plan.wanted);
    let mut running = tokio::task::JoinSet::new();
    for stream in plan.streams {
        let root = root.try_clone().map_err(AgentError::io("opening the source")).map_err(Attempt::Final)?;
        let (frames, receiver) = mpsc::channel(QUEUE);
        let mut feeder = Feeder {
            manifest: manifest.clone(),
            dirs: DirStack::existing(root),
            wanted: wanted.clone(),
            batch: BatchWriter::with_ids(),
            piece: usize::try_from(agent.config.chunk_size).unwrap_or(usize::MAX),
            squeeze: Squeeze::default(),
            frames,
            step: step.clone(),
            chunks: 0,
        };
        let client = agent.client.clone();
        running.spawn(async move {
            let feeding = tokio::task::spawn_blocking(move || feeder.feed(&stream).map(|()| feeder.chunks));
            let answer = client.upload_chunks(upload, receiver).await;
            let fed = feeding.await.map_err(|error| crashed(&error)).and_then(|fed| fed);
            // What went wrong here explains what went wrong there.
            let chunks = fed.map_err(Attempt::Final)?;
            answer.map(|_| chunks)
        });
    }
    let mut chunks = 0;
    while let Some(done) = running.join_next().await {
        chunks += done.map_err(|error| crashed(&error)).map_err(Attempt::Final)??;
    }
    step.done();
    Ok(chunks)
}

/// Reads, verifies and compresses the chunks of one stream. Runs on a thread that may block.
struct Feeder {
    manifest: ManifestFile,
    dirs: DirStack,
    wanted: std::sync::Arc<RefSet>,
    batch: BatchWriter,
    piece: usize,
    squeeze: Squeeze,
    frames: mpsc::Sender<Bytes>,
    step: Step,
    chunks: u64,
}

/// The network side has stopped: its own error says why.
struct Stopped;

impl Feeder {
    fn feed(&mut self, stream: &Stream) -> Result<()> {
        let mut index = stream.first_ref;
        for block in stream.blocks.clone() {
            for entry in self.manifest.block(block)? {
                let refs = index..index + entry.ref_count();
                index = refs.end;
                if refs.clone().any(|index| self.wanted.contains(index))
                    && let Err(Stopped) = self.file(&entry, refs)?
                {
                    return Ok(());
                }
            }
        }
        if self.flush().is_ok() {
            drop(self.frames.blocking_send(encode_end(self.chunks).into()));
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry, refs: Range<u64>) -> Result<Result<(), Stopped>> {
        let Some(file) = entry.file() else { return Ok(Ok(())) };
        let path = entry.path.as_str();
        let open = |dirs: &mut DirStack| {
            let (dir, name) = dirs.parent_of(path)?;
            // Not blocking: a pipe may have taken the file's place.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(dir.as_fd(), name, flags, Mode::empty())
        };
        let source = File::from(open(&mut self.dirs).map_err(AgentError::os(format!("opening {path:?}")))?);
        // Only a file that goes whole, from first to last, can be verified by the server on the way.
        let whole = refs.clone().all(|index| self.wanted.contains(index));
        let (mut offset, last) = (0, file.chunks.len() - 1);
        self.squeeze.start_file();
        for (at, (chunk, index)) in file.chunks.iter().zip(refs).enumerate() {
            if self.wanted.contains(index) {
                let mut bytes = vec![0; chunk.len as usize];
                let read = source.read_exact_at(&mut bytes, offset);
                if read.is_err() || ChunkId::of(&bytes) != chunk.id {
                    let message = format!("{path:?} has changed since it was scanned");
                    return Err(
                        AgentError::new(Kind::Invalid, message).hint("push again when the build is finished")
                    );
                }
                let stored =
                    StoredChunk { id: chunk.id, len: chunk.len, stored: self.squeeze.compress(bytes) };
                self.batch.push(&stored, Part { first: whole && at == 0, last: whole && at == last });
                self.chunks += 1;
                self.step.add(u64::from(chunk.len));
                if self.batch.len() >= self.piece && self.flush().is_err() {
                    return Ok(Err(Stopped));
                }
            }
            offset += u64::from(chunk.len);
        }
        Ok(Ok(()))
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch
            .take()
            .into_iter()
            .try_for_each(|part| self.frames.blocking_send(part))
            .map_err(|_| Stopped)
    }
}

/// Compresses what compresses. In a file whose first chunks don't, only one in so many is tried.
#[derive(Default)]
struct Squeeze {
    compressor: Compressor,
    in_vain: u32,
    skip: u32,
}

impl Squeeze {
    const PATIENCE: u32 = 3;
    const SKIP: u32 = 31;

    /// Another file: what was learnt of the last one does not count.
    fn start_file(&mut self) {
        (self.in_vain, self.skip) = (0, 0);
    }

    fn compress(&mut self, bytes: Vec<u8>) -> Bytes {
        if self.skip > 0 {
            self.skip -= 1;
            return bytes.into();
        }
        if let Some(compressed) = self.compressor.compress(&bytes) {
            self.in_vain = 0;
            return compressed.into();
        }
        self.in_vain += 1;
        if self.in_vain >= Self::PATIENCE {
            self.skip = Self::SKIP;
        }
        bytes.into()
    }
}
