//! Login of people through an OIDC provider: authorization code with PKCE (RFC 7636), state and nonce.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use cookie::SameSite;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kkartifact_model::Code;
use kkartifact_model::api::user::Role;
use kkartifact_model::token::{readable, same};
use kkartifact_service::auth::sessions;
use kkartifact_service::http::context::RequestContext;
use kkartifact_service::http::extract::Query;
use kkartifact_service::oidc::{ForeignClaims, ForeignError};
use kkartifact_service::outbound::json;
use kkartifact_service::{ApiError, ApiResult, Resources, password, secret};
use kkartifact_store::{NewUserRow, StoreError, UserRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::login::{enter, session_cookie};

/// How long somebody may take at the provider.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);
const PURPOSE: &str = "oidc login";
/// The most bytes of the provider's answer.
const MOST: usize = 64 << 10;
const MAX_GROUPS: usize = 200;

/// What the browser keeps, encrypted, while its person is at the provider. No state stays in the server.
#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    until: DateTime<Utc>,
}

fn cookie_name(resources: &Resources) -> &'static str {
    if resources.config.is_https() { "__Host-kka_login" } else { "kka_login" }
}

/// Coming back from another site, `Strict` cookies are not sent.
fn pending_cookie(resources: &Resources, value: &str) -> ApiResult<HeaderValue> {
    sessions::set_cookie(&resources.config, cookie_name(resources), value, SameSite::Lax, PATIENCE)
}

fn issuer(resources: &Resources) -> ApiResult<&str> {
    let none = || ApiError::new(Code::NotFound, "no OIDC provider is configured on this server");
    resources.config.oidc.issuer.as_deref().ok_or_else(none)
}

fn redirect_uri(resources: &Resources) -> String {
    format!("{}/api/v1/oidc/callback", resources.config.issuer())
}

#[derive(Deserialize)]
pub(crate) struct Start {
    #[serde(default)]
    return_to: Option<String>,
}

/// Requires a path of this site: not another host, in none of the ways that browsers read one.
fn check_return(path: &str) -> ApiResult<()> {
    let inside = path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= 500
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if inside { Ok(()) } else { Err(ApiError::invalid("return_to must be a path of this site")) }
}

