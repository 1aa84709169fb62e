//! An OIDC provider of a test's own: discovery, keys, authorization code with PKCE, tokens that are right, and
//! tokens that are wrong in a chosen way.

mod endpoints;
mod key;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::serve::ListenerExt as _;
use kkartifact_model::time::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use endpoints::{Memory, Shared, router};
pub use key::SigningKey;

/// The only client that the provider knows.
pub const CLIENT_ID: &str = "kkartifact";
/// Where it sends that client's people.
pub const REDIRECT_URI: &str = "http://releases.test/api/v1/oidc/callback";

/// Makes an ID token of the claims that it should have.
pub type Forgery = fn(&SigningKey, &Value) -> String;

/// What the provider does wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The discovery document names this issuer.
    pub issuer: Option<String>,
    /// The discovery document says that the keys are here.
    pub jwks_uri: Option<String>,
    /// Whoever asks for the discovery document is redirected.
    pub discovery_redirect: Option<String>,
    /// Whoever asks for the keys is redirected.
    pub jwks_redirect: Option<String>,
    /// Bytes that make the key set larger.
    pub jwks_padding: usize,
    /// Whoever asks for the keys waits for ever.
    pub jwks_hangs: bool,
}

/// A running provider. What it does is set by the test while it runs.
pub struct OidcProvider {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl OidcProvider {
    /// Starts a provider at `http://127.0.0.1:port`.
    pub async fn start() -> Self {
        Self::start_as("127.0.0.1").await
    }

    /// Starts a provider that calls itself by another name of this machine.
    pub async fn start_as(host: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let issuer = format!("http://{host}:{}", listener.local_addr().unwrap().port());
        let memory = Mutex::new(Memory {
            clock: Clock::manual("2026-01-02T03:04:05Z".parse().unwrap()),
            key: SigningKey::generate(),
            client_secret: String::new(),
            person: Value::Null,
            logins: BTreeMap::new(),
            forgery: SigningKey::sign,
            faults: Faults::default(),
        });
        let (connections, jwks_requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { issuer, connections, jwks_requests, memory });
        let counted = Arc::clone(&shared);
        let listener = listener.tap_io(move |_| {
            counted.connections.fetch_add(1, Ordering::Relaxed);
        });
        let router = router(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, task }
    }

    /// What its tokens say in `iss`.
    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// From now on ID tokens are made by this clock: the server's.
    pub fn follow(&self, clock: Clock) {
        self.shared.memory().clock = clock;
    }

    /// From now on the client has to send this secret, by Basic or in the form.
    pub fn set_client_secret(&self, secret: &str) {
        secret.clone_into(&mut self.shared.memory().client_secret);
    }

    /// Who sits in front of the browser from now on.
    pub fn set_person(&self, subject: &str, login: &str, email: &str, groups: &[&str]) {
        self.shared.memory().person = json!({
            "sub": subject,
            "preferred_username": login,
            "email": email,
            "email_verified": true,
            "groups": groups,
        });
    }

    /// From now on ID tokens are made by this; `SigningKey::sign` is honest.
    pub fn forge_id_tokens(&self, forgery: Forgery) {
        self.shared.memory().forgery = forgery;
    }

    /// Changes what the provider does wrong.
    pub fn misbehave(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.memory().faults);
    }

    /// The key that signs now.
    pub fn key(&self) -> SigningKey {
        self.shared.memory().key.clone()
    }

    /// A token signed with the current key.
    pub fn sign(&self, claims: &Value) -> String {
        self.key().sign(claims)
    }

    /// Puts a new key in the place of the current one, which is published no longer.
    pub fn rotate_key(&self) {
        let key = SigningKey::generate();
        self.shared.memory().key = key;
    }

    /// How many times the keys were asked for.
    pub fn jwks_requests(&self) -> usize {
        self.shared.jwks_requests.load(Ordering::Relaxed)
    }

    /// How many connections were made, whatever was asked on them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}
