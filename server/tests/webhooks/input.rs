//! What a webhook may not be called, hear of, or send.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kkartifact_testkit::{Receiver, TestDatabase, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Hook, PATIENCE, done, happen, new_hook, shop, shop_with, with, with_versions};

/// Where nobody is, and nobody is asked.
const URL: &str = "https://hooks.example.com/x";

async fn what_makes_no_sense_is_refused(db: TestDatabase) {
    let server = shop(db).await;
    let good = || new_hook(URL, &["push"]);
    let bad = [
        json!({}),
        json!({ "name": "x", "url": URL }),
        json!({ "name": "x", "events": ["push"] }),
        json!({ "url": URL, "events": ["push"] }),
        with(good(), "events", json!([])),
        with(good(), "events", json!(["pushed"])),
        with(good(), "events", json!(["push", "PUSH"])),
        with(good(), "events", json!(["push", ""])),
        with(good(), "events", json!(["test"])),
        with(good(), "events", json!("push")),
        with(good(), "name", json!("")),
        with(good(), "name", json!("  ")),
        with(good(), "name", json!("x".repeat(65))),
        with(good(), "name", json!("a\nb")),
        with(good(), "name", json!("a\u{0}b")),
        with(good(), "url", json!(format!("{URL}\r\nx-evil: 1"))),
        with(good(), "url", json!(null)),
        with(good(), "format", json!("xml")),
        with(good(), "scope", json!({ "app": "web" })),
        with(good(), "scope", json!({ "project": "../shop" })),
        with(good(), "scope", json!({ "project": "shop", "version": "v1" })),
        with(good(), "scope", json!("shop")),
        with(good(), "secret", json!("")),
        with(good(), "secret", json!("secret")),
        with(good(), "secret", json!("whsec_")),
        with(good(), "secret", json!("whsec_*")),
        with(good(), "secret", json!(format!("whsec_{}", STANDARD.encode([7; 23])))),
        with(good(), "secret", json!(format!("whsec_{}", STANDARD.encode([7; 65])))),
        with(good(), "enabled", json!("yes")),
        with(good(), "declared", json!(true)),
        with(good(), "id", json!("00000000-0000-0000-0000-000000000000")),
        with(good(), "project_id", json!(1)),
    ];
    for body in bad {
        let answer = server.post("/webhooks", &server.admin, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    for scope in [json!({ "project": "nix" }), json!({ "project": "shop", "app": "nix" })] {
        let body = with(good(), "scope", scope);
        server.post("/webhooks", &server.admin, body).await.refused(404, "not_found");
    }
    let all = server.get("/webhooks", &server.admin).await.expect(200).json();
    assert_eq!(all["items"], json!([]));
    // The longest name that there is.
    let long = with(good(), "name", json!("ü".repeat(64)));
    server.post("/webhooks", &server.admin, long).await.expect(201);
}

async fn a_header_is_a_header_and_not_one_that_the_server_sets(db: TestDatabase) {
    let server = shop(db).await;
    let hook = Hook::to(&server, URL, &["push"]).await;
    let many: BTreeMap<_, _> = (0..21).map(|i| (format!("x-{i}"), "v")).collect();
    for headers in [
        json!({ "x-a": "b\r\nx-evil: 1" }),
        json!({ "x-a": "b\nx-evil: 1" }),
        json!({ "x-a": "b\u{0}" }),
        json!({ "x-a\r\nx-evil": "1" }),
        json!({ "x a": "1" }),
        json!({ "x:a": "1" }),
        json!({ "": "1" }),
        json!({ "x-ü": "1" }),
        json!({ "x-a": 1 }),
        json!({ "x-a": "v".repeat(4097) }),
        json!(["x-a"]),
        json!(many),
        json!({ "Host": "internal" }),
        json!({ "content-length": "0" }),
        json!({ "Transfer-Encoding": "chunked" }),
        json!({ "connection": "close" }),
        json!({ "webhook-signature": "v1,x" }),
        json!({ "Webhook-Id": "msg_1" }),
        json!({ "webhook-timestamp": "0" }),
    ] {
        let body = with(new_hook(URL, &["push"]), "headers", headers.clone());
        let answer = server.post("/webhooks", &server.admin, body).await;
        assert_eq!(answer.status, 400, "{headers}: {}", answer.text());
        let answer = hook.change(&server, json!({ "headers": headers })).await;
        assert_eq!(answer.status, 400, "{headers}: {}", answer.text());
    }
    assert_eq!(hook.get(&server).await["headers"], json!([]));
}

async fn a_change_sets_nothing_that_it_may_not_name(db: TestDatabase) {
    let server = shop(db).await;
    let body = with(new_hook(URL, &["push"]), "scope", json!({ "project": "shop" }));
    let hook = Hook::make(&server, body).await;
    let before = hook.get(&server).await;
    for change in [
        json!({ "scope": {} }),
        json!({ "scope": { "project": "other" } }),
        json!({ "declared": true }),
        json!({ "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" }),
        json!({ "id": "00000000-0000-0000-0000-000000000000" }),
        json!({ "failing_since": null }),
        json!({ "disabled_reason": "x" }),
        json!({ "events": [] }),
        json!({ "events": ["nothing"] }),
        json!({ "name": "" }),
        json!({ "name": "x".repeat(65) }),
        json!({ "format": "xml" }),
    ] {
        let answer = hook.change(&server, change.clone()).await;
        assert_eq!(answer.status, 400, "{change}: {}", answer.text());
    }
    assert_eq!(hook.get(&server).await, before);
}

async fn a_name_is_taken_once_in_a_scope(db: TestDatabase) {
    let server = shop(db).await;
    let named = |scope: Value| with(with(new_hook(URL, &["push"]), "name", json!("chat")), "scope", scope);
    let scopes = [
        json!({}),
        json!({ "project": "shop" }),
        json!({ "project": "shop", "app": "web" }),
        json!({ "project": "shop", "app": "api" }),
        json!({ "project": "other" }),
    ];
    for scope in &scopes {
        server.post("/webhooks", &server.admin, named(scope.clone())).await.expect(201);
    }
    for scope in &scopes {
        let again = server.post("/webhooks", &server.admin, named(scope.clone())).await;
        again.refused(409, "already_exists");
    }
    let other = Hook::to(&server, URL, &["push"]).await;
    other.change(&server, json!({ "name": "chat" })).await.refused(409, "already_exists");
}

async fn there_are_as_many_as_the_operator_wants(db: TestDatabase) {
    let server = shop_with(db, |config| config.webhooks.most = 2).await;
    let first = Hook::to(&server, URL, &["push"]).await;
    Hook::to(&server, URL, &["push"]).await;
    let answer = server.post("/webhooks", &server.admin, new_hook(URL, &["push"])).await;
    assert!(answer.status.is_client_error(), "{}: {}", answer.status, answer.text());
    done(first.call(&server, Method::DELETE, "", None).await);
    Hook::to(&server, URL, &["push"]).await;
}

async fn headers_are_sent_along(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let headers = json!({ "Authorization": "Bearer of-the-receiver", "x-team": "releases" });
    let body = with(new_hook(&receiver.url("/hook"), &["promote"]), "headers", headers);
    let hook = Hook::make(&server, body).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    let sent = |name: &str| came[0].header(name).to_owned();
    assert_eq!((sent("authorization"), sent("x-team")), ("Bearer of-the-receiver".into(), "releases".into()));
    hook.change(&server, json!({ "headers": { "x-other": "1" } })).await.expect(200);
    happen(&server, 2).await;
    let came = receiver.wait_for("/hook", 2, PATIENCE).await;
    assert_eq!((came[1].header("authorization"), came[1].header("x-other")), ("", "1"));
}

on_both_databases! {
    what_makes_no_sense_is_refused,
    a_header_is_a_header_and_not_one_that_the_server_sets,
    a_change_sets_nothing_that_it_may_not_name,
    a_name_is_taken_once_in_a_scope,
    there_are_as_many_as_the_operator_wants,
    headers_are_sent_along,
}
