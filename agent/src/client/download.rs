//! Pulling: manifests and chunks as streams that go on where they broke off.

use std::collections::VecDeque;

use bytes::Bytes;
use kkartifact_model::manifest::{Record, RecordRun, RefSet};
use kkartifact_model::wire::{Frame, FrameReader, STREAM_TYPE, WireChunk};
use kkartifact_model::{AppName, Code, ManifestDigest, ProjectName, VersionName};
use reqwest::{Method, RequestBuilder, Response};

use super::retry::Patience;
use super::{Attempt, Client, SILENCE, escape};
use crate::error::{AgentError, Kind, Result};

/// A version by all its names.
#[derive(Debug, Clone)]
pub struct VersionPath {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// Which.
    pub version: VersionName,
}

impl VersionPath {
    fn of(&self, what: &str) -> String {
        format!("/{what}/{}/{}/{}", self.project, self.app, escape(self.version.as_str()))
    }
}

/// The frames of an answer.
struct Frames {
    client: Client,
    response: Response,
    reader: FrameReader,
}

impl Frames {
    async fn next_frame(&mut self) -> Result<Frame, Attempt> {
        loop {
            if let Some(frame) = self.reader.next_frame().map_err(|error| damaged(error.0))? {
                return match frame {
                    Frame::Error(body) => Err(Attempt::Transient(AgentError::refused(body), None)),
                    frame => Ok(frame),
                };
            }
            let piece = tokio::time::timeout(SILENCE, self.response.chunk()).await;
            let piece = piece.map_err(|_| cut("nothing came for two minutes"))?;
            match piece.map_err(|error| Attempt::network(&error))? {
                Some(piece) => {
                    self.client.count_received(piece.len());
                    self.reader.push(&piece);
                }
                None => return Err(cut("the connection was cut")),
            }
        }
    }
}

fn cut(why: &str) -> Attempt {
    Attempt::Transient(AgentError::new(Kind::Unavailable, format!("a download broke off: {why}")), None)
}

fn damaged(why: &str) -> Attempt {
    Attempt::Final(AgentError::new(Kind::Invalid, format!("the server's stream is malformed: {why}")))
}

/// A manifest, or the changes that make it from a base, one record after the other.
pub struct ManifestStream {
    frames: Frames,
    records: RecordRun,
    count: u64,
}

impl ManifestStream {
    /// The next record; `None` after the last.
    pub async fn next_record(&mut self) -> Result<Option<Record>, Attempt> {
        loop {
            if let Some(record) = self.records.next() {
                self.count += 1;
                return record.map(Some).map_err(|error| damaged(error.0));
            }
            match self.frames.next_frame().await? {
                Frame::Records(run) => {
                    self.records = RecordRun::new(run);
                }
                Frame::End(count) if count == self.count => return Ok(None),
                _ => return Err(damaged("it ends with the wrong frame")),
            }
        }
    }
}

impl Client {
    async fn frames(&self, request: RequestBuilder) -> Result<Frames, Attempt> {
        let answer = tokio::time::timeout(SILENCE, self.checked(request.header("accept", STREAM_TYPE))).await;
        let response = answer.map_err(|_| cut("the server does not answer"))??;
        Ok(Frames { client: self.clone(), response, reader: FrameReader::default() })
    }

    /// A version's manifest, told by `base` if the server knows that very manifest.
    pub async fn manifest(
        &self,
        version: &VersionPath,
        base: Option<(&VersionName, &ManifestDigest)>,
    ) -> Result<ManifestStream, Attempt> {
        let mut query = vec![("format", "stream".to_owned())];
        if let Some((name, digest)) = base {
            query.extend([("base", name.to_string()), ("base_digest", digest.to_string())]);
        }
        let frames = self.frames(self.request(Method::GET, &version.of("manifest")).query(&query)).await?;
        Ok(ManifestStream { frames, records: RecordRun::default(), count: 0 })
    }

    /// The chunks of a version that are wanted, in order.
    pub fn chunks(&self, version: &VersionPath, wanted: RefSet) -> ChunkStream {
        ChunkStream {
            client: self.clone(),
            path: version.of("chunks"),
            wanted,
            next: 0,
            frames: None,
            ready: VecDeque::new(),
            patience: Patience::default(),
        }
    }
}

/// Whether a base was refused, so that the whole manifest has to be asked for.
pub fn is_base_refused(attempt: &Attempt) -> bool {
    let Attempt::Final(error) = attempt else { return false };
    matches!(
        error.code,
        Some(
            Code::BaseMismatch
                | Code::NotFound
                | Code::VersionQuarantined
                | Code::VersionArchived
                | Code::VersionDeleted
        )
    )
}

/// Chunks in the order of their references. A stream that breaks off is asked for again from where it broke.
pub struct ChunkStream {
    client: Client,
    path: String,
    /// What has not come yet.
    wanted: RefSet,
    /// Where in it the next chunk is.
    next: u64,
    frames: Option<Frames>,
    ready: VecDeque<WireChunk>,
    patience: Patience,
}

impl ChunkStream {
    /// The next chunk as it is stored; the caller verifies it.
    pub async fn next_chunk(&mut self) -> Result<WireChunk> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.took();
                return Ok(chunk);
            }
            match self.more().await {
                Ok(()) => self.patience.renew(),
                Err(attempt) => {
                    self.frames = None;
                    self.patience.wait(attempt).await?;
                }
            }
        }
    }

    /// Notes that the first of the wanted chunks has come.
    fn took(&mut self) {
        let first = self.wanted.runs_from(self.next).next().map(|(first, _)| first);
        if let Some(first) = first {
            self.wanted.remove(first);
            self.next = first + 1;
        }
    }

    async fn more(&mut self) -> Result<(), Attempt> {
        if self.frames.is_none() {
            let wanted = Bytes::from(self.wanted.encode());
            self.client.count_sent(wanted.len());
            let request = self.client.request(Method::POST, &self.path).body(wanted);
            self.frames = Some(self.client.frames(request).await?);
        }
        let Some(frames) = &mut self.frames else { return Ok(()) };
        match frames.next_frame().await? {
            Frame::Chunks(chunks) => {
                self.ready.extend(chunks);
                Ok(())
            }
            _ => Err(damaged("it ended before all chunks had come")),
        }
    }
}
