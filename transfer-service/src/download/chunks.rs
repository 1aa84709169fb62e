//! `POST /chunks/{project}/{app}/{version}`: many chunks of a version in one stream.
//!
//! The body says which references of the manifest are wanted; the chunks come in that order, as they are
//! stored. The receiver has the manifest and verifies each one by it.

use std::slice;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use kkartifact_model::ChunkId;
use kkartifact_model::manifest::{ManifestRoot, RefSet};
use kkartifact_model::wire::{BatchWriter, Part, STREAM_TYPE, StoredChunk, encode_end, encode_error};
use kkartifact_service::http::extract::{AnyVersion, RawBody};
use kkartifact_service::http::stream::{Outgoing, log_cut, outgoing};
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources, lifecycle};
use kkartifact_store::VersionRow;
use tokio::runtime::Handle;

pub(crate) async fn post(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    app: AuthorizedApp,
    AnyVersion(version): AnyVersion,
    RawBody(body): RawBody,
) -> ApiResult<Response> {
    let mut tx = resources.db.read().await?;
    let row = lifecycle::readable(&mut tx, &app, &version).await?;
    tx.commit().await?;
    let turn = resources.downloads.take().await?;
    let root = match resources.content.root(app.id, row.manifest_root).await {
        Ok(root) => root,
        Err(error) => return Err(lifecycle::explain(&resources.db, slice::from_ref(&row), error).await),
    };
    let wanted = RefSet::decode(&body, root.refs()).map_err(|error| ApiError::invalid(error.to_string()))?;
    let (sender, out) = outgoing(route.timeout);
    let sending = Sending {
        resources: resources.clone(),
        handle: Handle::current(),
        version: row,
        sender,
        waiting: Vec::new(),
        batch: BatchWriter::in_order(),
        sent: 0,
        bytes: 0,
    };
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        sending.run(root, &wanted);
    });
    let heads = [(header::CONTENT_TYPE, STREAM_TYPE), (header::CACHE_CONTROL, "private, no-store")];
    Ok((heads, out.begin().await?).into_response())
}

/// How many chunks are located together.
const BATCH: usize = 500;
/// Read and sent together: stored bytes.
const PIECE: u64 = 256 << 10;

/// Sends chunks. Runs on a thread that may block.
struct Sending {
    resources: Resources,
    handle: Handle,
    version: VersionRow,
    sender: Outgoing,
    waiting: Vec<ChunkId>,
    batch: BatchWriter,
    sent: u64,
    bytes: u64,
}

/// Whether the receiver is still there.
enum Receiver {
    Listens,
    Gone,
}

impl Sending {
    fn run(mut self, root: Arc<ManifestRoot>, wanted: &RefSet) {
        let last = match self.send_wanted(root, wanted) {
            Ok(Receiver::Gone) => return,
            Ok(Receiver::Listens) => encode_end(self.sent),
            Err(error) => {
                let read = slice::from_ref(&self.version);
                let error = self.handle.block_on(lifecycle::explain(&self.resources.db, read, error));
                if self.sent == 0 {
                    self.handle.block_on(self.sender.fail(error));
                    return;
                }
                log_cut(&error);
                encode_error(&error.body())
            }
        };
        metrics::counter!("kkartifact_sent_bytes_total").increment(self.bytes);
        self.emit(last.into());
    }

    fn send_wanted(&mut self, root: Arc<ManifestRoot>, wanted: &RefSet) -> ApiResult<Receiver> {
        let mut runs = wanted.runs();
        let Some((mut start, mut count)) = runs.next() else { return Ok(Receiver::Listens) };
        let mut entries = self.resources.content.entries(self.version.app_id, root);
        let mut index = entries.skip_to_ref(start);
        for entry in entries {
            let entry = entry?;
            for chunk in entry.file().into_iter().flat_map(|file| &file.chunks) {
                if index == start + count {
                    match runs.next() {
                        Some(run) => (start, count) = run,
                        None => return self.flush(),
                    }
                }
                if (start..start + count).contains(&index) {
                    self.waiting.push(chunk.id);
                }
                index += 1;
                if self.waiting.len() == BATCH
                    && let Receiver::Gone = self.flush()?
                {
                    return Ok(Receiver::Gone);
                }
            }
        }
        self.flush()
    }

    /// Sends what is waiting.
    fn flush(&mut self) -> ApiResult<Receiver> {
        let (app, ids) = (self.version.app_id, std::mem::take(&mut self.waiting));
        let places = self.handle.block_on(self.resources.content.places(app, &ids))?;
        let mut rest = places.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let many = rest.iter().take_while(|at| {
                bytes += u64::from(at.stored_len);
                bytes <= PIECE
            });
            let (piece, tail) = rest.split_at(many.count().max(1));
            rest = tail;
            let read = self.handle.block_on(self.resources.content.read_stored(app, piece))?;
            for (at, stored) in piece.iter().zip(read) {
                self.bytes += stored.len() as u64;
                self.batch.push(&StoredChunk { id: at.id, len: at.len, stored }, Part::default());
            }
            self.sent += piece.len() as u64;
            for part in self.batch.take() {
                if let Receiver::Gone = self.emit(part) {
                    return Ok(Receiver::Gone);
                }
            }
        }
        Ok(Receiver::Listens)
    }

    fn emit(&self, bytes: Bytes) -> Receiver {
        if self.handle.block_on(self.sender.send(bytes)) { Receiver::Listens } else { Receiver::Gone }
    }
}
