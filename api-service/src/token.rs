//! API tokens.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use kkartifact_model::api::access::Scope;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::token::{CreatedToken, NewToken, Token};
use kkartifact_model::{Code, Permission, Permissions};
use kkartifact_service::http::extract::{Json, NamedToken, Paging, Query};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources, secret};
use kkartifact_store::{AppId, NewAudit, NewTokenRow, Outcome, ProjectId, Tx};
use serde::Deserialize;

use super::scope::resolve;

/// The most scopes of a token.
const MAX_SCOPES: usize = 100;

/// Makes a token that may do no more than its maker, who must be admin wherever it reaches unless it is their own.
pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> ApiResult<(StatusCode, Json<CreatedToken>)> {
    let now = resources.clock.now();
    check(&new, now)?;
    let expires_at = end(&resources, &caller, &new, now)?;
    let scopes = scopes(&resources, &caller, &new).await?;
    // Expensive on purpose: only for those who may, and not while the database waits.
    let token = secret::new_token()?;
    let hash = resources.auth.hash_secret(token.secret()).await?;

    let mut tx = resources.db.begin().await?;
    let row = NewTokenRow {
        name: &new.name,
        token_id: token.id(),
        secret_hash: &hash,
        owner: caller.owner,
        made_by: Some(caller.principal),
        personal: new.personal,
        expires_at,
        permissions: new.permissions,
        scopes: &scopes,
    };
    tx.insert_token(&row, now).await?;
    // As they are now: who was revoked while the hash was made leaves nothing behind. After the row that waits for a
    // revocation in progress.
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let needed = if new.personal { Permissions::default() } else { Permissions::ALL };
    for (project, app) in &scopes {
        if !caller.holds(new.permissions.union(needed), *project, *app) {
            return Err(too_much());
        }
    }
    let audit = NewAudit {
        action: "token.create",
        project: project_of(&new.scopes),
        detail: serde_json::json!({
            "token": token.id().as_str(), "name": new.name, "permissions": new.permissions, "scopes": new.scopes,
            "personal": new.personal,
        }),
        ..NewAudit::default()
    };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    let row = tx.find_token(token.id()).await?.ok_or_else(|| ApiError::internal("the token vanished"))?;
    let info = tx.token_info(row).await?;
    tx.commit().await?;
    let token = token.reveal(resources.auth.check_key());
    Ok((StatusCode::CREATED, Json(CreatedToken { token, info })))
}

fn check(new: &NewToken, now: DateTime<Utc>) -> ApiResult<()> {
    check_name(&new.name)?;
    if new.permissions.is_empty() {
        return Err(ApiError::invalid("permissions is empty; a token needs at least one"));
    }
    if !(1..=MAX_SCOPES).contains(&new.scopes.len()) {
        let message = format!("scopes must have 1 to {MAX_SCOPES} items; [{{}}] means everything");
        return Err(ApiError::invalid(message));
    }
    if new.expires_at.is_some_and(|end| end <= now) {
        return Err(ApiError::invalid("expires_at is in the past"));
    }
    Ok(())
}

/// When the token ends: not after its maker, and not later than a personal one may.
fn end(
    resources: &Resources,
    caller: &Caller,
    new: &NewToken,
    now: DateTime<Utc>,
) -> ApiResult<Option<DateTime<Utc>>> {
    if let Some(end) = caller.expires_at
        && new.expires_at.is_none_or(|new| new > end)
    {
        let message =
            format!("expires_at must be {} or earlier: when the token ends that makes it", end.to_rfc3339());
        return Err(ApiError::new(Code::Forbidden, message).as_refusal());
    }
    if !new.personal {
        return Ok(new.expires_at);
    }
    // Only with a session: else a personal token could prolong itself for ever.
    if caller.session().is_none() {
        let message = "only a person who has logged in makes personal tokens";
        return Err(ApiError::new(Code::Forbidden, message).as_refusal());
    }
    let days = resources.config.auth.personal_token_days;
    let latest = now + TimeDelta::days(days.into());
    match new.expires_at {
        Some(end) if end > latest => {
            Err(ApiError::invalid(format!("a personal token ends within {days} days")))
        }
        Some(end) => Ok(Some(end)),
        None => Ok(Some(latest)),
    }
}

