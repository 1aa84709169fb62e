//! What the provider answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kkartifact_model::time::Clock;
use reqwest::Url;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CLIENT_ID, Faults, Forgery, REDIRECT_URI, SigningKey};

type Params = BTreeMap<String, String>;
type Provider = State<Arc<Shared>>;

/// What the endpoints and the test share.
pub(super) struct Shared {
    pub(super) issuer: String,
    pub(super) connections: AtomicUsize,
    pub(super) jwks_requests: AtomicUsize,
    pub(super) memory: Mutex<Memory>,
}

/// What the test may change.
pub(super) struct Memory {
    pub(super) clock: Clock,
    pub(super) key: SigningKey,
    pub(super) client_secret: String,
    pub(super) person: Value,
    pub(super) logins: BTreeMap<String, Login>,
    pub(super) forgery: Forgery,
    pub(super) faults: Faults,
}

/// What a code stands for.
pub(super) struct Login {
    pub(super) challenge: String,
    pub(super) nonce: String,
    pub(super) person: Value,
}

impl Shared {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    fn discovery(&self) -> Response {
        let faults = self.memory().faults.clone();
        if let Some(target) = &faults.discovery_redirect {
            return found(target);
        }
        let issuer = &self.issuer;
        Json(json!({
            "issuer": faults.issuer.as_ref().unwrap_or(issuer),
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": faults.jwks_uri.unwrap_or_else(|| format!("{issuer}/jwks")),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }))
        .into_response()
    }

    async fn jwks(&self) -> Response {
        self.jwks_requests.fetch_add(1, Ordering::Relaxed);
        let faults = self.memory().faults.clone();
        if faults.jwks_hangs {
            std::future::pending::<()>().await;
        }
        if let Some(target) = &faults.jwks_redirect {
            return found(target);
        }
        let jwk = self.memory().key.jwk();
        Json(json!({ "keys": [jwk], "padding": "x".repeat(faults.jwks_padding) })).into_response()
    }

    fn authorize(&self, query: &Params) -> Response {
        let is = |name: &str, value: &str| query.get(name).is_some_and(|given| given == value);
        let right = is("client_id", CLIENT_ID)
            && is("redirect_uri", REDIRECT_URI)
            && is("response_type", "code")
            && is("code_challenge_method", "S256")
            && field(query, "scope").split(' ').any(|scope| scope == "openid");
        if !right {
            return (StatusCode::BAD_REQUEST, format!("not a right request: {query:?}")).into_response();
        }
        let code = Uuid::new_v4().simple().to_string();
        let mut memory = self.memory();
        let login = Login {
            challenge: field(query, "code_challenge").to_owned(),
            nonce: field(query, "nonce").to_owned(),
            person: memory.person.clone(),
        };
        memory.logins.insert(code.clone(), login);
        let answer = [("code", code.as_str()), ("state", field(query, "state"))];
        found(Url::parse_with_params(REDIRECT_URI, &answer).unwrap().as_str())
    }

    fn token(&self, headers: &HeaderMap, body: &str) -> Response {
        // A query and a form are written alike.
        let form = Url::parse(&format!("http://form.test/?{body}")).unwrap();
        let form = form.query_pairs().into_owned().collect();
        match self.redeem(headers, &form) {
            Ok(token) => {
                let answer = json!({
                    "access_token": "not-used",
                    "token_type": "Bearer",
                    "expires_in": 300,
                    "id_token": token,
                });
                Json(answer).into_response()
            }
            Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
        }
    }

    fn redeem(&self, headers: &HeaderMap, form: &Params) -> Result<String, &'static str> {
        let mut memory = self.memory();
        if client(headers, form) != (CLIENT_ID.to_owned(), memory.client_secret.clone()) {
            return Err("invalid_client");
        }
        if field(form, "grant_type") != "authorization_code" {
            return Err("unsupported_grant_type");
        }
        // A code is good once, also for who gets the rest wrong.
        let login = memory.logins.remove(field(form, "code")).ok_or("invalid_grant")?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, field(form, "code_verifier").as_bytes()));
        if login.challenge != challenge || field(form, "redirect_uri") != REDIRECT_URI {
            return Err("invalid_grant");
        }
        let now = memory.clock.now().timestamp();
        let (key, forgery) = (memory.key.clone(), memory.forgery);
        drop(memory);
        let mut claims = login.person;
        claims["iss"] = json!(self.issuer);
        claims["aud"] = json!(CLIENT_ID);
        claims["nonce"] = json!(login.nonce);
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + 300);
        Ok(forgery(&key, &claims))
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(
            "/.well-known/openid-configuration",
            get(|State(shared): Provider| async move { shared.discovery() }),
        )
        .route("/jwks", get(|State(shared): Provider| async move { shared.jwks().await }))
        .route(
            "/authorize",
            get(|State(shared): Provider, Query(query): Query<Params>| async move {
                shared.authorize(&query)
            }),
        )
        .route(
            "/token",
            post(|State(shared): Provider, headers: HeaderMap, body: String| async move {
                shared.token(&headers, &body)
            }),
        )
        .with_state(shared)
}

fn found(target: &str) -> Response {
    (StatusCode::FOUND, [(LOCATION, target.to_owned())]).into_response()
}

fn field<'a>(params: &'a Params, name: &str) -> &'a str {
    params.get(name).map_or("", String::as_str)
}

/// Client id and secret, by Basic or from the form.
fn client(headers: &HeaderMap, form: &Params) -> (String, String) {
    let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let Some(basic) = basic else {
        return (field(form, "client_id").to_owned(), field(form, "client_secret").to_owned());
    };
    let pair = String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap();
    let (id, secret) = pair.split_once(':').unwrap();
    (id.to_owned(), secret.to_owned())
}
