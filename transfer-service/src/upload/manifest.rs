//! `PUT /upload/{upload}/manifest`: takes the manifest, whole or told by the base, and answers what is missing.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, header};
use kkartifact_model::api::upload::Missing;
use kkartifact_model::chunking::ChunkSizes;
use kkartifact_model::manifest::diff::apply;
use kkartifact_model::manifest::{Applied, Entry, Malformed, ManifestBuilder, ManifestRoot, Record, RefSet};
use kkartifact_model::wire::{Compressor, STREAM_TYPE, StoredChunk};
use kkartifact_model::{ChunkId, Code, TreeDigest, failpoint};
use kkartifact_service::http::extract::Json;
use kkartifact_service::http::stream::incoming;
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources};
use kkartifact_store::{PackId, UploadRow, VersionRow};
use tokio::sync::mpsc;

use super::intake::Intake;
use super::lookup::Lookup;
use super::record_stream::RecordStream;
use super::session::{OpenUpload, closed, keep_open};

pub(crate) async fn put(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    upload: OpenUpload,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Missing>> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != STREAM_TYPE) {
        return Err(ApiError::new(Code::UnsupportedMediaType, format!("send the manifest as {STREAM_TYPE}")));
    }
    let turn = resources.uploads.take().await?;
    let base = base(&resources, &upload).await?;
    let pieces = incoming(body, resources.config.limits.manifest_size.0, route.timeout);
    let OpenUpload { row, app } = upload;
    let worker = resources.clone();
    let (row, received) = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        receive(&worker, &row, app, base, pieces).map(|received| (row, received))
    })
    .await
    .map_err(ApiError::internal)??;
    record(&resources, &row, &received).await?;
    Ok(Json(answer(&received.missing)))
}

/// What was received.
struct Received {
    root_id: ChunkId,
    missing: RefSet,
    /// The packs that hold what is not missing.
    packs: Vec<PackId>,
}

async fn base(
    resources: &Resources,
    upload: &OpenUpload,
) -> ApiResult<Option<(VersionRow, Arc<ManifestRoot>)>> {
    let Some(id) = upload.row.base_version_id else { return Ok(None) };
    let mut tx = resources.db.read().await?;
    let row = tx.version(id).await?.ok_or_else(|| ApiError::internal("a base version vanished"))?;
    tx.commit().await?;
    let root = resources.content.root(row.app_id, row.manifest_root).await?;
    Ok(Some((row, root)))
}

fn receive(
    resources: &Resources,
    upload: &UploadRow,
    app: AuthorizedApp,
    base: Option<(VersionRow, Arc<ManifestRoot>)>,
    pieces: mpsc::Receiver<ApiResult<Bytes>>,
) -> ApiResult<Received> {
    let records = RecordStream::new(pieces);
    let mut lookup = Lookup::new(resources.content.clone(), app.id);
    let mut store = ManifestStore::new(resources, app, upload);
    if let Some((row, root)) = base {
        let entries = resources.content.entries(row.app_id, root);
        for applied in apply(entries, records, max_chunks(resources)) {
            let Applied { entry, inherited } = applied?;
            store.push(&entry)?;
            lookup.add(&entry, inherited)?;
        }
    } else {
        for record in records {
            let Record::Put(entry) = record? else {
                return Err(Malformed("a change without a base").into());
            };
            store.push(&entry)?;
            lookup.add(&entry, false)?;
        }
    }
    let (root_id, root) = store.finish()?;
    if let Some(announced) = upload.tree_digest().filter(|announced| *announced != root.tree_digest) {
        return Err(not_announced(announced, root.tree_digest));
    }
    let (missing, packs) = lookup.finish()?;
    Ok(Received { root_id, missing, packs })
}

/// The refusal of content that is not what `init` announced.
pub(super) fn not_announced(announced: TreeDigest, found: TreeDigest) -> ApiError {
    let message = format!("the content's tree digest is {found}, but {announced} was announced");
    ApiError::new(Code::InvalidManifest, message)
}

/// The longest chunk list of a file within the limits.
fn max_chunks(resources: &Resources) -> usize {
    let size = resources.config.limits.file_size.0;
    usize::try_from(size / u64::from(ChunkSizes::for_file(size).min) + 1).unwrap_or(usize::MAX)
}

