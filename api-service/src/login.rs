//! Logging in and out with a password, and changing it.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::TimeDelta;
use cookie::SameSite;
use http::{HeaderMap, StatusCode, header};
use kkartifact_model::Code;
use kkartifact_model::api::user::{LoggedIn, Login, PasswordChange};
use kkartifact_service::auth::sessions::{self, NewSession};
use kkartifact_service::http::context::RequestContext;
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, Caller, Resources, password};
use kkartifact_store::{Actor, NewAudit, Outcome, Tx, UserRow, kind};
use serde_json::json;

/// One answer for every reason: nobody learns which logins exist, or are locked.
fn refused() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "login or password is wrong, or the account is locked after too many failures; try later",
    )
}

pub(crate) async fn login(
    State(resources): State<Resources>,
    context: RequestContext,
    headers: HeaderMap,
    Json(login): Json<Login>,
) -> ApiResult<Response> {
    resources.auth.rates().guess(context.ip())?;
    let now = resources.clock.now();
    let found = find(&resources, &login.login).await?;
    let hash = match found.as_ref().and_then(|row| row.password_hash.clone()) {
        Some(hash) => hash,
        None => resources.auth.nobodys_hash().await?.to_owned(),
    };
    // Whoever it is and whatever state they are in: one comparison.
    let right = resources.auth.is_password(&login.password, &hash).await?;
    let Some(known) = found.filter(|row| row.password_hash.is_some()) else {
        // One transaction for those who don't exist, too.
        let mut tx = resources.db.begin().await?;
        let row = NewAudit { action: "login", detail: json!({ "unknown": true }), ..NewAudit::default() };
        tx.audit(&nobody(&resources, &context), Outcome::Refused, &row, now).await?;
        tx.commit().await?;
        return Err(denied(refused()));
    };
    let is_open = |user: &UserRow| {
        let over = user.password_temporary_until.is_some_and(|end| now >= end);
        !over && user.disabled_at.is_none() && !user.is_locked(now)
    };
    // Signed before the transaction, which others wait for. Not for who is locked out: the time that it takes would
    // tell that the password is right.
    let session = if right && is_open(&known) {
        Some(sessions::prepare(&resources, &known, &context, &headers).await?)
    } else {
        None
    };
    let mut tx = resources.db.begin().await?;
    // As it is now: others may have tried, or changed the password, meanwhile.
    let user = tx.locked_user(known.principal_id).await?.ok_or_else(refused)?;
    let may = is_open(&user) && user.password_hash == known.password_hash;
    let Some(session) = session.filter(|_| may) else {
        fail(&resources, tx, "login", &user, &context, right).await?;
        return Err(denied(refused()));
    };
    if user.failed_logins > 0 || user.locked_until.is_some() {
        tx.unlock(user.principal_id).await?;
    }
    enter(&resources, &mut tx, &user, &session, &context, "login").await?;
    let user = tx.user(user.principal_id).await?.ok_or_else(refused)?;
    tx.commit().await?;
    answer(&resources, user, session, login.cookie)
}

/// The person of a login; nobody for what can't be one.
async fn find(resources: &Resources, login: &str) -> ApiResult<Option<UserRow>> {
    if password::check_login(login).is_err() {
        return Ok(None);
    }
    let mut tx = resources.db.read().await?;
    let found = tx.find_user(login).await?;
    tx.commit().await?;
    Ok(found)
}

fn denied(error: ApiError) -> ApiError {
    metrics::counter!("kkartifact_logins_total", "outcome" => "refused").increment(1);
    error
}

/// Counts and writes down a failure of somebody who exists.
async fn fail(
    resources: &Resources,
    mut tx: Tx,
    action: &str,
    user: &UserRow,
    context: &RequestContext,
    right: bool,
) -> ApiResult<()> {
    let now = resources.clock.now();
    let auth = &resources.config.auth;
    let locked = if user.is_locked(now) || right {
        // A lock-out is not prolonged by more of the same.
        user.is_locked(now)
    } else {
        let until = now + TimeDelta::minutes(auth.lock_minutes.into());
        let failures = tx.login_failed(user.principal_id, auth.lock_after, until, now).await?;
        u32::try_from(failures).unwrap_or(0) >= auth.lock_after
    };
    let row = NewAudit { action, detail: json!({ "locked": locked }), ..NewAudit::default() };
    tx.audit(&actor(resources, user, context), Outcome::Refused, &row, now).await?;
    Ok(tx.commit().await?)
}

fn nobody(resources: &Resources, context: &RequestContext) -> Actor {
    // Not what was typed: it may be a password in the wrong field.
    let system = Actor::system("anonymous", resources.auth.audit_key());
    let address = context.ip().map(|address| address.to_string());
    Actor { kind: "anonymous".into(), address, request_id: Some(context.id.clone()), ..system }
}

