//! A server of a test's own: every service behind the embedded gateway, on a free port.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use kkartifact::Embedded;
use kkartifact_model::time::Clock;
use kkartifact_service::{Config, Resources, Shutdown};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Held, TestDatabase};

/// A running server and its first admin.
pub struct TestServer {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// The first admin's token.
    pub admin: String,
    /// The clock that the server lives by: it stands still unless advanced.
    pub clock: Clock,
    http: reqwest::Client,
    server: Option<Embedded>,
    config: Config,
    dir: TempDir,
    _database: TestDatabase,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// Asserts a refusal with this status and code, and a request id to find it by.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) {
        let answer = self.expect(status);
        let body = answer.json();
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        assert_eq!(body["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl TestServer {
    /// Starts a server with small limits and fast hashing.
    pub async fn start(database: TestDatabase) -> Self {
        Self::start_with(database, |_| {}).await
    }

    /// Starts a server whose configuration is changed first.
    pub async fn start_with(database: TestDatabase, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.server.data_dir = dir.path().join("data");
        config.storage.reserve = kkartifact_model::size::ByteSize(0);
        config.auth.bcrypt_cost = 4;
        // All tests come from one address; the limits have tests of their own.
        config.rate.guesses_per_minute = 1 << 20;
        config.database.url = database.url();
        change(&mut config);
        let start: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let clock = Clock::manual(start);
        let server = Embedded::start(config.clone(), clock.clone(), Shutdown::default()).await.unwrap();
        let url = format!("http://{}", server.address);
        let secret = server.bootstrap_secret.clone().unwrap();
        let http = reqwest::Client::new();
        let mut started = Self {
            url,
            admin: String::new(),
            clock,
            http,
            server: Some(server),
            config,
            dir,
            _database: database,
        };
        let body = json!({ "secret": secret });
        let answer = started.call(Method::POST, "/bootstrap", "", Some(body)).await.expect(201);
        answer.json()["token"].as_str().unwrap().clone_into(&mut started.admin);
        started
    }

    /// What the server holds.
    pub fn resources(&self) -> &Resources {
        &self.server.as_ref().unwrap().resources
    }

    /// Runs statements on the server's database, behind its back.
    pub async fn execute(&self, sql: &str) {
        crate::database::execute(&self.config.database(), sql).await;
    }

    /// Begins a transaction on the server's PostgreSQL with these statements, behind its back.
    pub async fn hold(&self, sql: &str) -> Held {
        Held::begin(&self.config.database(), sql).await
    }

    /// Sends bytes as they are to the server; the answer's bytes. For what no client library would send.
    pub async fn raw(&self, request: &str) -> String {
        let address = self.url.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Where the server keeps its content.
    pub fn content_dir(&self) -> PathBuf {
        self.config.storage_path()
    }

    /// A directory of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the server and starts it again on the same data, with a changed configuration.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        self.server.take().unwrap().stop().await.unwrap();
        change(&mut self.config);
        let server =
            Embedded::start(self.config.clone(), self.clock.clone(), Shutdown::default()).await.unwrap();
        assert!(server.bootstrap_secret.is_none(), "the one-time secret has been spent");
        self.url = format!("http://{}", server.address);
        self.server = Some(server);
    }

    /// Stops the server; its directories stay until the test ends.
    pub async fn stop(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }

    /// A request to the API, not yet sent.
    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        let bare = path.starts_with("/health") || path.starts_with("/.well-known") || path == "/metrics";
        let prefix = if bare { "" } else { "/api/v1" };
        let request = self.http.request(method, format!("{}{prefix}{path}", self.url));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    /// Calls the API with a JSON body, if there is one.
    pub async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path, token);
        self.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// `GET`
    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    /// `POST`
    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, token, Some(body)).await
    }

    /// A token with permissions on a project, on an app (`shop/web`), or on everything (empty).
    pub async fn token(&self, permissions: &[&str], scope: &str) -> String {
        let scope = match scope.split_once('/') {
            Some((project, app)) => json!({ "project": project, "app": app }),
            None if scope.is_empty() => json!({}),
            None => json!({ "project": scope }),
        };
        let body = json!({ "name": "test", "permissions": permissions, "scopes": [scope] });
        let answer = self.post("/tokens", &self.admin, body).await.expect(201);
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Makes a project and an app.
    pub async fn make_app(&self, project: &str, app: &str) {
        self.post("/projects", &self.admin, json!({ "name": project })).await;
        self.post(&format!("/projects/{project}/apps"), &self.admin, json!({ "name": app }))
            .await
            .expect(201);
    }

    /// Pushes files with plain HTTP: init, put each, finish.
    pub async fn push_files(&self, app: &str, version: &str, token: &str, files: &[(&str, &[u8])]) -> Answer {
        let (project, name) = app.split_once('/').unwrap();
        let init = json!({ "project": project, "app": name, "version": version });
        let opened = self.post("/upload/init", token, init).await.expect(201).json();
        for (path, content) in files {
            let put = self.request(Method::PUT, &format!("/file/{app}/{version}"), token);
            self.send(put.query(&[("path", path)]).body(content.to_vec())).await.expect(200);
        }
        self.post("/upload/finish", token, json!({ "upload_id": opened["upload_id"] })).await
    }

    /// Waits until no background job is left to do.
    pub async fn settle(&self) {
        loop {
            let jobs = self.get("/jobs/counts", &self.admin).await.expect(200).json();
            if jobs["queued"] == 0 && jobs["running"] == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
