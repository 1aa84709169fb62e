//! Where webhooks lead to, and where not: the address guard.

use kkartifact_testkit::{Answer, Behaviour, Receiver, TestDatabase, TestServer, on_both_databases};
use serde_json::json;

use crate::{Hook, happen, new_hook, shop, shop_with, text, with_versions};

/// Nobody may make the server call these, unless the operator allows it.
const INSIDE: [&str; 24] = [
    "",
    "hook",
    "example.com/hook",
    "//example.com/hook",
    "https://",
    "http:///hook",
    "https:///",
    "file:///etc/passwd",
    "ftp://example.com/hook",
    "gopher://example.com/hook",
    "javascript:alert(1)",
    "http://example.com/hook",
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/",
    "http://[::1]/",
    "https://[::1]:8420/hook",
    "http://2130706433/",
    "http://0x7f.1/",
    "https://0177.0.0.1/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://10.0.0.1/hook",
    "https://user:pass@example.com/hook",
    "https://user@example.com/hook",
];

/// A server that may call only what is listed, with versions of shop/web.
async fn server_for(db: TestDatabase, allow: &[&str]) -> TestServer {
    let server =
        shop_with(db, |config| config.outbound.allow = allow.iter().map(|&place| place.into()).collect())
            .await;
    with_versions(&server).await;
    server
}

#[track_caller]
fn is_refused(answer: &Answer, url: &str) {
    assert_eq!(answer.status, 400, "{url}: {}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "invalid_url", "{url}: {}", answer.text());
}

async fn addresses_inside_are_refused_when_a_webhook_is_made_or_changed(db: TestDatabase) {
    let server = server_for(db, &[]).await;
    let hook = Hook::to(&server, "https://hooks.example.com/x?key=7", &["promote"]).await;
    for url in INSIDE {
        let answer = server.post("/webhooks", &server.admin, new_hook(url, &["*"])).await;
        is_refused(&answer, url);
        is_refused(&hook.change(&server, json!({ "url": url })).await, url);
    }
    let long = format!("https://hooks.example.com/{}", "x".repeat(2000));
    is_refused(&server.post("/webhooks", &server.admin, new_hook(&long, &["*"])).await, "2026 bytes");
    let all = server.get("/webhooks", &server.admin).await.expect(200).json();
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all["items"][0]["url"], "https://hooks.example.com/x?key=7");
}

async fn what_is_allowed_opens_nothing_beside_it(db: TestDatabase) {
    let server = server_for(db, &["127.0.0.2", "hooks.internal"]).await;
    for good in ["http://127.0.0.2:9/hook", "http://hooks.internal/hook", "https://hooks.internal:8443/"] {
        server.post("/webhooks", &server.admin, new_hook(good, &["pull"])).await.expect(201);
    }
    for bad in [
        "http://127.0.0.1/hook",
        "http://127.0.0.3/hook",
        "http://other.internal/hook",
        "http://hooks.internal.example.com/hook",
        "http://x:y@hooks.internal/hook",
        "http://169.254.169.254/",
    ] {
        is_refused(&server.post("/webhooks", &server.admin, new_hook(bad, &["pull"])).await, bad);
    }
}

/// The URL was good when the webhook was made. What counts is what it leads to when it is called.
async fn what_leads_inside_is_not_called_once_it_is_not_allowed(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let mut server = server_for(db, &["127.0.0.1", "localhost"]).await;
    let by_address = Hook::to(&server, &receiver.url("/address"), &["promote"]).await;
    let by_name = Hook::to(&server, &receiver.url_as("localhost", "/name"), &["promote"]).await;
    happen(&server, 1).await;
    for hook in [&by_address, &by_name] {
        hook.reaches(&server, "delivered", 1).await;
    }
    server.restart_with(|config| config.outbound.allow = vec!["127.0.0.2".into()]).await;
    let before = receiver.connections();
    happen(&server, 2).await;
    for hook in [&by_address, &by_name] {
        // Trying again would not help.
        let refused = hook.reaches(&server, "failed", 1).await[0].clone();
        assert!(refused["error"].is_string(), "{refused}");
        // What a name leads to is not told.
        let said = refused["error"].as_str().unwrap().contains("127.0.0.1");
        assert!(!said || hook.id == by_address.id, "{refused}");
    }
    assert_eq!(receiver.connections(), before);
}

/// By `https` any name may stand in a URL: only its addresses show where it leads to.
async fn a_name_that_resolves_to_this_machine_is_not_called(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let server = server_for(db, &["127.0.0.2"]).await;
    let url = receiver.url_as("localhost", "/hook").replace("http://", "https://");
    let answer = server.post("/webhooks", &server.admin, new_hook(&url, &["promote"])).await;
    if answer.status == 201 {
        let made = answer.json();
        let hook = Hook { id: text(&made["id"]), secret: String::new() };
        happen(&server, 1).await;
        let refused = hook.reaches(&server, "failed", 1).await;
        assert!(refused[0]["error"].is_string(), "{refused:?}");
    } else {
        answer.expect(400);
    }
    assert_eq!(receiver.connections(), 0);
}

async fn redirects_are_failures_and_nobody_is_called_there(db: TestDatabase) {
    let server = shop(db).await;
    let (receiver, target) = (Receiver::start().await, Receiver::start().await);
    with_versions(&server).await;
    let mut hooks = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        for (number, place) in
            [target.url("/target"), format!("http://[::ffff:127.0.0.1]:{}/target", target.port())]
                .iter()
                .enumerate()
        {
            let path = format!("/{status}/{number}");
            receiver.on(&path, Behaviour::redirect(status, place));
            hooks.push((status, Hook::to(&server, &receiver.url(&path), &["promote"]).await));
        }
    }
    happen(&server, 1).await;
    for (status, hook) in &hooks {
        let delivery = hook.tried(&server, 1).await;
        assert_eq!(delivery["log"][0]["status"], json!(status), "{delivery}");
        assert_ne!(delivery["state"], "delivered", "{delivery}");
    }
    assert_eq!(target.connections(), 0);
}

on_both_databases! {
    addresses_inside_are_refused_when_a_webhook_is_made_or_changed,
    what_is_allowed_opens_nothing_beside_it,
    what_leads_inside_is_not_called_once_it_is_not_allowed,
    a_name_that_resolves_to_this_machine_is_not_called,
    redirects_are_failures_and_nobody_is_called_there,
}
