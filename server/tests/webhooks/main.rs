//! Webhooks: who has them, what receivers are told, and that no receiver gets what it shouldn't or holds others up.
//! Receivers are real and on a port of this machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod declared;
mod delivery;
mod disabling;
mod formats;
mod guard;
mod hostile;
mod input;
mod log;
mod rebinding;
mod retries;
mod robots;
mod secrets;
mod unreadable;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use kkartifact_service::Config;
use kkartifact_testkit::{Answer, Received, Receiver, TestDatabase, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(10);
/// For how long nothing happens before more of the server's time goes by.
const LULL: Duration = Duration::from_millis(500);

/// A name that nothing has yet.
fn fresh(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The text that an answer has in this place.
#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The answer, if what was asked for was done.
#[track_caller]
fn done(answer: Answer) -> Answer {
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    answer
}

/// The value of this name, wherever it stands; what is further out comes first.
fn anywhere<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|inner| anywhere(inner, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| anywhere(item, name)),
        _ => None,
    }
}

/// A server that may call this machine, with the apps shop/web, shop/api and other/app.
async fn shop(db: TestDatabase) -> TestServer {
    shop_with(db, |_| {}).await
}

/// The same with a changed configuration.
async fn shop_with(db: TestDatabase, change: impl FnOnce(&mut Config)) -> TestServer {
    let server = TestServer::start_with(db, |config| {
        config.outbound.allow = vec!["127.0.0.1".into()];
        change(config);
    })
    .await;
    server.make_app("shop", "web").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.make_app("other", "app").await;
    server
}

/// Publishes a version of an app.
async fn push(server: &TestServer, app: &str, version: &str) {
    let content = format!("{version} of {app}");
    server.push_files(app, version, &server.admin, &[("a", content.as_bytes())]).await.expect(201);
}

/// Points a channel of an app to a version, with this credential.
async fn promote(server: &TestServer, by: &str, app: &str, version: &str) -> Answer {
    let (project, name) = app.split_once('/').unwrap();
    server.post("/promote", by, json!({ "project": project, "app": name, "version": version })).await
}

/// Publishes `v1` and `v2` of shop/web. What happens next is up to [`happen`].
async fn with_versions(server: &TestServer) {
    for version in ["v1", "v2"] {
        push(server, "shop/web", version).await;
    }
}

/// Makes something happen to shop/web: `promote`, once for each number that is another one than the last.
async fn happen(server: &TestServer, number: usize) {
    let version = if number.is_multiple_of(2) { "v2" } else { "v1" };
    promote(server, &server.admin, "shop/web", version).await.expect(200);
}

/// What makes a webhook.
fn new_hook(url: &str, events: &[&str]) -> Value {
    json!({ "name": fresh("hook"), "url": url, "events": events })
}

/// The same body with something changed.
fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// A webhook.
#[derive(Debug, Clone)]
struct Hook {
    id: String,
    /// Empty if there is none.
    secret: String,
}

impl Hook {
    /// Makes a webhook.
    async fn make(server: &TestServer, body: Value) -> Self {
        let made = server.post("/webhooks", &server.admin, body).await.expect(201).json();
        let secret = made["secret"].as_str().unwrap_or_default().to_owned();
        Self { id: text(&made["id"]), secret }
    }

    /// Makes a webhook for some kinds of events of everything.
    async fn to(server: &TestServer, url: &str, events: &[&str]) -> Self {
        Self::make(server, new_hook(url, events)).await
    }

    /// Calls what is below it as the admin.
    async fn call(&self, server: &TestServer, method: Method, below: &str, body: Option<Value>) -> Answer {
        server.call(method, &format!("/webhooks/{}{below}", self.id), &server.admin, body).await
    }

    /// What the server says of it.
    async fn get(&self, server: &TestServer) -> Value {
        self.call(server, Method::GET, "", None).await.expect(200).json()
    }

    /// Changes it.
    async fn change(&self, server: &TestServer, change: Value) -> Answer {
        self.call(server, Method::PATCH, "", Some(change)).await
    }

    /// Its deliveries that a query lets through.
    async fn deliveries(&self, server: &TestServer, query: &str) -> Vec<Value> {
        let path = format!("/deliveries?limit=500&{query}");
        let page = self.call(server, Method::GET, &path, None).await.expect(200).json();
        page["items"].as_array().unwrap().clone()
    }

    /// A delivery with its attempts.
    async fn delivery(&self, server: &TestServer, id: &str) -> Value {
        self.call(server, Method::GET, &format!("/deliveries/{id}"), None).await.expect(200).json()
    }

    /// Its only delivery, with its attempts.
    async fn only_delivery(&self, server: &TestServer) -> Value {
        let all = self.deliveries(server, "").await;
        assert_eq!(all.len(), 1, "{all:?}");
        self.delivery(server, &text(&all[0]["id"])).await
    }

    /// Waits until so many deliveries are in a state; they.
    async fn reaches(&self, server: &TestServer, state: &str, count: usize) -> Vec<Value> {
        let query = format!("state={state}");
        until(&format!("{count} deliveries to be {state}"), async || {
            let found = self.deliveries(server, &query).await;
            (found.len() >= count).then_some(found)
        })
        .await
    }

    /// Waits until its only delivery has been tried so often; what the server says of it.
    async fn tried(&self, server: &TestServer, attempts: usize) -> Value {
        until(&format!("{attempts} attempts"), async || {
            let delivery = self.only_delivery(server).await;
            (delivery["log"].as_array().unwrap().len() >= attempts).then_some(delivery)
        })
        .await
    }
}

/// Waits until something is so, while the server's time stands still.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(PAUSE).await;
    }
}

/// Waits until something is so, and lets the server's time go by: a step whenever nothing has happened for a while.
async fn in_time<T>(
    server: &TestServer,
    step: TimeDelta,
    what: &str,
    look: impl AsyncFn() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        server.clock.advance(step);
        let moved = Instant::now();
        while moved.elapsed() < LULL {
            // What has become due needn't wait for the next look at the table.
            server.resources().jobs_queued.notify_waiters();
            if let Some(found) = look().await {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
            sleep(PAUSE).await;
        }
    }
}

/// Waits until so many requests have come for a path while time goes by; all of them.
async fn received_in_time(
    server: &TestServer,
    receiver: &Receiver,
    step: TimeDelta,
    (path, count): (&str, usize),
) -> Vec<Received> {
    in_time(server, step, &format!("{count} requests of {path}"), async || {
        let came = receiver.received(path);
        (came.len() >= count).then_some(came)
    })
    .await
}

/// Whether one of the signatures of a request was made with this secret, as the Standard Webhooks say.
fn is_signed(received: &Received, secret: &str) -> bool {
    let at: i64 = received.header("webhook-timestamp").parse().unwrap();
    let signer = standardwebhooks::Webhook::new(secret).unwrap();
    let right = signer.sign(received.header("webhook-id"), at, &received.body).unwrap();
    received.header("webhook-signature").split(' ').any(|signature| signature == right)
}

/// How many signatures a request has.
fn signatures(received: &Received) -> usize {
    received.header("webhook-signature").split(' ').filter(|signature| signature.starts_with("v1,")).count()
}

/// What kind of event a request of the format `standard` tells of.
#[track_caller]
fn kind(received: &Received) -> String {
    text(&received.json()["type"])
}
