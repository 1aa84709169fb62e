//! The audit log.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use http::{HeaderValue, header};
use kkartifact_model::api::audit::{AuditEntry, AuditPage};
use kkartifact_model::api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use kkartifact_service::http::extract::{Json, Query};
use kkartifact_service::{ApiError, ApiResult, AuthorizedProject, Resources};
use kkartifact_store::AuditFilter;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    project: Option<String>,
    app: Option<String>,
    version: Option<String>,
    actor: Option<String>,
    action: Option<String>,
    outcome: Option<String>,
    address: Option<String>,
    request_id: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    limit: Option<u32>,
    cursor: Option<String>,
    format: Option<String>,
}

impl Wish {
    fn filter(self) -> ApiResult<AuditFilter> {
        if self.outcome.as_deref().is_some_and(|word| word != "done" && word != "refused") {
            return Err(ApiError::invalid("outcome is done or refused"));
        }
        let before = self.cursor.as_deref().map(str::parse::<i64>).transpose();
        let before = before.map_err(|_| ApiError::invalid("cursor is not one that a list has answered"))?;
        Ok(AuditFilter {
            project: self.project,
            app: self.app,
            version: self.version,
            actor: self.actor,
            action: self.action,
            outcome: self.outcome,
            address: self.address,
            request_id: self.request_id,
            from: self.from,
            to: self.to,
            before,
        })
    }

    /// For pages, which have no form to choose.
    fn limit(&self) -> ApiResult<u32> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MAX_LIMIT}")));
        }
        if self.format.is_some() {
            return Err(ApiError::invalid("format is for /api/v1/audit/export"));
        }
        Ok(limit)
    }
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    Query(wish): Query<Wish>,
) -> ApiResult<Json<AuditPage>> {
    let limit = wish.limit()?;
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_audit(&wish.filter()?, limit).await?))
}

/// What concerns a project, for its admins.
pub(crate) async fn of_project(
    State(resources): State<Resources>,
    project: AuthorizedProject,
    Query(wish): Query<Wish>,
) -> ApiResult<Json<AuditPage>> {
    let limit = wish.limit()?;
    if wish.project.is_some() {
        return Err(ApiError::invalid("the path names the project"));
    }
    let filter = AuditFilter { project: Some(project.name.to_string()), ..wish.filter()? };
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_audit(&filter, limit).await?))
}

#[derive(Clone, Copy)]
enum Format {
    Csv,
    JsonLines,
}

/// All rows that the filter lets through, newest first, page by page as fast as they are taken.
pub(crate) async fn export(
    State(resources): State<Resources>,
    Query(wish): Query<Wish>,
) -> ApiResult<Response> {
    let (format, kind) = match wish.format.as_deref() {
        Some("csv") => (Format::Csv, "text/csv; charset=utf-8"),
        Some("jsonl") => (Format::JsonLines, "application/x-ndjson"),
        _ => return Err(ApiError::invalid("format is csv or jsonl")),
    };
    if wish.limit.is_some() || wish.cursor.is_some() {
        return Err(ApiError::invalid("an export has no pages; narrow it with from and to"));
    }
    let filter = wish.filter()?;
    // The first page before the head of the answer: a database that is away is an error, not half a file.
    let first = page(&resources, &filter).await?;
    let start = (matches!(format, Format::Csv).then(|| heading().into()), Some((filter, Some(first))));
    let pages = stream::unfold(start, move |(heading, state)| {
        let resources = resources.clone();
        async move {
            if let Some(heading) = heading {
                return Some((Ok(heading), (None, state)));
            }
            let (mut filter, page_in_hand) = state?;
            let page = match page_in_hand {
                Some(page) => page,
                None => match page(&resources, &filter).await {
                    Ok(page) => page,
                    // A cut file must not pass for a whole one.
                    Err(error) => return Some((Err(std::io::Error::other(error)), (None, None))),
                },
            };
            let text = write(&page.items, format).map_err(std::io::Error::other);
            let next = page.next_cursor.and_then(|cursor| cursor.parse().ok()).map(|before| {
                filter.before = Some(before);
                (filter, None)
            });
            Some((text, (None, next)))
        }
    });
    let mut response = Body::from_stream(pages).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

async fn page(resources: &Resources, filter: &AuditFilter) -> ApiResult<AuditPage> {
    let mut tx = resources.db.read().await?;
    Ok(tx.list_audit(filter, MAX_LIMIT).await?)
}

fn heading() -> &'static str {
    "id,at,actor_kind,actor,action,outcome,times,project,app,version,agent_id,host,address,request_id,detail\n"
}

fn write(items: &[AuditEntry], format: Format) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let mut text = Vec::new();
    match format {
        Format::JsonLines => {
            for item in items {
                serde_json::to_writer(&mut text, item)?;
                text.push(b'\n');
            }
        }
        Format::Csv => {
            let mut lines = csv::Writer::from_writer(&mut text);
            for item in items {
                lines.write_record(cells(item))?;
            }
            lines.flush()?;
            drop(lines);
        }
    }
    Ok(text.into())
}

fn cells(item: &AuditEntry) -> [String; 15] {
    let text = |value: &Option<String>| plain(value.as_deref().unwrap_or_default());
    [
        item.id.to_string(),
        item.at.to_rfc3339(),
        plain(&item.actor_kind),
        plain(&item.actor),
        plain(&item.action),
        plain(&item.outcome),
        item.times.to_string(),
        text(&item.project),
        text(&item.app),
        text(&item.version),
        text(&item.agent_id),
        text(&item.host),
        text(&item.address),
        text(&item.request_id),
        plain(&item.detail.to_string()),
    ]
}

/// A cell that no spreadsheet takes for a formula (OWASP, CSV injection).
fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}
