//! The token endpoint: client credentials (RFC 6749, section 4.4) and token exchange (RFC 8693).

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kkartifact_model::api::oauth::{
    ACCESS_TOKEN, OauthCode, OauthError, SUBJECT_TOKEN_TYPES, TOKEN_EXCHANGE, TokenAnswer,
};
use kkartifact_model::token::ClientSecret;
use kkartifact_model::{Permission, Permissions};
use kkartifact_service::error::Refused;
use kkartifact_service::http::context::RequestContext;
use kkartifact_service::http::extract::RawBody;
use kkartifact_service::{ApiError, ApiResult, Grants, Resources};
use kkartifact_store::{Actor, NewAudit, Outcome, PrincipalId, StoreError, Tx, kind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::exchange;

/// What a client sends as a form. What it does not know of, a server ignores (RFC 6749, section 3.2).
#[derive(Deserialize)]
pub(crate) struct Wish {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    pub(crate) subject_token: Option<String>,
    subject_token_type: Option<String>,
    pub(crate) policy: Option<String>,
}

/// A refusal as RFC 6749 wants it, or one of ours.
pub(crate) enum Refusal {
    Oauth(OauthCode, String),
    Ours(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Ours(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Ours(error.into())
    }
}

pub(crate) fn refuse(code: OauthCode, why: impl Into<String>) -> Refusal {
    Refusal::Oauth(code, why.into())
}

pub(crate) async fn token(
    State(resources): State<Resources>,
    context: RequestContext,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Response {
    let granted = match wish(&headers, &body) {
        Ok(wish) => grant(&resources, &context, &headers, wish).await,
        Err(refusal) => Err(refusal),
    };
    match granted {
        Ok(answer) => no_store(axum::Json(answer).into_response()),
        Err(Refusal::Ours(error)) => error.into_response(),
        Err(Refusal::Oauth(code, why)) => {
            let guessed = matches!(
                code,
                OauthCode::InvalidClient | OauthCode::InvalidGrant | OauthCode::TemporarilyUnavailable
            );
            if guessed && let Err(held) = resources.auth.rates().guess(context.ip()) {
                return held.into_response();
            }
            refusal(code, why, guessed)
        }
    }
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(code: OauthCode, why: String, guessed: bool) -> Response {
    let status = match code {
        OauthCode::InvalidClient => StatusCode::UNAUTHORIZED,
        OauthCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = OauthError { error: code, error_description: why };
    let mut response = no_store((status, axum::Json(body)).into_response());
    if code == OauthCode::InvalidClient {
        let basic = HeaderValue::from_static("Basic realm=\"kkArtifact\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    }
    if code == OauthCode::TemporarilyUnavailable {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    if guessed {
        response.extensions_mut().insert(Refused::default());
    }
    response
}

fn wish(headers: &HeaderMap, body: &[u8]) -> Result<Wish, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != "application/x-www-form-urlencoded" {
        let why = "send a form with 'Content-Type: application/x-www-form-urlencoded'";
        return Err(refuse(OauthCode::InvalidRequest, why));
    }
    // Also where a parameter is there twice.
    serde_urlencoded::from_bytes(body)
        .map_err(|error| refuse(OauthCode::InvalidRequest, format!("the form can't be read: {error}")))
}

async fn grant(
    resources: &Resources,
    context: &RequestContext,
    headers: &HeaderMap,
    wish: Wish,
) -> Result<TokenAnswer, Refusal> {
    match wish.grant_type.as_deref() {
        Some("client_credentials") => client_credentials(resources, context, headers, &wish).await,
        Some(TOKEN_EXCHANGE) => {
            let kind = wish.subject_token_type.as_deref().unwrap_or_default();
            if !SUBJECT_TOKEN_TYPES.contains(&kind) {
                let why = format!("subject_token_type must be one of {}", SUBJECT_TOKEN_TYPES.join(", "));
                return Err(refuse(OauthCode::InvalidRequest, why));
            }
            let holder = exchange::holder(resources, &wish).await?;
            let answer = issue(resources, context, &holder, wish.scope.as_deref()).await?;
            Ok(TokenAnswer { issued_token_type: Some(ACCESS_TOKEN.into()), ..answer })
        }
        Some(_) => {
            let why = format!("grant_type must be client_credentials or {TOKEN_EXCHANGE}");
            Err(refuse(OauthCode::UnsupportedGrantType, why))
        }
        None => Err(refuse(OauthCode::InvalidRequest, "grant_type is missing")),
    }
}

/// Who gets a token.
pub(crate) struct Holder {
    pub(crate) principal: PrincipalId,
    pub(crate) generation: i64,
    pub(crate) kind: &'static str,
    /// How audit rows name them.
    pub(crate) name: String,
    pub(crate) lifetime: TimeDelta,
    pub(crate) detail: Value,
}

async fn client_credentials(
    resources: &Resources,
    context: &RequestContext,
    headers: &HeaderMap,
    wish: &Wish,
) -> Result<TokenAnswer, Refusal> {
    // One answer for every reason: nobody learns which clients exist.
    let wrong = || refuse(OauthCode::InvalidClient, "client id or secret is wrong, over, or disabled");
    let basic = basic(headers);
    if basic.is_some() && wish.client_secret.is_some() {
        return Err(refuse(OauthCode::InvalidRequest, "send the secret once, as Basic or in the form"));
    }
    let form = wish.client_id.clone().zip(wish.client_secret.clone());
    let (client_id, text) = basic.or(form).ok_or_else(wrong)?;
    // Garbage costs a hash.
    let secret = ClientSecret::parse(&text, &client_id, resources.auth.check_key()).map_err(|_| wrong())?;
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let row = tx.find_service_account(&client_id).await?;
    tx.commit().await?;
    let row = row.filter(|row| row.is_valid(now)).ok_or_else(wrong)?;
    if !resources.auth.is_right(secret.secret(), &row.secret_hash).await? {
        return Err(wrong());
    }
    let holder = Holder {
        principal: row.principal_id,
        generation: row.generation,
        kind: kind::SERVICE_ACCOUNT,
        name: row.client_id,
        lifetime: TimeDelta::minutes(resources.config.auth.access_token_minutes.into()),
        detail: Value::Null,
    };
    issue(resources, context, &holder, wish.scope.as_deref()).await
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (client, secret) = text.split_once(':')?;
    Some((client.to_owned(), secret.to_owned()))
}

/// Signs a token, no wider than what is asked for.
async fn issue(
    resources: &Resources,
    context: &RequestContext,
    holder: &Holder,
    scope: Option<&str>,
) -> Result<TokenAnswer, Refusal> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let held = Grants::new(tx.bindings(holder.principal, &[]).await?).anywhere();
    tx.commit().await?;
    let asked = asked(scope, held)?;
    let granted = asked.unwrap_or(held);
    let words = granted.iter().map(Permission::as_str).collect::<Vec<_>>().join(" ");
    let of = (holder.principal.0, holder.generation);
    let mut claims = resources.auth.keys().claims(of, &holder.name, now, now + holder.lifetime);
    // What was not narrowed follows the role bindings.
    claims.scope = asked.map(|_| words.clone());
    let access_token = resources.auth.keys().sign(&resources.db, &claims, now).await?;
    let mut tx = resources.db.begin().await?;
    audit(resources, &mut tx, context, holder, &words, claims.jti).await?;
    tx.commit().await?;
    Ok(TokenAnswer {
        access_token,
        issued_token_type: None,
        token_type: "Bearer".into(),
        expires_in: u64::try_from(holder.lifetime.num_seconds()).unwrap_or(0),
        scope: words,
    })
}

fn asked(scope: Option<&str>, held: Permissions) -> Result<Option<Permissions>, Refusal> {
    let Some(scope) = scope.filter(|scope| !scope.trim().is_empty()) else { return Ok(None) };
    let words = scope.split_whitespace().map(str::parse::<Permission>);
    let asked = words.collect::<Result<Permissions, _>>();
    let asked = asked.map_err(|error| refuse(OauthCode::InvalidScope, error.to_string()))?;
    if held.covers(asked) {
        return Ok(Some(asked));
    }
    Err(refuse(OauthCode::InvalidScope, format!("{asked} is more than there is: {held}")))
}

async fn audit(
    resources: &Resources,
    tx: &mut Tx,
    context: &RequestContext,
    holder: &Holder,
    scope: &str,
    id: uuid::Uuid,
) -> ApiResult<()> {
    let actor = Actor {
        id: Some(holder.principal),
        kind: holder.kind.into(),
        name: holder.name.clone(),
        address: context.ip().map(|address| address.to_string()),
        request_id: Some(context.id.clone()),
        trace_parent: Some(context.trace.to_string()),
        key: resources.auth.audit_key().clone(),
    };
    let detail = json!({ "jti": id, "scope": scope, "by": holder.detail });
    let row = NewAudit { action: "oauth.token", detail, ..NewAudit::default() };
    Ok(tx.audit(&actor, Outcome::Done, &row, resources.clock.now()).await?)
}
