//! Deliveries of a webhook: what came of them, and delivering again.

use axum::extract::{FromRequestParts, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use http::request::Parts;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::webhook::{Delivery, DeliveryDetail, DeliveryState};
use kkartifact_service::http::extract::{Json, Paging, Query, path_param};
use kkartifact_service::webhook::shown;
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{DeliveryRow, Tx, WebhookRow};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::webhook::{WebhookId, audit, begin, find, require_enabled};

/// How many attempts of a delivery are shown.
const ATTEMPTS: u32 = 100;
/// How many deliveries are queued again in one transaction…
const PAGE: u32 = 1000;
/// … and in one call.
const MOST: u64 = 10_000;

/// `{delivery}`
pub(crate) struct DeliveryId(Uuid);

impl<S: Send + Sync> FromRequestParts<S> for DeliveryId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        path_param(parts, "delivery").await.map(Self)
    }
}

#[derive(Deserialize)]
pub(crate) struct ListParams {
    state: Option<DeliveryState>,
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(webhook): WebhookId,
    Query(params): Query<ListParams>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Delivery>>> {
    let mut tx = resources.db.read().await?;
    let webhook = find(&mut tx, &caller, webhook).await?;
    Ok(Json(tx.list_deliveries(webhook.seq, params.state, page).await?))
}

async fn find_delivery(tx: &mut Tx, webhook: &WebhookRow, id: Uuid) -> ApiResult<DeliveryRow> {
    let hidden = || ApiError::not_found(&format!("delivery {id}"));
    tx.find_delivery(webhook.seq, id).await?.ok_or_else(hidden)
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(webhook): WebhookId,
    DeliveryId(id): DeliveryId,
) -> ApiResult<Json<DeliveryDetail>> {
    let mut tx = resources.db.snapshot().await?;
    let webhook = find(&mut tx, &caller, webhook).await?;
    let row = find_delivery(&mut tx, &webhook, id).await?;
    let mut detail = tx.describe_delivery(row, ATTEMPTS).await?;
    // Attempts from before a chat's URL was hidden have all of it.
    for attempt in &mut detail.log {
        attempt.url = shown(webhook.format, &attempt.url);
    }
    Ok(Json(detail))
}

/// Delivers again, now: also what was delivered, and what still waits to be tried again.
pub(crate) async fn replay(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(webhook): WebhookId,
    DeliveryId(id): DeliveryId,
) -> ApiResult<(StatusCode, Json<Delivery>)> {
    let (mut tx, caller, webhook) = begin(&resources, &caller, webhook).await?;
    let row = find_delivery(&mut tx, &webhook, id).await?;
    require_enabled(&webhook)?;
    tx.replay_delivery(row.seq, resources.clock.now()).await?;
    let detail = json!({ "delivery": id });
    audit(&mut tx, &resources, &caller, "delivery.replay", &webhook, detail).await?;
    let row = find_delivery(&mut tx, &webhook, id).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// Delivers again what has failed of events since then, or ever; how many. The oldest come first.
pub(crate) async fn replay_failed(
    resources: &Resources,
    caller: &Caller,
    webhook: Uuid,
    since: Option<DateTime<Utc>>,
) -> ApiResult<u64> {
    let since = since.unwrap_or(DateTime::UNIX_EPOCH);
    let (mut replayed, mut after) = (0, 0);
    while replayed < MOST {
        // Who asks, and for what, is looked at again for each page.
        let (mut tx, caller, webhook) = begin(resources, caller, webhook).await?;
        require_enabled(&webhook)?;
        let (count, last) = tx.replay_failed(webhook.seq, since, after, PAGE, resources.clock.now()).await?;
        if count > 0 {
            let detail = json!({ "since": since, "replayed": count });
            audit(&mut tx, resources, &caller, "webhook.replay", &webhook, detail).await?;
        }
        tx.commit().await?;
        resources.jobs_queued.notify_waiters();
        (replayed, after) = (replayed + count, last);
        if count < u64::from(PAGE) {
            break;
        }
    }
    Ok(replayed)
}