fn actor(resources: &Resources, user: &UserRow, context: &RequestContext) -> Actor {
    Actor {
        id: Some(user.principal_id),
        kind: kind::USER.into(),
        name: user.login.clone(),
        address: context.ip().map(|address| address.to_string()),
        request_id: Some(context.id.clone()),
        trace_parent: Some(context.trace.to_string()),
        key: resources.auth.audit_key().clone(),
    }
}

/// Begins a session, and writes down how.
pub(crate) async fn enter(
    resources: &Resources,
    tx: &mut Tx,
    user: &UserRow,
    session: &NewSession,
    context: &RequestContext,
    action: &str,
) -> ApiResult<()> {
    tx.insert_session(&session.row).await?;
    let detail = json!({ "session": session.row.id });
    let row = NewAudit { action, detail, ..NewAudit::default() };
    tx.audit(&actor(resources, user, context), Outcome::Done, &row, resources.clock.now()).await?;
    metrics::counter!("kkartifact_logins_total", "outcome" => "done").increment(1);
    Ok(())
}

fn answer(resources: &Resources, user: UserRow, session: NewSession, in_cookie: bool) -> ApiResult<Response> {
    let NewSession { row, token } = session;
    let cookie = session_cookie(resources, &token)?;
    let body = LoggedIn {
        user: user.into(),
        csrf_token: resources.auth.csrf().token(row.id),
        session: row.clone().into_session(Some(row.id)),
        access_token: (!in_cookie).then_some(token),
    };
    let mut response = Json(body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    if in_cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The cookie of a session; with an empty token, one that takes it away.
pub(crate) fn session_cookie(resources: &Resources, token: &str) -> ApiResult<http::HeaderValue> {
    let config = &resources.config;
    let age = TimeDelta::hours(config.auth.session_hours.into());
    sessions::set_cookie(config, sessions::cookie_name(config), token, SameSite::Strict, age)
}

/// Only people have sessions and passwords.
fn session_of(caller: &Caller) -> ApiResult<uuid::Uuid> {
    let none = || ApiError::new(Code::Forbidden, "only a person who has logged in can do this");
    caller.session().ok_or_else(|| none().as_refusal())
}

pub(crate) async fn logout(State(resources): State<Resources>, caller: Caller) -> ApiResult<Response> {
    let id = session_of(&caller)?;
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.revoke_session(id, now).await?;
    let row = NewAudit { action: "logout", detail: json!({ "session": id }), ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &row, now).await?;
    tx.commit().await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().append(header::SET_COOKIE, session_cookie(&resources, "")?);
    Ok(response)
}

/// Changes one's own password, and ends one's other sessions.
pub(crate) async fn change_password(
    State(resources): State<Resources>,
    caller: Caller,
    context: RequestContext,
    Json(change): Json<PasswordChange>,
) -> ApiResult<StatusCode> {
    let session = session_of(&caller)?;
    resources.auth.rates().guess(context.ip())?;
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let user = tx.user(caller.principal).await?.ok_or_else(|| ApiError::internal("the user vanished"))?;
    tx.commit().await?;
    let Some(hash) = user.password_hash.clone() else {
        return Err(ApiError::new(
            Code::Forbidden,
            "this account has no password; its provider does the login",
        ));
    };
    let wrong = || ApiError::new(Code::Forbidden, "the current password is wrong");
    // Guesses count here as well, else a session that was left open would be a way around the lock-out.
    if user.is_locked(now) || !resources.auth.is_password(&change.current, &hash).await? {
        let tx = resources.db.begin().await?;
        fail(&resources, tx, "password.change", &user, &context, false).await?;
        return Err(wrong());
    }
    password::check(&change.new, &user.login)?;
    if change.new == change.current {
        return Err(ApiError::invalid("the new password is the current one"));
    }
    let new = resources.auth.hash_secret(&change.new).await?;
    let mut tx = resources.db.begin().await?;
    // As it is now: others may have guessed, or an admin set another one, meanwhile.
    let fresh = tx.locked_user(user.principal_id).await?;
    if !fresh.is_some_and(|fresh| fresh.password_hash == user.password_hash && !fresh.is_locked(now)) {
        return Err(wrong());
    }
    tx.set_password(user.principal_id, &new, None, now).await?;
    let ended = tx.revoke_sessions(user.principal_id, Some(session), now).await?;
    let row = NewAudit {
        action: "password.change",
        detail: json!({ "sessions_ended": ended }),
        ..NewAudit::default()
    };
    tx.audit(&caller.actor(), Outcome::Done, &row, now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
