//! `GET /manifest/{project}/{app}/{version}`: as `meta.yaml`, as JSON, or as a stream for agents, whole or told
//! by a version that the agent has.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use kkartifact_model::api::version::Version;
use kkartifact_model::manifest::{ManifestRoot, RecordWriter, diff, render};
use kkartifact_model::wire::{STREAM_TYPE, encode_end, encode_records};
use kkartifact_model::{ChunkId, Code, ManifestDigest, VersionName, VersionRef};
use kkartifact_service::content::Entries;
use kkartifact_service::http::extract::{AnyVersion, Query};
use kkartifact_service::http::stream::{Outgoing, outgoing};
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources, lifecycle};
use kkartifact_store::{AppId, VersionRow};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::range::matches;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// `yaml`, `json` or `stream`; instead of `Accept`.
    format: Option<Format>,
    /// Tell the manifest by this version…
    base: Option<VersionName>,
    /// … of which the caller has this very manifest.
    base_digest: Option<ManifestDigest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Yaml,
    Json,
    Stream,
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
    let format = params.format.unwrap_or_else(|| negotiate(&headers));
    let mut tx = resources.db.read().await?;
    let row = lifecycle::readable(&mut tx, &app, &version).await?;
    let base = match (&params.base, params.base_digest) {
        (None, None) => None,
        (Some(name), Some(digest)) if format == Format::Stream => {
            let base = lifecycle::readable(&mut tx, &app, &VersionRef::Name(name.clone())).await?;
            if base.manifest_digest != digest {
                let message =
                    format!("your manifest of version {name} is not the server's; ask for the whole one");
                return Err(ApiError::new(Code::BaseMismatch, message));
            }
            Some(base)
        }
        _ => return Err(ApiError::invalid("base and base_digest go together, and with format=stream")),
    };
    let root_id = row.manifest_root;
    let read: Vec<_> = [&row].into_iter().chain(&base).cloned().collect();
    let described = tx.describe_version(row).await?;
    tx.commit().await?;

    let etag = etag(format, root_id, &described)?;
    let kind = match format {
        Format::Yaml => "application/yaml",
        Format::Json => "application/json",
        Format::Stream => STREAM_TYPE,
    };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let heads = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::ETAG, etag.clone()),
        (header::VARY, "accept".to_owned()),
        (header::CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    if base.is_none() && known.is_some_and(|tags| matches(tags, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, heads).into_response());
    }
    if method == Method::HEAD {
        return Ok(heads.into_response());
    }
    let turn = resources.downloads.take().await?;
    let roots = async {
        let root = resources.content.root(app.id, root_id).await?;
        let base = match base {
            Some(base) => Some(resources.content.root(app.id, base.manifest_root).await?),
            None => None,
        };
        Ok::<_, ApiError>((root, base))
    };
    let (root, base) = match roots.await {
        Ok(roots) => roots,
        Err(error) => return Err(lifecycle::explain(&resources.db, &read, error).await),
    };
    let (sender, body) = outgoing(route.timeout);
    let out = Output { handle: Handle::current(), sender };
    let writer = Writer { resources: resources.clone(), app: app.id, read, root, out };
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        writer.run(format, base, &described);
    });
    Ok((heads, body.begin().await?).into_response())
}

