//! Sessions of people in browsers: a cookie that names a row, and what keeps other sites from using it.

use chrono::TimeDelta;
use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, Method, header};
use kkartifact_model::Code;
use kkartifact_model::token::{readable, same};
use kkartifact_store::{SessionRow, UserRow};
use uuid::Uuid;

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::context::RequestContext;
use crate::resources::Resources;

/// The header that proves that a page of ours sends a request.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// The most bytes of a browser's own word that are kept.
const MAX_AGENT: usize = 200;

/// The cookie's name. Over https, browsers let no other host and no plain page set it.
pub fn cookie_name(config: &Config) -> &'static str {
    if config.is_https() { "__Host-kka_session" } else { "kka_session" }
}

/// What a page of ours sends with a session's requests: nobody else can know it.
#[derive(Clone)]
pub struct CsrfKey([u8; 32]);

impl CsrfKey {
    /// Derives the key from the server's secret key.
    pub fn derive(secret_key: &[u8]) -> Self {
        Self(blake3::derive_key("kkArtifact 2026 CSRF token", secret_key))
    }

    /// The token of a session.
    pub fn token(&self, session: Uuid) -> String {
        let mac = blake3::keyed_hash(&self.0, session.as_bytes());
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&mac.as_bytes()[..20]);
        readable(bytes)
    }

    /// Requires the token with every request that may change something.
    pub(super) fn check(&self, session: Uuid, method: &Method, headers: &HeaderMap) -> ApiResult<()> {
        if method.is_safe() {
            return Ok(());
        }
        let given = headers.get(CSRF_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        if same(given, self.token(session).as_bytes()) {
            return Ok(());
        }
        let message = "send the X-CSRF-Token that the login answered, or that /api/v1/whoami shows";
        Err(ApiError::new(Code::CsrfRequired, message).as_refusal())
    }
}

/// The session's token in a request's cookies.
pub(super) fn from_cookies<'a>(headers: &'a HeaderMap, config: &Config) -> Option<&'a str> {
    named(headers, cookie_name(config))
}

/// A cookie's value.
pub fn named<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A header that sets or, without a value, takes away a cookie.
pub fn set_cookie(
    config: &Config,
    name: &str,
    value: &str,
    same_site: SameSite,
    age: TimeDelta,
) -> ApiResult<HeaderValue> {
    let seconds = if value.is_empty() { 0 } else { age.num_seconds() };
    let cookie = Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .secure(config.is_https())
        .same_site(same_site)
        .max_age(cookie::time::Duration::seconds(seconds));
    HeaderValue::from_str(&cookie.build().to_string()).map_err(ApiError::internal)
}

/// A session that is about to begin: its row is yet to be inserted.
pub struct NewSession {
    /// Its row.
    pub row: SessionRow,
    /// What names it: for the cookie, or for a script.
    pub token: String,
}

/// Makes a session for a person. Always a new one: what a browser sent before counts for nothing.
pub async fn prepare(
    resources: &Resources,
    user: &UserRow,
    context: &RequestContext,
    headers: &HeaderMap,
) -> ApiResult<NewSession> {
    let now = resources.clock.now();
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let row = SessionRow {
        seq: 0,
        id: Uuid::new_v4(),
        principal_id: user.principal_id,
        created_at: now,
        last_seen_at: now,
        expires_at: now + TimeDelta::hours(resources.config.auth.session_hours.into()),
        revoked_at: None,
        address: context.ip().map(|address| address.to_string()),
        user_agent: agent.map(|agent| agent.chars().take(MAX_AGENT).collect()),
    };
    let of = (user.principal_id.0, user.generation);
    let mut claims = resources.auth.keys().claims(of, &user.login, now, row.expires_at);
    claims.sid = Some(row.id);
    let token = resources.auth.keys().sign(&resources.db, &claims, now).await?;
    Ok(NewSession { row, token })
}