/// Builds a manifest and stores its blocks and its root like other chunks.
pub(super) struct ManifestStore {
    builder: ManifestBuilder,
    blocks: Blocks,
}

/// Blocks on their way into storage.
struct Blocks {
    intake: Intake,
    compressor: Compressor,
    waiting: Vec<StoredChunk>,
}

/// How many blocks are stored together.
const BLOCKS: usize = 32;

impl ManifestStore {
    pub(super) fn new(resources: &Resources, app: AuthorizedApp, upload: &UploadRow) -> Self {
        let intake = Intake::new(resources, app, upload.id);
        Self {
            builder: ManifestBuilder::new(resources.config.tree_limits()),
            blocks: Blocks { intake, compressor: Compressor::new(), waiting: Vec::new() },
        }
    }

    pub(super) fn push(&mut self, entry: &Entry) -> ApiResult<()> {
        match self.builder.push(entry)? {
            Some(block) => self.blocks.push(&block.records).map(drop),
            None => Ok(()),
        }
    }

    /// Stores the rest durably; the root's id and the root.
    pub(super) fn finish(mut self) -> ApiResult<(ChunkId, ManifestRoot)> {
        let (last, root) = self.builder.finish();
        if let Some(block) = last {
            self.blocks.push(&block.records)?;
        }
        let id = self.blocks.push(&root.encode())?;
        self.blocks.flush()?;
        self.blocks.intake.finish()?;
        Ok((id, root))
    }
}

impl Blocks {
    fn push(&mut self, bytes: &[u8]) -> ApiResult<ChunkId> {
        let chunk = StoredChunk::new(&mut self.compressor, bytes);
        let id = chunk.id;
        self.waiting.push(chunk);
        if self.waiting.len() == BLOCKS {
            self.flush()?;
        }
        Ok(id)
    }

    fn flush(&mut self) -> ApiResult<()> {
        self.intake.store_made(std::mem::take(&mut self.waiting))
    }
}

async fn record(resources: &Resources, upload: &UploadRow, received: &Received) -> ApiResult<()> {
    let mut tx = resources.db.begin().await?;
    pin(&mut tx, upload, &received.packs).await?;
    if !tx.set_upload_manifest(upload.id, &received.root_id, resources.upload_end()).await? {
        return Err(closed(upload));
    }
    tx.commit().await?;
    failpoint::reach("manifest.recorded");
    Ok(())
}

/// Relies on packs from now until the upload ends: in the transaction that goes before "not missing".
async fn pin(tx: &mut kkartifact_store::Tx, upload: &UploadRow, packs: &[PackId]) -> ApiResult<()> {
    if !tx.lock_packs(packs).await?.is_empty() {
        return Err(ApiError::unavailable("storage is being tidied up; try again", "a pack was claimed"));
    }
    Ok(tx.pin_packs(upload.id, packs).await?)
}

fn answer(missing: &RefSet) -> Missing {
    Missing { refs: missing.universe(), count: missing.count(), set: STANDARD.encode(missing.encode()) }
}

/// `GET /upload/{upload}/missing`: what is missing now, for a sender that was interrupted.
pub(crate) async fn missing(
    State(resources): State<Resources>,
    upload: OpenUpload,
) -> ApiResult<Json<Missing>> {
    let root_id = upload.row.manifest_root().ok_or_else(|| {
        ApiError::new(Code::UploadIncomplete, "the upload has no manifest yet; send it first")
    })?;
    let app = upload.app.id;
    let turn = resources.publishing.take().await?;
    let root = resources.content.root(app, root_id).await?;
    let content = resources.content.clone();
    let (missing, packs) = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut lookup = Lookup::new(content.clone(), app);
        for entry in content.entries(app, root) {
            lookup.add(&entry?, false)?;
        }
        lookup.finish()
    })
    .await
    .map_err(ApiError::internal)??;
    let mut tx = resources.db.begin().await?;
    keep_open(&mut tx, &resources, &upload.row).await?;
    pin(&mut tx, &upload.row, &packs).await?;
    tx.commit().await?;
    Ok(Json(answer(&missing)))
}
