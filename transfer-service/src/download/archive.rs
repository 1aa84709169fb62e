//! `GET /archive/{project}/{app}/{version}`: a whole version as one file, for hosts without the agent.
//!
//! The same version gives the same bytes, as long as the server is the same build.

mod contents;
mod pieces;
mod tar;
mod zip;

use std::io::{self, Write};
use std::slice;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use flate2::{Compression, GzBuilder};
use http::{HeaderMap, Method, StatusCode, header};
use kkartifact_model::Code;
use kkartifact_model::manifest::Mtime;
use kkartifact_service::http::extract::{AnyVersion, Query};
use kkartifact_service::http::stream::outgoing;
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources, lifecycle};
use kkartifact_store::VersionRow;
use serde::Deserialize;
use tokio::runtime::Handle;

use self::contents::Contents;
use self::pieces::{Buffered, Pieces};
use super::range::matches;

/// A zip lists its entries at its end, so all of them are kept in memory until then.
const ZIP_ENTRIES: u64 = 100_000;

const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// What a gzip header says where it does not say which system made it.
const UNKNOWN_SYSTEM: u8 = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Format {
    #[default]
    #[serde(rename = "tar.gz")]
    TarGz,
    #[serde(rename = "tar.zst")]
    TarZst,
    #[serde(rename = "zip")]
    Zip,
}

impl Format {
    /// What a file of this format ends with.
    const fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
            Self::Zip => "zip",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::TarGz => "application/gzip",
            Self::TarZst => "application/zstd",
            Self::Zip => "application/zip",
        }
    }
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    method: Method,
    app: AuthorizedApp,
    AnyVersion(version): AnyVersion,
    Query(Params { format }): Query<Params>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let mut tx = resources.db.read().await?;
    let row = lifecycle::readable(&mut tx, &app, &version).await?;
    tx.commit().await?;
    if format == Format::Zip && row.entry_count > ZIP_ENTRIES {
        let message = format!(
            "version {} has {} entries, and a zip takes at most {ZIP_ENTRIES}; ask for format=tar.gz",
            row.name, row.entry_count
        );
        return Err(ApiError::new(Code::TooLarge, message));
    }
    let etag = etag(format, &row);
    let file_name = format!("{}-{}.{}", row.app, row.name, format.extension());
    let heads = [
        (header::CONTENT_TYPE, format.media_type().to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")),
        (header::ETAG, etag.clone()),
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
    ];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| matches(tags, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, heads).into_response());
    }
    if method == Method::HEAD {
        return Ok(heads.into_response());
    }
    let turn = resources.downloads.take().await?;
    let root = match resources.content.root(app.id, row.manifest_root).await {
        Ok(root) => root,
        Err(error) => return Err(lifecycle::explain(&resources.db, slice::from_ref(&row), error).await),
    };
    let published = Mtime { secs: row.created_at.timestamp(), nanos: 0 };
    let mut contents = Contents::new(&resources.content, app.id, root, published);
    let (sender, body) = outgoing(route.timeout);
    let pieces = Pieces::new(sender);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        if let Err(error) = send(format, &mut contents, &pieces) {
            let why = lifecycle::explain(&resources.db, slice::from_ref(&row), error);
            pieces.fail(Handle::current().block_on(why));
        }
    });
    Ok((heads, body.begin().await?).into_response())
}

/// Names the very bytes: the manifest with its times, the time of what has none, the format.
fn etag(format: Format, row: &VersionRow) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(row.manifest_root.as_bytes()).update(&row.created_at.timestamp().to_le_bytes());
    format!("\"{}-{}\"", &hasher.finalize().to_hex()[..32], format.extension())
}

/// Sends an archive, as far as the receiver wants it. Blocks the thread.
fn send(format: Format, contents: &mut Contents, pieces: &Pieces) -> ApiResult<()> {
    let done = match format {
        Format::TarGz => tar_gz(contents, pieces),
        Format::TarZst => tar_zst(contents, pieces),
        Format::Zip => zip::write(contents, pieces),
    };
    metrics::counter!("kkartifact_sent_bytes_total").increment(pieces.sent());
    match done {
        Err(error) if !pieces.are_unwanted() => {
            Err(error.downcast::<ApiError>().unwrap_or_else(ApiError::internal))
        }
        _ => Ok(()),
    }
}

fn tar_gz(contents: &mut Contents, pieces: &Pieces) -> io::Result<()> {
    let gzip = GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM);
    let gzip = gzip.write(Buffered::new(pieces), Compression::new(GZIP_LEVEL));
    tar::write(contents, pieces, gzip)?.finish()?.flush()
}

fn tar_zst(contents: &mut Contents, pieces: &Pieces) -> io::Result<()> {
    let mut zstd = zstd::stream::write::Encoder::new(Buffered::new(pieces), ZSTD_LEVEL)?;
    zstd.include_checksum(true)?;
    tar::write(contents, pieces, zstd)?.finish()?.flush()
}