pub(crate) async fn login(
    State(resources): State<Resources>,
    context: RequestContext,
    Query(start): Query<Start>,
) -> ApiResult<Response> {
    let issuer = issuer(&resources)?;
    resources.auth.rates().guess(context.ip())?;
    let return_to = start.return_to.unwrap_or_else(|| "/".to_owned());
    check_return(&return_to)?;
    let discovery = resources.providers.discover(issuer).await.map_err(unreachable)?;
    if discovery.authorization_endpoint.is_empty() || discovery.token_endpoint.is_empty() {
        return Err(unreachable(ForeignError::Refused("the issuer has no endpoints for logins")));
    }
    let pending = Pending {
        state: readable::<20>(secret::random()?),
        nonce: readable::<20>(secret::random()?),
        // RFC 7636 wants 43 to 128 characters.
        verifier: readable::<40>(secret::random()?),
        return_to,
        until: resources.clock.now() + PATIENCE,
    };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&pending.verifier));
    let config = &resources.config.oidc;
    let scope = std::iter::once("openid").chain(config.scopes.iter().map(String::as_str));
    let scope = scope.collect::<Vec<_>>().join(" ");
    let redirect = redirect_uri(&resources);
    let query = [
        ("response_type", "code"),
        ("client_id", config.client_id.as_str()),
        ("redirect_uri", redirect.as_str()),
        ("scope", scope.as_str()),
        ("state", pending.state.as_str()),
        ("nonce", pending.nonce.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let query = serde_urlencoded::to_string(query).map_err(ApiError::internal)?;
    let endpoint = &discovery.authorization_endpoint;
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    let text = serde_json::to_vec(&pending).map_err(ApiError::internal)?;
    let sealed = URL_SAFE_NO_PAD.encode(resources.vault.seal(PURPOSE, &text)?);
    let cookie = pending_cookie(&resources, &sealed)?;
    redirect_to(&format!("{endpoint}{separator}{query}"), [cookie])
}

fn redirect_to(place: &str, cookies: impl IntoIterator<Item = HeaderValue>) -> ApiResult<Response> {
    let mut response = StatusCode::FOUND.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_str(place).map_err(ApiError::internal)?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn unreachable(error: ForeignError) -> ApiError {
    ApiError::unavailable("the OIDC provider does not answer as it should; try again", error)
}

fn refused(why: &str) -> ApiError {
    ApiError::new(Code::Unauthenticated, format!("the login was not completed: {why}")).as_refusal()
}

#[derive(Deserialize)]
pub(crate) struct Callback {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

pub(crate) async fn callback(
    State(resources): State<Resources>,
    context: RequestContext,
    headers: HeaderMap,
    Query(callback): Query<Callback>,
) -> ApiResult<Response> {
    let issuer = issuer(&resources)?;
    resources.auth.rates().guess(context.ip())?;
    let now = resources.clock.now();
    // Without the cookie it is not the browser that set out: somebody else's login is not to become this one's.
    let pending = pending(&resources, &headers).ok_or_else(|| refused("begin again at the login page"))?;
    let state = callback.state.as_deref().unwrap_or_default();
    if now >= pending.until || !same(state.as_bytes(), pending.state.as_bytes()) {
        return Err(refused("it took too long, or another one was begun meanwhile"));
    }
    if callback.error.is_some() {
        return Err(refused("the provider did not let you in"));
    }
    let code = callback.code.ok_or_else(|| refused("the provider sent no code"))?;
    let id_token = exchange(&resources, issuer, &code, &pending.verifier).await?;
    let client = &resources.config.oidc.client_id;
    let claims = resources.providers.verify(&id_token, issuer, client, now).await;
    let claims = claims.map_err(|error| match error {
        ForeignError::Refused(why) | ForeignError::Unproven(why) => refused(why),
        other @ ForeignError::Unreachable(_) => unreachable(other),
    })?;
    check_id_token(&claims, &pending.nonce, client)?;

    let user = person(&resources, issuer, &claims).await?;
    let session = sessions::prepare(&resources, &user, &context, &headers).await?;
    let mut tx = resources.db.begin().await?;
    let now_disabled = tx.locked_user(user.principal_id).await?.is_none_or(|row| row.disabled_at.is_some());
    if now_disabled {
        return Err(refused("the account is disabled"));
    }
    tx.set_groups(user.principal_id, &groups(&resources, &claims)).await?;
    enter(&resources, &mut tx, &user, &session, &context, "oidc.login").await?;
    tx.commit().await?;
    let cookies = [session_cookie(&resources, &session.token)?, pending_cookie(&resources, "")?];
    redirect_to(&pending.return_to, cookies)
}

fn pending(resources: &Resources, headers: &HeaderMap) -> Option<Pending> {
    let sealed = URL_SAFE_NO_PAD.decode(sessions::named(headers, cookie_name(resources))?).ok()?;
    serde_json::from_slice(&resources.vault.open(PURPOSE, &sealed)?).ok()
}

/// Exchanges the code for the person's token.
async fn exchange(resources: &Resources, issuer: &str, code: &str, verifier: &str) -> ApiResult<String> {
    let config = &resources.config.oidc;
    let discovery = resources.providers.discover(issuer).await.map_err(unreachable)?;
    let redirect = redirect_uri(resources);
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &redirect),
        ("code_verifier", verifier),
        ("client_id", &config.client_id),
    ];
    let request = resources.providers.outbound().post(&discovery.token_endpoint);
    let mut request = request.map_err(|error| unreachable(error.into()))?.form(&form);
    if let Some(path) = &config.client_secret_file {
        let secret = tokio::fs::read_to_string(path).await;
        let secret = secret.map_err(|error| ApiError::internal(format!("{}: {error}", path.display())))?;
        request = request.basic_auth(&config.client_id, Some(secret.trim()));
    }
    let answer = json(request, MOST).await.map_err(|error| {
        tracing::warn!(%error, "the OIDC provider gave no token for a code");
        refused("the provider gave no token")
    })?;
    let token = answer.get("id_token").and_then(Value::as_str);
    token.map(str::to_owned).ok_or_else(|| refused("the provider sent no id_token"))
}

/// `OpenID` Connect Core, section 3.1.3.7: what is to be checked beyond signature, issuer, audience and times.
fn check_id_token(claims: &ForeignClaims, nonce: &str, client: &str) -> ApiResult<()> {
    let given = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
    if !same(given.as_bytes(), nonce.as_bytes()) {
        return Err(refused("the provider's token is not for this login"));
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|list| list.len() > 1);
    let party = claims.get("azp").and_then(Value::as_str);
    if party.is_some_and(|party| party != client) || (several && party.is_none()) {
        return Err(refused("the provider's token is for another client"));
    }
    Ok(())
}

fn groups(resources: &Resources, claims: &ForeignClaims) -> Vec<String> {
    let listed = claims.get(&resources.config.oidc.groups_claim).and_then(Value::as_array);
    let names = listed.into_iter().flatten().filter_map(Value::as_str).filter(|name| !name.contains('\0'));
    names.take(MAX_GROUPS).map(str::to_owned).collect()
}

/// Whose login it is. Known by issuer and subject: names may be given to somebody else.
async fn person(resources: &Resources, issuer: &str, claims: &ForeignClaims) -> ApiResult<UserRow> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let subject = text("sub");
    if subject.is_empty() || subject.len() > 255 || subject.contains('\0') {
        return Err(refused("the provider did not say who you are"));
    }
    let mut tx = resources.db.read().await?;
    let known = tx.find_oidc_user(issuer, subject).await?;
    tx.commit().await?;
    let user = match known {
        Some(user) => user,
        None if resources.config.oidc.sign_up => {
            let login = text(&resources.config.oidc.login_claim).to_lowercase();
            sign_up(resources, &login, issuer, subject).await?
        }
        None => {
            let message = "you have no account here; ask an admin";
            return Err(ApiError::new(Code::Forbidden, message).as_refusal());
        }
    };
    if user.disabled_at.is_some() {
        return Err(refused("the account is disabled"));
    }
    Ok(user)
}

async fn sign_up(resources: &Resources, login: &str, issuer: &str, subject: &str) -> ApiResult<UserRow> {
    if password::check_login(login).is_err() {
        return Err(refused("the provider's name for you can't be a login here; ask an admin"));
    }
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let oidc = Some((issuer, subject));
    let row = NewUserRow { login, role: Role::None, password_hash: None, temporary_until: None, oidc };
    let id = tx.insert_user(&row, now).await.map_err(|error| match error {
        // Never an account that is there: whoever can choose a name at the provider would take it over.
        StoreError::Conflict => refused("the login is taken here; ask an admin"),
        other => other.into(),
    })?;
    let user = tx.user(id).await?.ok_or_else(|| ApiError::internal("the user vanished"))?;
    let audit = kkartifact_store::NewAudit {
        action: "user.sign_up",
        detail: serde_json::json!({ "login": login, "issuer": issuer }),
        ..kkartifact_store::NewAudit::default()
    };
    let actor = kkartifact_store::Actor::system("oidc", resources.auth.audit_key());
    tx.audit(&actor, kkartifact_store::Outcome::Done, &audit, now).await?;
    tx.commit().await?;
    Ok(user)
}
