//! Service accounts.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::service_account::{
    NewSecret, NewServiceAccount, ServiceAccount, ServiceAccountChange, ServiceAccountWithSecret,
};
use kkartifact_model::token::readable;
use kkartifact_service::http::extract::{ClientId, Json, Paging};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources, secret};
use kkartifact_store::{NewAudit, Outcome, ServiceAccountRow, Tx};
use serde_json::json;

use super::user::still_admin;

/// The longest life of a secret.
const MAX_DAYS: u32 = 3650;

pub(crate) async fn list(
    State(resources): State<Resources>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<ServiceAccount>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_service_accounts(page).await?))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    ClientId(id): ClientId,
) -> ApiResult<Json<ServiceAccount>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(find(&mut tx, &id).await?.into()))
}

/// The service account of this client id.
pub(crate) async fn find(tx: &mut Tx, client_id: &str) -> ApiResult<ServiceAccountRow> {
    let hidden = || ApiError::not_found(&format!("service account {client_id}"));
    tx.find_service_account(client_id).await?.ok_or_else(hidden)
}

/// When a secret ends that begins now.
fn end(days: u32, now: DateTime<Utc>) -> ApiResult<Option<DateTime<Utc>>> {
    match days {
        0 => Ok(None),
        1..=MAX_DAYS => Ok(Some(now + TimeDelta::days(days.into()))),
        _ => Err(ApiError::invalid(format!("secret_days is {days}; it must be 0 to {MAX_DAYS}"))),
    }
}

/// Requires 1 to `most` lower-case letters, digits and `-`.
pub(crate) fn check_name(name: &str, most: usize) -> ApiResult<()> {
    let good = (1..=most).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if good {
        return Ok(());
    }
    Err(ApiError::invalid(format!("name has 1 to {most} lower-case letters, digits and '-'")))
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewServiceAccount>,
) -> ApiResult<(StatusCode, Json<ServiceAccountWithSecret>)> {
    let now = resources.clock.now();
    check_name(&new.name, 32)?;
    let end = end(new.secret_days, now)?;
    let client_id = format!("sa_{}_{}", new.name, readable::<5>(secret::random()?));
    let client_secret = secret::new_client_secret()?;
    let hash = resources.auth.hash_secret(client_secret.secret()).await?;
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    tx.insert_service_account(&new.name, &client_id, &hash, end, now).await?;
    audit(&mut tx, &resources, &caller, "service_account.create", &client_id, json!({})).await?;
    let account = find(&mut tx, &client_id).await?.into();
    tx.commit().await?;
    let client_secret = client_secret.reveal(&client_id, resources.auth.check_key());
    Ok((StatusCode::CREATED, Json(ServiceAccountWithSecret { client_secret, account })))
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    client_id: &str,
    mut detail: serde_json::Value,
) -> ApiResult<()> {
    detail["client_id"] = client_id.into();
    let row = NewAudit { action, detail, ..NewAudit::default() };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &row, resources.clock.now()).await?)
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    ClientId(id): ClientId,
    Json(change): Json<ServiceAccountChange>,
) -> ApiResult<Json<ServiceAccount>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = find(&mut tx, &id).await?;
    tx.set_disabled(row.principal_id, change.disabled, now).await?;
    let detail = json!({ "disabled": change.disabled });
    audit(&mut tx, &resources, &caller, "service_account.update", &id, detail).await?;
    let account = find(&mut tx, &id).await?.into();
    tx.commit().await?;
    Ok(Json(account))
}

/// A new secret; the old one, and every token that was made with it, end.
pub(crate) async fn rotate(
    State(resources): State<Resources>,
    caller: Caller,
    ClientId(id): ClientId,
    Json(new): Json<NewSecret>,
) -> ApiResult<Json<ServiceAccountWithSecret>> {
    let now = resources.clock.now();
    let end = end(new.secret_days, now)?;
    let client_secret = secret::new_client_secret()?;
    let hash = resources.auth.hash_secret(client_secret.secret()).await?;
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = find(&mut tx, &id).await?;
    tx.set_client_secret(row.principal_id, &hash, end).await?;
    tx.next_generation(row.principal_id).await?;
    audit(&mut tx, &resources, &caller, "service_account.rotate", &id, json!({})).await?;
    let account = find(&mut tx, &id).await?.into();
    tx.commit().await?;
    let client_secret = client_secret.reveal(&id, resources.auth.check_key());
    Ok(Json(ServiceAccountWithSecret { client_secret, account }))
}
