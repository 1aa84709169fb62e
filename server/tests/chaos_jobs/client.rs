//! The API of a server that may be away for a while.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{PATIENCE, PAUSE, text};

/// Calls the API as the first admin.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Client {
    /// Spends a server's one-time secret.
    pub(crate) async fn bootstrap(url: &str, secret: &str) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        let mut client = Self { http, api: format!("{url}/api/v1"), token: String::new() };
        let made = client.post("/bootstrap", &json!({ "secret": secret })).await;
        client.token = text(&made["token"]);
        client
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.api));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// `GET`
    pub(crate) async fn get(&self, path: &str) -> Value {
        patiently(path, || self.request(Method::GET, path)).await
    }

    /// `POST`. What was asked for may be done though the answer was lost: it is then asked for again.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        patiently(path, || self.request(Method::POST, path).json(body)).await
    }

    /// `PUT` with bytes.
    pub(crate) async fn put(&self, path: &str, body: &'static str) -> Value {
        patiently(path, || self.request(Method::PUT, path).body(body)).await
    }

    /// The items of a list that a filter (`&state=running`) lets through, or of the whole list: all pages of it.
    pub(crate) async fn all(&self, path: &str, filter: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=500{filter}{cursor}")).await;
            items.extend_from_slice(page["items"].as_array().unwrap());
            let Some(next) = page["next_cursor"].as_str() else { return items };
            cursor = format!("&cursor={next}");
        }
    }
}

/// Asks until there is an answer.
async fn patiently(path: &str, request: impl Fn() -> RequestBuilder) -> Value {
    let started = Instant::now();
    loop {
        if let Some(answer) = answer(request()).await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{path} is not answered");
        sleep(PAUSE).await;
    }
}

/// The answer; `None` while the server or its database is away. Anything else is a mistake.
async fn answer(request: RequestBuilder) -> Option<Value> {
    let response = request.send().await.ok()?;
    let status = response.status();
    let body = response.bytes().await.ok()?;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Some(serde_json::from_slice(&body).unwrap_or_default())
}
