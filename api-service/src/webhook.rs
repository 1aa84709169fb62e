//! Webhooks: who hears of which events.

use axum::extract::{FromRequestParts, State};
use http::StatusCode;
use http::request::Parts;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::webhook::{
    Delivery, NewWebhook, ReplaySince, Replayed, RotateSecret, Webhook, WebhookChange, WebhookFormat,
    WebhookWithSecret,
};
use kkartifact_model::{AppName, Code, Permission, ProjectName};
use kkartifact_service::http::extract::{Json, Paging, path_param};
use kkartifact_service::webhook::{self, Endpoint, Secrets, body, check};
use kkartifact_service::{ApiError, ApiResult, Caller, Object, Resources};
use kkartifact_store::{NewAudit, NewDelivery, NewWebhookRow, Outcome, StoreError, Tx, WebhookRow};
use serde_json::json;
use uuid::Uuid;

use super::delivery;
use super::scope::resolve;

/// The longest time for which a secret that was replaced signs too, in hours.
const MAX_OVERLAP: u32 = 168;

/// `{webhook}`
pub(crate) struct WebhookId(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for WebhookId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        path_param(parts, "webhook").await.map(Self)
    }
}

/// The webhook, if the caller is admin of its scope. Nobody else learns that there is one.
pub(crate) async fn find(tx: &mut Tx, caller: &Caller, id: Uuid) -> ApiResult<WebhookRow> {
    let hidden = || ApiError::not_found(&format!("webhook {id}"));
    let row = tx.find_webhook(id).await?.ok_or_else(hidden)?;
    let object = Object::of(row.project_id, row.app_id);
    if caller.grants().permissions(object).contains(Permission::Admin) {
        Ok(row)
    } else {
        Err(hidden().as_refusal())
    }
}

/// A transaction to change the webhook in, with the caller and the webhook as they are now.
pub(crate) async fn begin(
    resources: &Resources,
    caller: &Caller,
    id: Uuid,
) -> ApiResult<(Tx, Caller, WebhookRow)> {
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, caller, resources.clock.now()).await?;
    tx.lock_webhook(id).await?;
    let row = find(&mut tx, &caller, id).await?;
    Ok((tx, caller, row))
}

fn require_not_declared(row: &WebhookRow) -> ApiResult<()> {
    if row.declared {
        let message = format!("webhook {} stands in the configuration: change it there", row.name);
        return Err(ApiError::new(Code::InUse, message));
    }
    Ok(())
}

/// Requires that what is queued for the webhook would be sent.
pub(crate) fn require_enabled(row: &WebhookRow) -> ApiResult<()> {
    if row.enabled {
        return Ok(());
    }
    Err(ApiError::new(Code::InUse, format!("webhook {} is disabled: enable it first", row.name)))
}

fn name_taken(name: &str) -> ApiError {
    ApiError::new(Code::AlreadyExists, format!("the scope has a webhook {name}"))
}

/// Writes an audit row.
pub(crate) async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    row: &WebhookRow,
    more: serde_json::Value,
) -> ApiResult<()> {
    let scope = row.scope();
    let mut detail = webhook::detail(row);
    if let (Some(detail), serde_json::Value::Object(more)) = (detail.as_object_mut(), more) {
        detail.extend(more);
    }
    let audit = NewAudit {
        action,
        project: scope.project.as_ref().map(ProjectName::as_str),
        app: scope.app.as_ref().map(AppName::as_str),
        detail,
        ..NewAudit::default()
    };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &audit, resources.clock.now()).await?)
}

/// The webhooks where the caller is admin.
pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Webhook>>> {
    let mut tx = resources.db.read().await?;
    let rows = tx.list_webhooks(&caller.grants().reach(Permission::Admin), page).await?;
    Ok(Json(Page {
        items: rows.items.iter().map(|row| webhook::describe(row, &resources.vault)).collect(),
        total: rows.total,
        limit: rows.limit,
        offset: rows.offset,
        has_more: rows.has_more,
        next_cursor: rows.next_cursor,
    }))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
) -> ApiResult<Json<Webhook>> {
    let mut tx = resources.db.read().await?;
    let row = find(&mut tx, &caller, id).await?;
    Ok(Json(webhook::describe(&row, &resources.vault)))
}