/// Names the very bytes: what the manifest says with its times, and for people what is said of the version.
fn etag(format: Format, root: ChunkId, version: &Version) -> ApiResult<String> {
    let described = match format {
        Format::Stream => Vec::new(),
        Format::Yaml | Format::Json => serde_json::to_vec(version).map_err(ApiError::internal)?,
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(root.as_bytes()).update(&described);
    Ok(format!("\"{}-{format:?}\"", &hasher.finalize().to_hex()[..32]))
}

fn negotiate(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains(STREAM_TYPE) {
        Format::Stream
    } else if accept.contains("application/json") {
        Format::Json
    } else {
        Format::Yaml
    }
}

/// Text or frames are sent in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Why sending ended early.
enum Stopped {
    /// The receiver is gone.
    Gone,
    Failed(ApiError),
}

impl From<ApiError> for Stopped {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

struct Output {
    handle: Handle,
    sender: Outgoing,
}

impl Output {
    fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Stopped> {
        if self.handle.block_on(self.sender.send(bytes.into())) { Ok(()) } else { Err(Stopped::Gone) }
    }
}

/// Sends a manifest. Runs on a thread that may block.
struct Writer {
    resources: Resources,
    app: AppId,
    /// The version, and the one that it is told by.
    read: Vec<VersionRow>,
    root: Arc<ManifestRoot>,
    out: Output,
}

impl Writer {
    fn run(self, format: Format, base: Option<Arc<ManifestRoot>>, version: &Version) {
        let done = match (format, base) {
            (Format::Yaml, _) => self.yaml(version),
            (Format::Json, _) => self.json(version),
            (Format::Stream, None) => self.stream(),
            (Format::Stream, Some(base)) => self.delta(base),
        };
        if let Err(Stopped::Failed(error)) = done {
            self.out.handle.block_on(async {
                let error = lifecycle::explain(&self.resources.db, &self.read, error).await;
                self.out.sender.fail(error).await;
            });
        }
    }

    fn entries(&self) -> Entries {
        self.resources.content.entries(self.app, self.root.clone())
    }

    fn yaml(&self, version: &Version) -> Result<(), Stopped> {
        let mut text = header_yaml(version);
        for entry in self.entries() {
            text.push_str(&render::yaml_entry(&entry?));
            if text.len() >= PIECE {
                self.out.send(std::mem::take(&mut text))?;
            }
        }
        self.out.send(text)
    }

    fn json(&self, version: &Version) -> Result<(), Stopped> {
        let mut text = serde_json::to_string(version).map_err(ApiError::internal)?;
        // The version is an object; the files become one more member of it.
        text.truncate(text.len() - 1);
        text.push_str(",\"files\":[");
        let mut comma = "";
        for entry in self.entries() {
            text.push_str(comma);
            text.push_str(&render::json_entry(&entry?));
            comma = ",";
            if text.len() >= PIECE {
                self.out.send(std::mem::take(&mut text))?;
            }
        }
        text.push_str("]}");
        self.out.send(text)
    }

    fn stream(&self) -> Result<(), Stopped> {
        for block in &self.root.blocks {
            let records = self.out.handle.block_on(self.resources.content.block(self.app, block))?;
            self.out.send(encode_records(&records))?;
        }
        self.out.send(encode_end(self.root.entries()))
    }

    fn delta(&self, base: Arc<ManifestRoot>) -> Result<(), Stopped> {
        let ids = |root: &ManifestRoot| root.blocks.iter().map(|block| block.id).collect::<HashSet<_>>();
        // A block that both have holds the same entries on both sides.
        let shared: Arc<HashSet<_>> = Arc::new(ids(&base).intersection(&ids(&self.root)).copied().collect());
        let old = self.resources.content.entries(self.app, base).without_blocks(shared.clone());
        let new = self.entries().without_blocks(shared);
        let (mut records, mut count) = (RecordWriter::default(), 0);
        for change in diff(old, new) {
            records.push(&change?.into_record());
            count += 1;
            if records.len() >= PIECE {
                self.out.send(encode_records(&records.take()))?;
            }
        }
        if !records.is_empty() {
            self.out.send(encode_records(&records.take()))?;
        }
        self.out.send(encode_end(count))
    }
}

fn header_yaml(version: &Version) -> String {
    let quoted = |text: String| format!("\"{text}\"");
    let build = &version.build;
    let fields = [
        ("project", Some(render::scalar(version.project.as_str()))),
        ("app", Some(render::scalar(version.app.as_str()))),
        ("version", Some(render::scalar(version.version.as_str()))),
        ("git_commit", build.git_commit.as_deref().map(render::scalar)),
        ("build_time", build.build_time.map(|time| quoted(time.to_rfc3339()))),
        ("builder", build.builder.as_deref().map(render::scalar)),
        ("created_at", Some(quoted(version.created_at.to_rfc3339()))),
        ("tree_digest", Some(quoted(version.tree_digest.to_string()))),
        ("file_count", Some(version.file_count.to_string())),
        ("bytes", Some(version.bytes.to_string())),
    ];
    let lines = fields.into_iter().filter_map(|(key, value)| Some(format!("{key}: {}\n", value?)));
    lines.chain(["files:\n".to_owned()]).collect()
}
