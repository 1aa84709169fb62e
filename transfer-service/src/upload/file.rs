//! `PUT /file/{project}/{app}/{version}?path=`: takes one file, for clients that speak plain HTTP.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use bytes::{Bytes, BytesMut};
use http::header;
use http::request::Parts;
use kkartifact_blob::PackChunk;
use kkartifact_model::api::upload::FileReceived;
use kkartifact_model::chunking::{ChunkSizes, WHOLE_FILE};
use kkartifact_model::manifest::{
    ChunkRef, Entry, FileNode, MAX_FILE_CHUNKS, Mode, Mtime, Node, RecordWriter,
};
use kkartifact_model::time::parse_mtime;
use kkartifact_model::wire::{Compressor, StoredChunk};
use kkartifact_model::{Code, FileDigest, TreePath};
use kkartifact_service::http::extract::{Json, NamedVersion, Query};
use kkartifact_service::http::stream::incoming;
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{Tx, UploadRow};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::intake::Intake;
use super::session::{find, keep_open};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Where in the version.
    path: String,
    /// Which upload; the caller's open one of the version if absent.
    upload_id: Option<Uuid>,
    /// SHA-256 that the content must have.
    sha256: Option<FileDigest>,
    /// Octal permission bits; 0644 if absent.
    mode: Option<String>,
    /// RFC 3339.
    mtime: Option<String>,
}

/// Where a file is put: everything but its content, checked.
pub(crate) struct Destination {
    app: AuthorizedApp,
    upload: UploadRow,
    path: TreePath,
    mode: Mode,
    mtime: Option<Mtime>,
    sha256: Option<FileDigest>,
    /// What was announced at the start of the upload.
    announced: Option<(FileDigest, u64)>,
    /// Bytes, if the client says so.
    size: Option<u64>,
}

impl FromRequestParts<Resources> for Destination {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, resources: &Resources) -> ApiResult<Self> {
        let Query(params) = Query::<Params>::from_request_parts(parts, resources).await?;
        let caller = Caller::from_request_parts(parts, resources).await?;
        let app = AuthorizedApp::from_request_parts(parts, resources).await?;
        let NamedVersion(version) = NamedVersion::from_request_parts(parts, resources).await?;
        let path = TreePath::new(params.path)
            .map_err(|error| ApiError::new(Code::InvalidPath, error.to_string()))?;
        let mut tx = resources.db.begin().await?;
        let upload = match params.upload_id {
            Some(id) => {
                let found = find(&mut tx, &caller, id).await?.0;
                Some(found).filter(|row| row.app_id == app.id && row.version_name == version)
            }
            None => tx.find_open_upload(app.id, &version, caller.principal, resources.clock.now()).await?,
        };
        let upload = upload
            .ok_or_else(|| ApiError::not_found(&format!("an open upload of yours of version {version}")))?;
        keep_open(&mut tx, resources, &upload).await?;
        let announced = announced(&mut tx, resources, &upload, &path).await?;
        tx.commit().await?;
        Ok(Self {
            app,
            upload,
            path,
            mode: parse_mode(params.mode.as_deref())?,
            mtime: params.mtime.as_deref().map(parse_time).transpose()?,
            sha256: params.sha256,
            announced,
            size: parts
                .headers
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok()),
        })
    }
}

fn parse_mode(text: Option<&str>) -> ApiResult<Mode> {
    let Some(text) = text else { return Ok(Mode::FILE) };
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 => Ok(Mode::from_bits(bits)),
        _ => Err(ApiError::invalid("mode is octal, 0 to 0777")),
    }
}

fn parse_time(text: &str) -> ApiResult<Mtime> {
    parse_mtime(text).ok_or_else(|| ApiError::invalid("mtime is a time such as 2025-12-26T17:30:00Z"))
}

