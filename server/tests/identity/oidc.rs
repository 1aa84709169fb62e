//! What the tests with a provider share: a server that trusts it, a browser, and claims.

use std::collections::BTreeMap;

use kkartifact_model::api::oauth::{SUBJECT_TOKEN_TYPES, TOKEN_EXCHANGE};
use kkartifact_service::Config;
use kkartifact_testkit::oidc::{CLIENT_ID, OidcProvider, REDIRECT_URI};
use kkartifact_testkit::{Answer, TestDatabase, TestServer};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::{Value, json};

/// What the tokens of CI jobs are for.
pub(crate) const AUDIENCE: &str = "kkartifact";

/// A server whose people log in at the provider, and which may reach it.
pub(crate) async fn server_for(
    db: TestDatabase,
    provider: &OidcProvider,
    change: impl FnOnce(&mut Config),
) -> TestServer {
    let server = TestServer::start_with(db, |config| {
        config.server.public_url = Some("http://releases.test".into());
        config.outbound.allow = vec!["127.0.0.1".into()];
        // The clock stands still, and so would the guesses that are left.
        config.rate.guesses_per_minute = 100_000;
        config.oidc.issuer = Some(provider.issuer().to_owned());
        config.oidc.client_id = CLIENT_ID.into();
        config.oidc.groups_claim = "groups".into();
        config.oidc.sign_up = true;
        change(config);
    })
    .await;
    provider.follow(server.clock.clone());
    server
}

/// A browser: keeps cookies, and shows every redirect instead of following it.
#[derive(Clone)]
pub(crate) struct Browser {
    /// Name → value.
    pub(crate) cookies: BTreeMap<String, String>,
    http: Client,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let http = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { cookies: BTreeMap::new(), http }
    }

    fn request(&self, server: &TestServer, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1{path}", server.url));
        if self.cookies.is_empty() {
            return request;
        }
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request.header("cookie", cookies.join("; "))
    }

    async fn send(&mut self, server: &TestServer, request: RequestBuilder) -> Answer {
        let answer = server.send(request).await;
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let (name, value) = pair.split_once('=').unwrap();
            let ended = attributes.split(';').any(|part| part.trim().eq_ignore_ascii_case("max-age=0"));
            if ended || value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub(crate) async fn get(&mut self, server: &TestServer, path: &str) -> Answer {
        let request = self.request(server, Method::GET, path);
        self.send(server, request).await
    }

    /// `POST` as the web interface does it: with what stands against forged requests.
    pub(crate) async fn post(&mut self, server: &TestServer, path: &str, body: Value) -> Answer {
        let me = self.get(server, "/whoami").await.expect(200).json();
        let csrf = me["csrf_token"].as_str().unwrap();
        let request = self.request(server, Method::POST, path).header("x-csrf-token", csrf).json(&body);
        self.send(server, request).await
    }

    /// Asks the server to log in.
    pub(crate) async fn begin(&mut self, server: &TestServer, return_to: &str) -> Answer {
        let request = self.request(server, Method::GET, "/oidc/login").query(&[("return_to", return_to)]);
        self.send(server, request).await
    }

    /// Goes where the server led; where the provider sends the browser back to.
    pub(crate) async fn visit_provider(&self, server: &TestServer, target: &Url) -> Url {
        let answer = server.send(self.http.get(target.clone())).await;
        let back = location(&answer);
        assert!(back.as_str().starts_with(REDIRECT_URI), "{back}");
        back
    }

    /// Begins a login and goes to the provider; where it sends the browser back to.
    pub(crate) async fn leave(&mut self, server: &TestServer, return_to: &str) -> Url {
        let sent = self.begin(server, return_to).await;
        self.visit_provider(server, &location(&sent)).await
    }

    /// Comes back from the provider.
    pub(crate) async fn come_back(&mut self, server: &TestServer, back: &Url) -> Answer {
        self.get(server, &format!("/oidc/callback?{}", back.query().unwrap())).await
    }

    /// A whole login; the answer to the return.
    pub(crate) async fn log_in(&mut self, server: &TestServer, return_to: &str) -> Answer {
        let back = self.leave(server, return_to).await;
        self.come_back(server, &back).await
    }

    /// Asserts that the browser is nobody's.
    pub(crate) async fn is_nobody(&mut self, server: &TestServer, why: &str) {
        let me = self.get(server, "/whoami").await;
        assert_eq!(me.status, 401, "{why}: {}", me.text());
    }

    /// The login of whom the browser belongs to.
    pub(crate) async fn name(&mut self, server: &TestServer) -> String {
        let me = self.get(server, "/whoami").await.expect(200).json();
        assert_eq!(me["kind"], "user", "{me}");
        me["name"].as_str().unwrap().to_owned()
    }
}

