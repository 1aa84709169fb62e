//! Names that lead elsewhere when they are called than when the webhook was made, or to several places at once. The
//! server asks the system's own resolver, which finds a hosts file of the test's own.

use kkartifact_testkit::process::{Programs, ServerProcess, with_hosts};
use kkartifact_testkit::{Receiver, TestDatabase, on_both_databases};
use reqwest::{Client, Method};
use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, new_hook, text, until};

/// An address of the public internet, to which nothing is ever sent.
const PUBLIC: &str = "93.184.216.34";
/// A name inside that the operator has allowed: what shows that the file is read, and that the receiver can be reached.
const INSIDE: &str = "127.0.0.1 inside.example";

/// A server for which names stand in a file.
struct World {
    server: ServerProcess,
    dir: TempDir,
    token: String,
    http: Client,
}

impl World {
    async fn start(db: TestDatabase, hosts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, home) = (dir.path().join("hosts"), dir.path().join("server"));
        std::fs::write(&file, hosts).unwrap();
        let start = move || {
            let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact")).run_by(with_hosts(&file));
            let settings = [("KKARTIFACT_OUTBOUND__ALLOW", "[\"inside.example\"]")];
            ServerProcess::start_with(&programs, &home, db, &settings)
        };
        let (server, token) = tokio::task::spawn_blocking(start).await.unwrap();
        Self { server, dir, token, http: Client::new() }
    }

    /// From now on names lead elsewhere. The file stays the one that the server sees.
    fn names_are(&self, hosts: &str) {
        std::fs::write(self.dir.path().join("hosts"), hosts).unwrap();
    }

    /// Calls the API as the admin.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/api/v1{path}", self.server.url());
        let request = self.http.request(method, url).bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        let (status, said) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status}: {said}");
        serde_json::from_str(&said).unwrap()
    }

    /// Makes a webhook; its id.
    async fn hook(&self, url: &str) -> String {
        text(&self.call(Method::POST, "/webhooks", Some(new_hook(url, &["push"]))).await["id"])
    }

    /// Has a webhook called once; what came of it.
    async fn tried(&self, hook: &str) -> Value {
        let made = self.call(Method::POST, &format!("/webhooks/{hook}/test"), None).await;
        let path = format!("/webhooks/{hook}/deliveries/{}", text(&made["id"]));
        until("the call to be made", async || {
            let delivery = self.call(Method::GET, &path, None).await;
            (delivery["state"] != "pending").then_some(delivery)
        })
        .await
    }

    /// Asserts that the receiver can be called by a name that is allowed, and that this is its only connection.
    async fn reaches_by_an_allowed_name(&self, receiver: &Receiver) {
        let hook = self.hook(&receiver.url_as("inside.example", "/inside")).await;
        let delivery = self.tried(&hook).await;
        assert_eq!(delivery["state"], "delivered", "{delivery}");
        receiver.wait_for("/inside", 1, PATIENCE).await;
        assert_eq!(receiver.connections(), 1);
    }
}

/// Asserts that nobody was called, for where the name leads.
fn is_refused(delivery: &Value) {
    assert_eq!(delivery["state"], "failed", "{delivery}");
    let log = delivery["log"].as_array().unwrap();
    assert!(log.len() == 1 && log[0]["status"].is_null(), "{delivery}");
    // Another trouble, such as a name that leads nowhere, has another text.
    let error = delivery["error"].as_str().unwrap();
    assert!(error.contains("leads to no address that this server may call"), "{delivery}");
    assert!(!error.contains("127.0.0.1") && !error.contains(PUBLIC), "{delivery}");
}

async fn a_name_that_moves_inside_after_its_webhook_was_made_is_not_called(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let world = World::start(db, &format!("{PUBLIC} moves.example\n{INSIDE}\n")).await;
    let url = receiver.url_as("moves.example", "/hook").replace("http://", "https://");
    let hook = world.hook(&url).await;
    world.reaches_by_an_allowed_name(&receiver).await;
    world.names_are(&format!("127.0.0.1 moves.example\n{INSIDE}\n"));
    is_refused(&world.tried(&hook).await);
    assert_eq!(receiver.connections(), 1, "nobody knocked");
    assert!(receiver.received("/hook").is_empty());
}

async fn a_name_with_a_public_and_a_private_address_is_not_called(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let world = World::start(db, &format!("{INSIDE}\n")).await;
    world.reaches_by_an_allowed_name(&receiver).await;
    let url = receiver.url_as("both.example", "/hook").replace("http://", "https://");
    let hook = world.hook(&url).await;
    for [first, second] in
        [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], [PUBLIC, "10.0.0.1"]]
    {
        world.names_are(&format!("{first} both.example\n{second} both.example\n"));
        is_refused(&world.tried(&hook).await);
    }
    assert_eq!(receiver.connections(), 1, "nobody knocked");
}

on_both_databases! {
    a_name_that_moves_inside_after_its_webhook_was_made_is_not_called,
    a_name_with_a_public_and_a_private_address_is_not_called,
}
