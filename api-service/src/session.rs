//! Sessions.

use axum::extract::State;
use kkartifact_model::Permission;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::user::Session;
use kkartifact_service::http::extract::{Json, Paging, Query, SessionId};
use kkartifact_service::{ApiError, ApiResult, Caller, Object, Resources};
use kkartifact_store::{NewAudit, Outcome};
use serde::Deserialize;

use super::user::find;

#[derive(Deserialize)]
pub(crate) struct Whose {
    user: Option<String>,
}

/// One's own sessions; for an admin, anybody's.
pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Query(whose): Query<Whose>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Session>>> {
    let mut tx = resources.db.read().await?;
    let of = match &whose.user {
        Some(login) => {
            caller.require_global(Permission::Admin)?;
            find(&mut tx, login).await?.principal_id
        }
        None => caller.principal,
    };
    Ok(Json(tx.list_sessions(of, caller.session(), page).await?))
}

/// Ends a session of one's own; an admin, anybody's.
pub(crate) async fn revoke(
    State(resources): State<Resources>,
    caller: Caller,
    SessionId(id): SessionId,
) -> ApiResult<Json<Session>> {
    let hidden = || ApiError::not_found(&format!("session {id}"));
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let row = tx.find_session(id).await?.ok_or_else(hidden)?;
    let own = row.principal_id == caller.principal;
    if !own && !caller.grants().permissions(Object::Global).contains(Permission::Admin) {
        return Err(hidden().as_refusal());
    }
    if tx.revoke_session(id, now).await? {
        let whose = tx.user(row.principal_id).await?.map(|user| user.login);
        let detail = serde_json::json!({ "session": id, "login": whose });
        let audit = NewAudit { action: "session.revoke", detail, ..NewAudit::default() };
        tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    }
    let row = tx.find_session(id).await?.ok_or_else(hidden)?;
    tx.commit().await?;
    Ok(Json(row.into_session(caller.session())))
}
