//! `GET` and `HEAD /file/{project}/{app}/{version}?path=`: one file, streamed, with ranges.

use std::ops::Range;
use std::slice;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use kkartifact_model::manifest::{ChunkRef, FileNode, Node};
use kkartifact_model::{Code, TreePath};
use kkartifact_service::content::together;
use kkartifact_service::http::extract::{AnyVersion, Query};
use kkartifact_service::http::stream::{Outgoing, outgoing};
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources, lifecycle};
use kkartifact_store::{AppId, VersionRow};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::range::{Wanted, wanted};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    path: String,
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    method: Method,
    app: AuthorizedApp,
    AnyVersion(version): AnyVersion,
    Query(params): Query<Params>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let path =
        TreePath::new(params.path).map_err(|error| ApiError::new(Code::InvalidPath, error.to_string()))?;
    let mut tx = resources.db.read().await?;
    let row = lifecycle::readable(&mut tx, &app, &version).await?;
    tx.commit().await?;
    let found = async {
        let root = resources.content.root(app.id, row.manifest_root).await?;
        resources.content.find(app.id, &root, &path).await
    };
    let entry = match found.await {
        Ok(entry) => entry,
        Err(error) => return Err(lifecycle::explain(&resources.db, slice::from_ref(&row), error).await),
    };
    let entry = entry.ok_or_else(|| ApiError::not_found(&format!("{path} in version {}", row.name)))?;
    let Node::File(file) = entry.node else {
        return Err(ApiError::new(Code::InvalidPath, format!("{path} is not a regular file")));
    };

    let etag = format!("\"{}\"", file.sha256);
    let (status, range) = match wanted(&headers, &etag, file.size) {
        Wanted::Whole => (StatusCode::OK, 0..file.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::NotModified => {
            let heads = [(header::ETAG, etag), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
            return Ok((StatusCode::NOT_MODIFIED, heads).into_response());
        }
        Wanted::Unsatisfiable => {
            let message = format!("{path} has {} bytes; the range lies outside", file.size);
            let error = ApiError::new(Code::RangeNotSatisfiable, message);
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{}", file.size))], error).into_response());
        }
    };
    let content_range = format!("bytes {}-{}/{}", range.start, range.end.max(1) - 1, file.size);
    let length = range.end - range.start;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let turn = resources.downloads.take().await?;
        stream(&resources, row, file, range, route.timeout, turn).await?
    };
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, etag),
            // Kept, but asked about each time, so that a revocation holds.
            (header::CACHE_CONTROL, "private, no-cache".to_owned()),
            // A build may contain a page; it must not run as ours.
            (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned()),
        ],
        body,
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = content_range.parse()
    {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Chunks are located and read together up to so many bytes.
const PIECE: u64 = 1 << 20;

async fn stream(
    resources: &Resources,
    version: VersionRow,
    file: FileNode,
    range: Range<u64>,
    silence: Duration,
    turn: OwnedSemaphorePermit,
) -> ApiResult<Body> {
    let (sender, body) = outgoing(silence);
    let resources = resources.clone();
    tokio::spawn(async move {
        let _turn = turn;
        if let Err(error) = send(&resources, version.app_id, &file, range, &sender).await {
            let error = lifecycle::explain(&resources.db, slice::from_ref(&version), error).await;
            sender.fail(error).await;
        }
    });
    body.begin().await
}

async fn send(
    resources: &Resources,
    app: AppId,
    file: &FileNode,
    range: Range<u64>,
    sender: &Outgoing,
) -> ApiResult<()> {
    let (first, mut start) = first_chunk(&file.chunks, range.start);
    let (last, _) = first_chunk(&file.chunks, range.end.max(range.start + 1) - 1);
    let mut rest = &file.chunks[first..(last + 1).min(file.chunks.len())];
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(together(rest, PIECE));
        rest = tail;
        let ids: Vec<_> = part.iter().map(|chunk| chunk.id).collect();
        for bytes in resources.content.read_chunks(app, &ids).await? {
            let end = start + bytes.len() as u64;
            let part =
                within(range.start.saturating_sub(start), range.end.saturating_sub(start), bytes.len());
            start = end;
            if !part.is_empty() && !sender.send(bytes.slice(part)).await {
                return Ok(());
            }
        }
    }
    metrics::counter!("kkartifact_sent_bytes_total").increment(range.end - range.start);
    Ok(())
}

/// The chunk that holds an offset, and where in the file it begins.
fn first_chunk(chunks: &[ChunkRef], offset: u64) -> (usize, u64) {
    let mut start = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        if start + u64::from(chunk.len) > offset {
            return (index, start);
        }
        start += u64::from(chunk.len);
    }
    (chunks.len(), start)
}

/// `from..to` cut to a chunk of `len` bytes.
fn within(from: u64, to: u64, len: usize) -> Range<usize> {
    let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(len);
    cut(from)..cut(to).max(cut(from))
}