/// What was announced for the path. An error if the upload takes no such file.
async fn announced(
    tx: &mut Tx,
    resources: &Resources,
    upload: &UploadRow,
    path: &TreePath,
) -> ApiResult<Option<(FileDigest, u64)>> {
    if upload.manifest_root().is_some() {
        return Err(ApiError::invalid("this upload has a manifest; its content comes as chunks"));
    }
    if let Some(file) = tx.find_upload_file(upload.id, path).await? {
        return Ok(file.expected());
    }
    let limit = resources.config.upload.put_files;
    if tx.count_upload_files(upload.id).await? >= u64::from(limit) {
        let message =
            format!("at most {limit} files can be put one by one; push larger trees with the agent");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    Ok(None)
}

pub(crate) async fn put(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    to: Destination,
    body: Body,
) -> ApiResult<Json<FileReceived>> {
    let turn = resources.uploads.take().await?;
    let pieces = incoming(body, resources.config.limits.file_size.0, route.timeout);
    let intake = Intake::new(&resources, to.app.clone(), to.upload.id);
    let size = to.size;
    let file = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        take(intake, Window { pieces, buffer: BytesMut::new(), ended: false }, size)
    })
    .await
    .map_err(ApiError::internal)??;

    let (path, sha256, size) = (to.path, file.sha256, file.size);
    let wanted = to.sha256.map(|sha256| (sha256, size));
    if let Some((digest, bytes)) = wanted.into_iter().chain(to.announced).find(|w| *w != (sha256, size)) {
        let message =
            format!("{path} has SHA-256 {sha256} and {size} bytes; {digest} and {bytes} were announced");
        return Err(ApiError::new(Code::DigestMismatch, message));
    }
    let node = Node::File(FileNode { mode: to.mode, mtime: to.mtime, ..file });
    let mut record = RecordWriter::default();
    record.put(&Entry { path: path.clone(), node });
    let mut tx = resources.db.begin().await?;
    keep_open(&mut tx, &resources, &to.upload).await?;
    tx.put_upload_file(to.upload.id, &path, &record.take()).await?;
    tx.commit().await?;
    Ok(Json(FileReceived { path, sha256, size }))
}

/// A body as a window that is filled from the front.
struct Window {
    pieces: mpsc::Receiver<ApiResult<Bytes>>,
    buffer: BytesMut,
    ended: bool,
}

impl Window {
    /// Fills the window to `wanted` bytes or the body's end; whether anything is left.
    fn fill(&mut self, wanted: usize) -> ApiResult<bool> {
        while !self.ended && self.buffer.len() < wanted {
            match self.pieces.blocking_recv() {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None => self.ended = true,
            }
        }
        Ok(!self.buffer.is_empty())
    }
}

/// Chunks are handed on once they have so many bytes together.
const BATCH: usize = 1 << 20;

/// Reads a body, cuts it into chunks and makes them durable.
fn take(mut intake: Intake, mut body: Window, size: Option<u64>) -> ApiResult<FileNode> {
    let sizes = ChunkSizes::for_file(size.unwrap_or(0));
    let (mut sha256, mut compressor) = (Sha256::new(), Compressor::new());
    let (mut chunks, mut batch, mut waiting, mut total) = (Vec::new(), Vec::new(), 0, 0);
    while body.fill(sizes.max as usize)? {
        let whole = chunks.is_empty() && body.ended && body.buffer.len() as u64 <= WHOLE_FILE;
        let len = if whole { body.buffer.len() } else { sizes.cut(&body.buffer) };
        let bytes = body.buffer.split_to(len).freeze();
        sha256.update(&bytes);
        let chunk = StoredChunk::new(&mut compressor, &bytes);
        chunks.push(ChunkRef { id: chunk.id, len: chunk.len });
        let digest = whole.then(|| FileDigest::of(&bytes));
        batch.push(PackChunk { id: chunk.id, len: chunk.len, sha256: digest, stored: chunk.stored });
        if chunks.len() > MAX_FILE_CHUNKS {
            let message =
                "too large for a file of unknown size; send its Content-Length, or push it with the agent";
            return Err(ApiError::new(Code::TooLarge, message));
        }
        waiting += len;
        total += len as u64;
        if waiting >= BATCH {
            intake.store(std::mem::take(&mut batch))?;
            waiting = 0;
        }
    }
    intake.store(batch)?;
    let sha256 = FileDigest::from_bytes(sha256.finalize().into());
    let file = FileNode { mode: Mode::FILE, mtime: None, size: total, sha256, chunks };
    intake.note_file(&file);
    intake.finish()?;
    Ok(file)
}