/// Where the token holds; the caller may hand on all of it.
async fn scopes(
    resources: &Resources,
    caller: &Caller,
    new: &NewToken,
) -> ApiResult<Vec<(Option<ProjectId>, Option<AppId>)>> {
    let needed = if new.personal { Permission::View } else { Permission::Admin };
    let mut tx = resources.db.read().await?;
    let mut scopes = Vec::with_capacity(new.scopes.len());
    for scope in &new.scopes {
        let (project, app) = resolve(&mut tx, caller, needed, scope).await?;
        if !caller.holds(new.permissions, project, app) {
            return Err(too_much());
        }
        scopes.push((project, app));
    }
    tx.commit().await?;
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

fn too_much() -> ApiError {
    ApiError::new(Code::Forbidden, "a token can't do more than the one that makes it").as_refusal()
}

/// The one project that all scopes are in, for its audit log.
fn project_of(scopes: &[Scope]) -> Option<&str> {
    let project = scopes.first()?.project.as_ref()?;
    let same = scopes.iter().all(|scope| scope.project.as_ref() == Some(project));
    same.then(|| project.as_str())
}

pub(crate) fn check_name(name: &str) -> ApiResult<()> {
    if name.trim().is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(ApiError::invalid("a token's name has 1 to 100 bytes and no control characters"));
    }
    Ok(())
}

/// The caller's own tokens, and those that reach nowhere beyond where the caller is admin.
pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Token>>> {
    let mut tx = resources.db.read().await?;
    let reach = caller.grants().reach(Permission::Admin);
    Ok(Json(tx.list_tokens(caller.principal, &reach, page).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// Also all that were made with it, directly or not.
    #[serde(default)]
    made: bool,
}

/// Ends a token. The next request with it fails, whichever service it reaches.
pub(crate) async fn revoke(
    State(resources): State<Resources>,
    caller: Caller,
    NamedToken(id): NamedToken,
    Query(revocation): Query<Revocation>,
) -> ApiResult<Json<Token>> {
    let now = resources.clock.now();
    let hidden = || ApiError::not_found(&format!("token {id}"));
    let reach = caller.grants().reach(Permission::Admin);
    let mut tx = resources.db.begin().await?;
    let row = tx.find_managed_token(&id, caller.principal, &reach).await?.ok_or_else(hidden)?;
    let admins = tx.count_admins(now).await?;
    let revoked = tx.revoke_token(&id, now).await?;
    let mut made = 0;
    if revocation.made {
        // Again and again: what was being made meanwhile is there the next time.
        loop {
            match tx.revoke_made(row.principal_id, now).await? {
                0 => break,
                more => made += more,
            }
        }
    }
    require_admin_left(&mut tx, admins, now).await?;
    let info = tx.token_info(row.clone()).await?;
    if revoked || made > 0 {
        let audit = NewAudit {
            action: "token.revoke",
            project: project_of(&info.scopes),
            detail: serde_json::json!({ "token": id.as_str(), "name": row.name, "made_with_it": made }),
            ..NewAudit::default()
        };
        tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    }
    let row = tx.find_token(&id).await?.ok_or_else(hidden)?;
    let token = tx.token_info(row).await?;
    tx.commit().await?;
    Ok(Json(token))
}

/// Refuses what would close the last way in. The change is undone with its transaction.
pub(crate) async fn require_admin_left(tx: &mut Tx, before: i64, now: DateTime<Utc>) -> ApiResult<()> {
    if before == 0 || tx.count_admins(now).await? > 0 {
        return Ok(());
    }
    Err(ApiError::new(
        Code::LastAdmin,
        "nobody would be left who may do everything; make another admin or global token first",
    ))
}
