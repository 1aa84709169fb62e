//! API tokens.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::access::{CreatedToken, NewToken, Scope, Token};
use kkartifact_model::api::page::Page;
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, NamedToken, Paging};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, AuthorizedProject, Caller, Resources, secret};
use kkartifact_store::{AppId, NewAudit, NewTokenRow, Outcome, ProjectId, Tx};

/// The most scopes of a token.
const MAX_SCOPES: usize = 100;

/// Makes a token that may do no more than its maker, who must be admin wherever it reaches.
pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> ApiResult<(StatusCode, Json<CreatedToken>)> {
    let now = resources.clock.now();
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
    if let Some(end) = caller.expires_at
        && new.expires_at.is_none_or(|new| new > end)
    {
        let message =
            format!("expires_at must be {} or earlier: when the token ends that makes it", end.to_rfc3339());
        return Err(ApiError::new(Code::Forbidden, message));
    }
    let scopes = {
        let mut tx = resources.db.read().await?;
        let mut scopes = Vec::with_capacity(new.scopes.len());
        for scope in &new.scopes {
            let (project, app) = resolve(&mut tx, &caller, scope).await?;
            if !caller.holds(new.permissions, project, app) {
                let message = "a token can't do more than the one that makes it";
                return Err(ApiError::new(Code::Forbidden, message));
            }
            scopes.push((project, app));
        }
        tx.commit().await?;
        scopes
    };
    // Expensive on purpose: only for those who may, and not while the database waits.
    let token = secret::new_token()?;
    let hash = secret::hash(token.secret(), resources.config.auth.bcrypt_cost).await?;

    let mut tx = resources.db.begin().await?;
    let row = NewTokenRow {
        name: &new.name,
        token_id: token.id(),
        secret_hash: &hash,
        owner: Some(caller.principal),
        expires_at: new.expires_at,
        permissions: new.permissions,
        scopes: &scopes,
    };
    tx.insert_token(&row, now).await?;
    let audit = NewAudit {
        action: "token.create",
        detail: serde_json::json!({
            "token": token.id().as_str(), "permissions": new.permissions, "scopes": new.scopes,
        }),
        ..NewAudit::default()
    };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    let row = tx.find_token(token.id()).await?.ok_or_else(|| ApiError::internal("the token vanished"))?;
    let info = tx.token_info(row).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token: token.reveal(resources.auth.key()), info })))
}

pub(crate) fn check_name(name: &str) -> ApiResult<()> {
    if name.trim().is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(ApiError::invalid("a token's name has 1 to 100 bytes and no control characters"));
    }
    Ok(())
}

/// The rows of a scope, where the caller is admin.
async fn resolve(
    tx: &mut Tx,
    caller: &Caller,
    scope: &Scope,
) -> ApiResult<(Option<ProjectId>, Option<AppId>)> {
    match (&scope.project, &scope.app) {
        (None, None) => {
            caller.require_global(Permission::Admin)?;
            Ok((None, None))
        }
        (Some(project), None) => {
            let project = AuthorizedProject::load(tx, caller, Permission::Admin, project).await?;
            Ok((Some(project.id), None))
        }
        (Some(project), Some(app)) => {
            let app = AuthorizedApp::load(tx, caller, Permission::Admin, project, app).await?;
            Ok((Some(app.project_id), Some(app.id)))
        }
        (None, Some(_)) => Err(ApiError::invalid("a scope with an app needs its project")),
    }
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Token>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_tokens(page).await?))
}

/// Ends a token. The next request with it fails, whichever service it reaches.
pub(crate) async fn revoke(
    State(resources): State<Resources>,
    caller: Caller,
    NamedToken(id): NamedToken,
) -> ApiResult<Json<Token>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    if tx.revoke_token(&id, now).await? {
        let audit = NewAudit {
            action: "token.revoke",
            detail: serde_json::json!({ "token": id.as_str() }),
            ..NewAudit::default()
        };
        tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    }
    let row = tx.find_token(&id).await?.ok_or_else(|| ApiError::not_found(&format!("token {id}")))?;
    let token = tx.token_info(row).await?;
    tx.commit().await?;
    Ok(Json(token))
}
