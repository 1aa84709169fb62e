//! Signing keys.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use kkartifact_model::api::key::{Key, Keys};
use kkartifact_service::auth::keys;
use kkartifact_service::http::extract::{Json, KeyId};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{NewAudit, Outcome, SigningKeyRow, Tx};
use serde_json::json;

/// The public keys. Anybody may see them, and keep them for a while.
pub(crate) async fn jwks(State(resources): State<Resources>) -> ApiResult<Response> {
    let mut tx = resources.db.read().await?;
    let rows = resources.auth.keys().all(&mut tx, resources.clock.now()).await?;
    tx.commit().await?;
    let mut response = Json(keys::jwks(&rows)?).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

fn describe(row: &SigningKeyRow, signs: bool) -> Key {
    Key { id: row.id.clone(), signs, created_at: row.created_at, verifies_until: row.verifies_until }
}

async fn all(resources: &Resources, tx: &mut Tx) -> ApiResult<Keys> {
    let now = resources.clock.now();
    let rows = resources.auth.keys().all(tx, now).await?;
    let next = rows.first().map_or(now, |row| resources.auth.keys().next_rotation(row.created_at));
    let keys =
        rows.iter().enumerate().map(|(at, row)| describe(row, at == 0 && row.verifies_until.is_none()));
    Ok(Keys { keys: keys.collect(), next_rotation: next })
}

pub(crate) async fn list(State(resources): State<Resources>) -> ApiResult<Json<Keys>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(all(&resources, &mut tx).await?))
}

/// A new key that signs from now on. What the one before signed is good until it ends.
pub(crate) async fn rotate(
    State(resources): State<Resources>,
    caller: Caller,
) -> ApiResult<(StatusCode, Json<Key>)> {
    let now = resources.clock.now();
    let row = resources.auth.keys().rotate(&resources.db, &caller.actor(), now).await?;
    Ok((StatusCode::CREATED, Json(describe(&row, true))))
}

/// Ends a key, and everything that it signed.
pub(crate) async fn revoke(
    State(resources): State<Resources>,
    caller: Caller,
    KeyId(id): KeyId,
) -> ApiResult<StatusCode> {
    let mut tx = resources.db.begin().await?;
    if !tx.delete_signing_key(&id).await? {
        return Err(ApiError::not_found(&format!("key {id}")));
    }
    let row = NewAudit { action: "key.revoke", detail: json!({ "key": id }), ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &row, resources.clock.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