/// Where an answer leads, as a browser understands it.
#[track_caller]
pub(crate) fn location(answer: &Answer) -> Url {
    let redirects = answer.status == 302 || answer.status == 303;
    assert!(redirects, "{}: {}", answer.status, answer.text());
    Url::parse(REDIRECT_URI).unwrap().join(answer.header("location")).unwrap()
}

/// Asserts that somebody was refused, and not by accident.
#[track_caller]
pub(crate) fn turned_away(answer: &Answer, why: &str) {
    assert!(answer.status.is_client_error(), "{why}: {}: {}", answer.status, answer.text());
}

/// A parameter of a URL; empty if there is none.
pub(crate) fn parameter(url: &Url, name: &str) -> String {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// Claims of which one is different.
pub(crate) fn with(claims: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims.clone();
    claims[name] = value.into();
    claims
}

/// Claims of which one is missing.
pub(crate) fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// What a CI job's token says that the policy of [`make_policy`] is for.
pub(crate) fn job_claims(server: &TestServer, provider: &OidcProvider) -> Value {
    let now = server.clock.now().timestamp();
    json!({
        "iss": provider.issuer(),
        "aud": AUDIENCE,
        "sub": "repo:acme/shop:ref:refs/tags/v1",
        "repository": "acme/shop",
        "ref": "refs/tags/v1",
        "iat": now,
        "nbf": now,
        "exp": now + 300,
    })
}

/// Lets the tags of acme/shop push to the project shop, for a quarter of an hour.
pub(crate) async fn make_policy(server: &TestServer, provider: &OidcProvider, name: &str) {
    let policy = json!({
        "name": name,
        "issuer": provider.issuer(),
        "audience": AUDIENCE,
        "claims": { "repository": "acme/shop", "ref": "refs/tags/*" },
        "permissions": ["push"],
        "scopes": [{ "project": "shop" }],
        "max_minutes": 15,
    });
    server.post("/trust-policies", &server.admin, policy).await.expect(201);
}

/// Sends a form to the token endpoint.
pub(crate) async fn ask_for_token(server: &TestServer, form: &[(&str, &str)]) -> Answer {
    server.send(server.request(Method::POST, "/oauth/token", "").form(form)).await
}

/// Exchanges a CI job's token.
pub(crate) async fn exchange(server: &TestServer, token: &str) -> Answer {
    let form = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token_type", SUBJECT_TOKEN_TYPES[0]),
        ("subject_token", token),
    ];
    ask_for_token(server, &form).await
}

/// Asserts that the token endpoint refused as RFC 6749 says, with one of these errors.
#[track_caller]
pub(crate) fn oauth_refused(answer: &Answer, errors: &[&str], why: &str) {
    let text = answer.text();
    assert_eq!(answer.status, 400, "{why}: {text}");
    let body = answer.json();
    assert!(errors.iter().any(|error| body["error"] == *error), "{why}: {text}");
    assert!(body["error_description"].as_str().is_some_and(|told| !told.is_empty()), "{why}: {text}");
    assert!(body.get("access_token").is_none(), "{why}: {text}");
}
