//! People's accounts.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::user::{NewUser, User, UserChange, UserWithPassword};
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, NamedUser, Paging};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources, password};
use kkartifact_store::{NewAudit, NewUserRow, Outcome, StoreError, Tx, UserRow};
use serde_json::json;

use super::token::require_admin_left;

pub(crate) async fn list(
    State(resources): State<Resources>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<User>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_users(page).await?))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    NamedUser(login): NamedUser,
) -> ApiResult<Json<User>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(find(&mut tx, &login).await?.into()))
}

/// The caller as they are now, for what took its time since they were admitted.
pub(crate) async fn still_admin(resources: &Resources, tx: &mut Tx, caller: &Caller) -> ApiResult<Caller> {
    let caller = resources.auth.again(tx, caller, resources.clock.now()).await?;
    caller.require_global(Permission::Admin)?;
    Ok(caller)
}

/// The person of this login.
pub(crate) async fn find(tx: &mut Tx, login: &str) -> ApiResult<UserRow> {
    let hidden = || ApiError::not_found(&format!("user {login}"));
    tx.find_user(login).await?.ok_or_else(hidden)
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewUser>,
) -> ApiResult<(StatusCode, Json<UserWithPassword>)> {
    let now = resources.clock.now();
    password::check_login(&new.login)?;
    let oidc = oidc(&resources, &new)?;
    let (password, temporary_until) = match (&new.password, oidc) {
        (_, Some(_)) => (None, None),
        (Some(given), None) => {
            password::check(given, &new.login)?;
            (Some(given.clone()), None)
        }
        (None, None) => {
            let (made, end) = password::temporary(now)?;
            (Some(made), Some(end))
        }
    };
    let hash = match &password {
        Some(password) => Some(resources.auth.hash_secret(password).await?),
        None => None,
    };
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = NewUserRow {
        login: &new.login,
        role: new.role,
        password_hash: hash.as_deref(),
        temporary_until,
        oidc,
    };
    tx.insert_user(&row, now).await.map_err(|error| match error {
        StoreError::Conflict => ApiError::new(
            Code::AlreadyExists,
            format!("somebody has the login {} or this oidc_subject", new.login),
        ),
        other => other.into(),
    })?;
    audit(&mut tx, &resources, &caller, "user.create", &new.login, json!({ "role": new.role })).await?;
    let user = find(&mut tx, &new.login).await?.into();
    tx.commit().await?;
    let temporary_password = password.filter(|_| temporary_until.is_some());
    Ok((StatusCode::CREATED, Json(UserWithPassword { user, temporary_password })))
}

/// Issuer and subject of who logs in at the provider.
fn oidc<'a>(resources: &'a Resources, new: &'a NewUser) -> ApiResult<Option<(&'a str, &'a str)>> {
    let Some(subject) = new.oidc_subject.as_deref() else { return Ok(None) };
    let issuer = resources.config.oidc.issuer.as_deref();
    let issuer = issuer.ok_or_else(|| ApiError::invalid("oidc_subject: no OIDC provider is configured"))?;
    if subject.is_empty() || subject.len() > 255 || new.password.is_some() {
        return Err(ApiError::invalid("oidc_subject has 1 to 255 bytes, and goes without a password"));
    }
    Ok(Some((issuer, subject)))
}

async fn audit(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    action: &str,
    login: &str,
    mut detail: serde_json::Value,
) -> ApiResult<()> {
    detail["login"] = login.into();
    let row = NewAudit { action, detail, ..NewAudit::default() };
    Ok(tx.audit(&caller.actor(), Outcome::Done, &row, resources.clock.now()).await?)
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    NamedUser(login): NamedUser,
    Json(change): Json<UserChange>,
) -> ApiResult<Json<User>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    // The body may have taken its time.
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = find(&mut tx, &login).await?;
    let admins = tx.count_admins(now).await?;
    if let Some(role) = change.role {
        tx.set_role(row.principal_id, role).await?;
    }
    if let Some(disabled) = change.disabled {
        tx.set_disabled(row.principal_id, disabled, now).await?;
        if disabled {
            tx.revoke_sessions(row.principal_id, None, now).await?;
        }
    }
    require_admin_left(&mut tx, admins, now).await?;
    let detail = json!({ "role": change.role, "disabled": change.disabled });
    audit(&mut tx, &resources, &caller, "user.update", &login, detail).await?;
    let user = find(&mut tx, &login).await?.into();
    tx.commit().await?;
    Ok(Json(user))
}

/// Makes a temporary password, and ends the person's sessions.
pub(crate) async fn reset_password(
    State(resources): State<Resources>,
    caller: Caller,
    NamedUser(login): NamedUser,
) -> ApiResult<Json<UserWithPassword>> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let row = find(&mut tx, &login).await?;
    tx.commit().await?;
    if row.password_hash.is_none() {
        return Err(ApiError::invalid(format!("{login} has no password; the OIDC provider does the login")));
    }
    let (password, end) = password::temporary(now)?;
    let hash = resources.auth.hash_secret(&password).await?;
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = find(&mut tx, &login).await?;
    tx.set_password(row.principal_id, &hash, Some(end), now).await?;
    tx.revoke_sessions(row.principal_id, None, now).await?;
    tx.next_generation(row.principal_id).await?;
    audit(&mut tx, &resources, &caller, "user.reset_password", &login, json!({})).await?;
    let user = find(&mut tx, &login).await?.into();
    tx.commit().await?;
    Ok(Json(UserWithPassword { user, temporary_password: Some(password) }))
}

pub(crate) async fn unlock(
    State(resources): State<Resources>,
    caller: Caller,
    NamedUser(login): NamedUser,
) -> ApiResult<Json<User>> {
    let mut tx = resources.db.begin().await?;
    let row = find(&mut tx, &login).await?;
    tx.unlock(row.principal_id).await?;
    audit(&mut tx, &resources, &caller, "user.unlock", &login, json!({})).await?;
    let user = find(&mut tx, &login).await?.into();
    tx.commit().await?;
    Ok(Json(user))
}