/// The secret of a new webhook or a rotation: the given one, or a new one. A robot's is its owner's to give.
fn secret(format: WebhookFormat, given: Option<String>) -> ApiResult<Option<String>> {
    match given {
        Some(secret) => {
            check::secret(format, &secret).map_err(ApiError::invalid)?;
            Ok(Some(secret))
        }
        None if webhook::is_robot(format) => Ok(None),
        None => webhook::new_secret().map(Some),
    }
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewWebhook>,
) -> ApiResult<(StatusCode, Json<WebhookWithSecret>)> {
    check::name(&new.name).map_err(ApiError::invalid)?;
    check::events(&new.events).map_err(ApiError::invalid)?;
    check::headers(&new.headers).map_err(ApiError::invalid)?;
    check::url(resources.providers.outbound(), &new.url)?;
    let secret = secret(new.format, new.secret)?;
    let (now, id) = (resources.clock.now(), Uuid::new_v4());
    let endpoint = Endpoint { url: new.url, headers: new.headers };
    let (url, headers) = endpoint.seal(&resources.vault, id, new.format)?;
    let secrets = Secrets::new(secret.clone()).seal(&resources.vault, id)?;
    let mut tx = resources.db.begin().await?;
    // As they are now: the body may have taken its time.
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let scope = resolve(&mut tx, &caller, Permission::Admin, &new.scope).await?;
    let most = resources.config.webhooks.most;
    if tx.count_webhooks().await? >= u64::from(most) {
        let message =
            format!("there are {most} webhooks; 'webhooks.most' of the configuration allows no more");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    let row = NewWebhookRow {
        name: &new.name,
        url: &url,
        format: new.format,
        events: &new.events,
        headers: headers.as_deref(),
        secrets: secrets.as_deref(),
        enabled: new.enabled,
        declared: false,
    };
    if !tx.insert_webhook(id, scope, &row, now).await? {
        return Err(name_taken(&new.name));
    }
    let row = find(&mut tx, &caller, id).await?;
    audit(&mut tx, &resources, &caller, "webhook.create", &row, json!({})).await?;
    tx.commit().await?;
    let webhook = webhook::describe(&row, &resources.vault);
    Ok((StatusCode::CREATED, Json(WebhookWithSecret { webhook, secret: secret.unwrap_or_default() })))
}

/// What a changed webhook's row keeps of URL and headers. What is kept unreadable stays so until it is given anew.
fn endpoint(
    resources: &Resources,
    old: &WebhookRow,
    change: &WebhookChange,
    format: WebhookFormat,
) -> ApiResult<(String, Option<Vec<u8>>)> {
    let (was_hidden, hides) = (webhook::hides_url(old.format), webhook::hides_url(format));
    if was_hidden && !hides && change.url.is_none() {
        let message = format!(
            "url is missing: {} does not show it and {format} does, so it has to be given with the change",
            old.format
        );
        return Err(ApiError::invalid(message));
    }
    let known = Endpoint::open(&resources.vault, old.id, &old.url, old.headers.as_deref());
    let (known_url, known_headers) = match known {
        Ok(known) => (Some(known.url), Some(known.headers)),
        Err(_) => ((!was_hidden).then(|| old.url.clone()), None),
    };
    match (change.url.clone().or(known_url), change.headers.clone().or(known_headers)) {
        (Some(url), Some(headers)) => Endpoint { url, headers }.seal(&resources.vault, old.id, format),
        (Some(url), None) if !was_hidden && !hides => Ok((url, old.headers.clone())),
        (None, None) => Ok((old.url.clone(), old.headers.clone())),
        _ => {
            let message = "url and headers can't be read, since another secret key has encrypted them: give both, \
                headers as {} if there is none";
            Err(ApiError::invalid(message))
        }
    }
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Json(change): Json<WebhookChange>,
) -> ApiResult<Json<Webhook>> {
    let now = resources.clock.now();
    let (mut tx, caller, old) = begin(&resources, &caller, id).await?;
    require_not_declared(&old)?;
    let name = change.name.as_deref().unwrap_or(&old.name);
    check::name(name).map_err(ApiError::invalid)?;
    if let Some(url) = &change.url {
        check::url(resources.providers.outbound(), url)?;
    }
    if let Some(events) = &change.events {
        check::events(events).map_err(ApiError::invalid)?;
    }
    if let Some(headers) = &change.headers {
        check::headers(headers).map_err(ApiError::invalid)?;
    }
    let format = change.format.unwrap_or(old.format);
    if format != old.format {
        let secrets = Secrets::open(&resources.vault, id, old.secrets.as_deref())?;
        let fits = match secrets.current() {
            Some(secret) => check::secret(format, secret).is_ok(),
            None => webhook::is_robot(format),
        };
        if !fits {
            let message = format!("format: the secret is not one for {format}; make another webhook");
            return Err(ApiError::invalid(message));
        }
    }
    let (url, headers) = endpoint(&resources, &old, &change, format)?;
    let row = NewWebhookRow {
        name,
        url: &url,
        format,
        events: change.events.as_deref().unwrap_or(&old.events),
        headers: headers.as_deref(),
        secrets: old.secrets.as_deref(),
        enabled: change.enabled.unwrap_or(old.enabled),
        declared: false,
    };
    tx.update_webhook(old.seq, &row, now).await.map_err(|error| match error {
        StoreError::Conflict => name_taken(name),
        other => other.into(),
    })?;
    let row = find(&mut tx, &caller, id).await?;
    let more = json!({ "headers_changed": change.headers.is_some(), "url_changed": change.url.is_some() });
    audit(&mut tx, &resources, &caller, "webhook.update", &row, more).await?;
    tx.commit().await?;
    if old.enabled && !row.enabled {
        webhook::call_off(&resources.db, row.seq, now).await?;
    }
    Ok(Json(webhook::describe(&row, &resources.vault)))
}

/// Removes a webhook with its deliveries. Interrupted, it leaves a disabled webhook, which can be removed again.
pub(crate) async fn delete(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
) -> ApiResult<StatusCode> {
    let (mut tx, caller, row) = begin(&resources, &caller, id).await?;
    require_not_declared(&row)?;
    tx.disable_webhook(row.seq, "it is being removed", None, resources.clock.now()).await?;
    audit(&mut tx, &resources, &caller, "webhook.delete", &row, json!({})).await?;
    tx.commit().await?;
    webhook::remove(&resources.db, row.seq).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new secret; the old one signs too for a while, so that receivers can change over.
pub(crate) async fn rotate(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Json(wish): Json<RotateSecret>,
) -> ApiResult<Json<WebhookWithSecret>> {
    if wish.overlap_hours > MAX_OVERLAP {
        let message = format!("overlap_hours is {}; it must be 0 to {MAX_OVERLAP}", wish.overlap_hours);
        return Err(ApiError::invalid(message));
    }
    let now = resources.clock.now();
    let overlap = chrono::TimeDelta::hours(wish.overlap_hours.into());
    let (mut tx, caller, old) = begin(&resources, &caller, id).await?;
    require_not_declared(&old)?;
    let secret = secret(old.format, wish.secret)?;
    let secret =
        secret.ok_or_else(|| ApiError::invalid("secret is missing: it is made where the robot is"))?;
    // One that another key has encrypted signs no more.
    let secrets = Secrets::open(&resources.vault, id, old.secrets.as_deref()).unwrap_or_default();
    let secrets = secrets.rotated(secret.clone(), overlap, now).seal(&resources.vault, id)?;
    let (url, headers) = endpoint(&resources, &old, &WebhookChange::default(), old.format)?;
    let row = NewWebhookRow {
        name: &old.name,
        url: &url,
        format: old.format,
        events: &old.events,
        headers: headers.as_deref(),
        secrets: secrets.as_deref(),
        enabled: old.enabled,
        declared: false,
    };
    tx.update_webhook(old.seq, &row, now).await?;
    let more = json!({ "overlap_hours": wish.overlap_hours });
    audit(&mut tx, &resources, &caller, "webhook.rotate", &old, more).await?;
    let row = find(&mut tx, &caller, id).await?;
    tx.commit().await?;
    let webhook = webhook::describe(&row, &resources.vault);
    Ok(Json(WebhookWithSecret { webhook, secret }))
}

/// Sends a call that says that it is a test. It is tried once.
pub(crate) async fn test(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
) -> ApiResult<(StatusCode, Json<Delivery>)> {
    let (mut tx, caller, row) = begin(&resources, &caller, id).await?;
    require_enabled(&row)?;
    let trace = caller.actor().trace_parent;
    let new = NewDelivery { webhook: row.seq, event: None, kind: body::TEST, trace_parent: trace.as_deref() };
    let made = tx.insert_delivery(&new, resources.clock.now()).await?;
    audit(&mut tx, &resources, &caller, "webhook.test", &row, json!({})).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok((StatusCode::ACCEPTED, Json(made.into())))
}

/// Delivers again what has failed.
pub(crate) async fn replay(
    State(resources): State<Resources>,
    caller: Caller,
    WebhookId(id): WebhookId,
    Json(wish): Json<ReplaySince>,
) -> ApiResult<(StatusCode, Json<Replayed>)> {
    let replayed = delivery::replay_failed(&resources, &caller, id, wish.since).await?;
    Ok((StatusCode::ACCEPTED, Json(Replayed { replayed })))
}
