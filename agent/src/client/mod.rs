//! The HTTP API, as the agent uses it. Every call is safe to repeat, and transient failures are.

mod download;
mod retry;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kkartifact_model::api::access::{Bootstrap, Bootstrapped, WhoAmI};
use kkartifact_model::api::channel::{Channel, Promote, Rollback};
use kkartifact_model::api::error::ErrorBody;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::version::{Prune, Pruned, PullReport, Version, VersionDiff};
use kkartifact_model::{AppName, Code, ProjectName, TreeDigest, VersionName, VersionRef};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{AgentError, Kind, Result};
pub use download::{ChunkStream, ManifestStream, VersionPath, is_base_refused};
pub use retry::Attempt;
pub(crate) use retry::Patience;

/// How long a call without content may take.
const CALL: Duration = Duration::from_mins(1);
/// The longest that a report is worth waiting for.
const REPORT: Duration = Duration::from_secs(3);
/// How long publishing may take: the server reads everything that it has not verified on the way in.
const PUBLISH: Duration = Duration::from_hours(1);
/// How long to wait for a connection, and for the next bytes of a stream.
const CONNECT: Duration = Duration::from_secs(10);
pub(crate) const SILENCE: Duration = Duration::from_mins(2);

/// A server, and who one is there.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    moved: Arc<Moved>,
}

/// Bytes of bodies that were sent and received.
#[derive(Debug, Default)]
struct Moved {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Client {
    /// A client for the server at `url`.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(AgentError::usage(format!(
                "server_url must start with http:// or https://, not {url:?}"
            )));
        }
        // Two callers may try; the first one's choice is the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .user_agent(concat!("kkartifact-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
        let base = format!("{}/api/v1", url.trim_end_matches('/'));
        Ok(Self { http, base, token: token.map(str::to_owned), moved: Arc::default() })
    }

    /// Bytes of bodies sent and received by this client and its clones.
    pub fn moved(&self) -> (u64, u64) {
        (self.moved.sent.load(Ordering::Relaxed), self.moved.received.load(Ordering::Relaxed))
    }

    fn count_sent(&self, bytes: usize) {
        self.moved.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_received(&self, bytes: usize) {
        self.moved.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        self.retrying(|| async {
            self.answer(self.request(Method::GET, path).query(query).timeout(CALL)).await
        })
        .await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T> {
        let bytes =
            serde_json::to_vec(body).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
        self.retrying(|| async {
            self.count_sent(bytes.len());
            let request = self.request(method.clone(), path).timeout(timeout);
            self.answer(request.header("content-type", "application/json").body(bytes.clone())).await
        })
        .await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(Method::POST, path, body, CALL).await
    }

    /// A call that is made once.
    async fn once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T> {
        let request = self.request(Method::POST, path).timeout(timeout).json(body);
        self.answer(request).await.map_err(Attempt::into_error)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Attempt> {
        let response = self.checked(request).await?;
        let bytes = response.bytes().await.map_err(|error| Attempt::network(&error))?;
        self.count_received(bytes.len());
        let body: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(body).map_err(|error| {
            let message =
                format!("the server's answer is not understood: {error}; is it a kkArtifact server?");
            Attempt::Final(AgentError::new(Kind::Failed, message))
        })
    }

    /// Sends a request; anything but success is an error.
    async fn checked(&self, request: RequestBuilder) -> Result<Response, Attempt> {
        let response = request.send().await.map_err(|error| Attempt::network(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap_or_default();
        self.count_received(bytes.len());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| foreign(status));
        Err(Attempt::refused(body, &headers))
    }

    /// Who the token is.
    pub async fn whoami(&self) -> Result<WhoAmI> {
        self.get("/whoami", &[]).await
    }

    /// Spends the one-time secret of a new server. Not tried again: it works once.
    pub async fn bootstrap(&self, bootstrap: &Bootstrap) -> Result<Bootstrapped> {
        self.once("/bootstrap", bootstrap, CALL).await
    }

    /// A version by any name.
    pub async fn version(
        &self,
        project: &ProjectName,
        app: &AppName,
        version: &VersionRef,
    ) -> Result<Version> {
        self.get(&format!("{}/versions/{}", app_path(project, app), escape(&version.to_string())), &[]).await
    }

    /// The newest versions of an app.
    pub async fn versions(&self, project: &ProjectName, app: &AppName, limit: u32) -> Result<Page<Version>> {
        self.get(&format!("{}/versions", app_path(project, app)), &[("limit", limit.to_string())]).await
    }

    /// The versions of an app that are this very content.
    pub async fn versions_of_tree(
        &self,
        project: &ProjectName,
        app: &AppName,
        tree: &TreeDigest,
    ) -> Result<Page<Version>> {
        self.get(&format!("{}/versions", app_path(project, app)), &[("tree_digest", tree.to_string())]).await
    }

    /// What changed between two versions.
    pub async fn diff(
        &self,
        project: &ProjectName,
        app: &AppName,
        from: &VersionRef,
        to: &VersionRef,
        limit: u32,
    ) -> Result<VersionDiff> {
        let query = [("from", from.to_string()), ("to", to.to_string()), ("limit", limit.to_string())];
        self.get(&format!("{}/diff", app_path(project, app)), &query).await
    }

    /// Points a channel to a version.
    pub async fn promote(&self, promote: &Promote) -> Result<Channel> {
        self.post("/promote", promote).await
    }

    /// Moves a channel back. Not tried again: a second call would go back twice.
    pub async fn rollback(&self, rollback: &Rollback) -> Result<Channel> {
        self.once("/rollback", rollback, CALL).await
    }

    /// The channels of an app.
    pub async fn channels(&self, project: &ProjectName, app: &AppName) -> Result<Vec<Channel>> {
        self.get(&format!("{}/channels", app_path(project, app)), &[]).await
    }

    /// Deletes the oldest versions of an app.
    pub async fn prune(&self, project: &ProjectName, app: &AppName, prune: &Prune) -> Result<Pruned> {
        self.post(&format!("{}/prune", app_path(project, app)), prune).await
    }

    /// Says that this host has applied a version. Tried once and not for long: nobody waits for it at night.
    pub async fn report_pull(
        &self,
        project: &ProjectName,
        app: &AppName,
        version: &VersionName,
        report: &PullReport,
    ) -> Result<()> {
        let path = format!("{}/versions/{}/pulls", app_path(project, app), escape(version.as_str()));
        self.once(&path, report, REPORT).await
    }
}

/// An answer that is not ours: a proxy, or another server.
fn foreign(status: StatusCode) -> ErrorBody {
    let code = match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        408 | 429 | 502..=504 => Code::Unavailable,
        413 => Code::TooLarge,
        _ => Code::Internal,
    };
    ErrorBody::new(code, format!("HTTP {status}, not in kkArtifact's form; is there a proxy in between?"))
}

fn app_path(project: &ProjectName, app: &AppName) -> String {
    format!("/projects/{project}/apps/{app}")
}

/// Names need no escaping in a path but for what versions may have beyond letters, digits, '.', '-' and '_'.
fn escape(name: &str) -> String {
    name.replace('+', "%2B").replace('@', "%40")
}
