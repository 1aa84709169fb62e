//! Webhooks as things that are made, seen, changed and removed: by whom, and what is never shown.

use kkartifact_testkit::{Answer, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Hook, PATIENCE, done, happen, new_hook, shop, text, with, with_versions};

/// Where nobody is.
const URL: &str = "https://hooks.example.com/x";

async fn a_webhook_is_made_shown_changed_and_removed(db: TestDatabase) {
    let server = shop(db).await;
    let scope = json!({ "project": "shop", "app": "web" });
    let body = with(new_hook(URL, &["push", "promote"]), "scope", scope.clone());
    let name = body["name"].clone();
    let made = server.post("/webhooks", &server.admin, body).await.expect(201).json();
    let hook = Hook { id: text(&made["id"]), secret: text(&made["secret"]) };
    let shown = hook.get(&server).await;
    for said in [&made, &shown] {
        assert_eq!((&said["name"], &said["url"], &said["scope"]), (&name, &json!(URL), &scope), "{said}");
        assert_eq!(said["events"], json!(["push", "promote"]), "{said}");
        assert_eq!((&said["format"], &said["enabled"]), (&json!("standard"), &json!(true)), "{said}");
        assert_eq!((&said["declared"], &said["headers"]), (&json!(false), &json!([])), "{said}");
        assert_eq!(said["created_at"], json!(server.clock.now()), "{said}");
    }
    server.clock.advance(chrono::TimeDelta::minutes(1));
    let change = json!({
        "name": "other", "url": "https://hooks.example.com/y", "events": ["*"], "format": "slack",
        "enabled": false, "headers": { "x-b": "2", "x-a": "1" },
    });
    let changed = hook.change(&server, change.clone()).await.expect(200).json();
    for name in ["name", "events", "format", "enabled"] {
        assert_eq!(changed[name], change[name], "{changed}");
    }
    assert_eq!(changed["url"], "https://hooks.example.com/…", "{changed}");
    assert_eq!((&changed["headers"], &changed["scope"]), (&json!(["x-a", "x-b"]), &scope), "{changed}");
    assert_eq!(changed["updated_at"], json!(server.clock.now()), "{changed}");
    assert_eq!(changed["created_at"], shown["created_at"], "{changed}");
    assert_eq!(hook.get(&server).await, changed);
    let nothing = hook.change(&server, json!({})).await.expect(200).json();
    assert_eq!((&nothing["headers"], &nothing["events"]), (&changed["headers"], &changed["events"]));

    done(hook.call(&server, Method::DELETE, "", None).await);
    for (method, below) in [(Method::GET, ""), (Method::DELETE, ""), (Method::GET, "/deliveries")] {
        hook.call(&server, method, below, None).await.refused(404, "not_found");
    }
    let none = server.get("/webhooks", &server.admin).await.expect(200).json();
    assert_eq!(none["items"], json!([]));
}

async fn secrets_and_values_of_headers_are_never_shown_again(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let value = "Bearer of-the-receiver-alone";
    let body =
        with(new_hook(&receiver.url("/hook"), &["promote"]), "headers", json!({ "authorization": value }));
    let answer = server.post("/webhooks", &server.admin, body).await.expect(201);
    assert!(!answer.text().contains(value), "{}", answer.text());
    let made = answer.json();
    let hook = Hook { id: text(&made["id"]), secret: text(&made["secret"]) };
    with_versions(&server).await;
    happen(&server, 1).await;
    let delivered = text(&hook.reaches(&server, "delivered", 1).await[0]["id"]);
    let rotated = hook.call(&server, Method::POST, "/secret", Some(json!({}))).await;
    let new = text(&done(rotated).json()["secret"]);
    let mut said = Vec::new();
    for path in ["", "/deliveries", &format!("/deliveries/{delivered}")] {
        said.push(hook.call(&server, Method::GET, path, None).await);
    }
    said.push(hook.change(&server, json!({ "enabled": true })).await);
    said.push(hook.call(&server, Method::POST, "/test", None).await);
    for path in ["/webhooks", "/audit?limit=500", "/jobs?limit=500", "/metrics"] {
        said.push(server.get(path, &server.admin).await);
    }
    for answer in said.into_iter().map(done) {
        for secret in [value, &hook.secret, &new] {
            let bare = secret.trim_start_matches("whsec_").trim_start_matches("Bearer ");
            assert!(!answer.text().contains(bare), "{secret} in {}", answer.text());
        }
    }
}

/// One webhook in each of these scopes, in this order: everything, shop, shop/web, other.
async fn in_every_scope(server: &TestServer) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for scope in [
        json!({}),
        json!({ "project": "shop" }),
        json!({ "project": "shop", "app": "web" }),
        json!({ "project": "other" }),
    ] {
        hooks.push(Hook::make(server, with(new_hook(URL, &["push"]), "scope", scope)).await);
    }
    hooks
}

/// What a caller is told, without what is another one's each time.
fn message(answer: &Answer, id: &str) -> String {
    text(&answer.json()["error"]["message"]).replace(id, "…")
}

async fn who_is_not_admin_there_sees_no_webhook(db: TestDatabase) {
    let server = shop(db).await;
    let hooks = in_every_scope(&server).await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    let cases: [(&[&str], &str, &[usize]); 7] = [
        (&["admin"], "", &[0, 1, 2, 3]),
        (&["admin"], "shop", &[1, 2]),
        (&["admin"], "shop/web", &[2]),
        (&["admin"], "shop/api", &[]),
        (&["admin"], "other", &[3]),
        (&["view", "pull", "push", "promote"], "shop", &[]),
        (&["view", "pull", "push", "promote"], "", &[]),
    ];
    for (permissions, scope, seen) in cases {
        let token = server.token(permissions, scope).await;
        let page = server.get("/webhooks?limit=500", &token).await.expect(200).json();
        let mut listed: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|one| text(&one["id"])).collect();
        let mut expected: Vec<_> = seen.iter().map(|&number| hooks[number].id.clone()).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected, "{permissions:?} on {scope:?}");
        for (number, hook) in hooks.iter().enumerate() {
            let answer = server.get(&format!("/webhooks/{}", hook.id), &token).await;
            if seen.contains(&number) {
                answer.expect(200);
                continue;
            }
            // Word for word what one gets for something that does not exist.
            let fake = server.get(&format!("/webhooks/{nobody}"), &token).await.expect(404);
            assert_eq!(answer.status, 404, "{permissions:?} on {scope:?}: {}", answer.text());
            assert_eq!(message(&answer, &hook.id), message(&fake, nobody));
            for (method, below, body) in below() {
                let path = format!("/webhooks/{}{below}", hook.id);
                let answer = server.call(method, &path, &token, body).await;
                answer.refused(404, "not_found");
            }
        }
    }
    for hook in &hooks {
        assert_eq!(hook.get(&server).await["enabled"], true);
    }
}

/// Every call of a webhook, with a body that makes sense.
fn below() -> Vec<(Method, &'static str, Option<Value>)> {
    vec![
        (Method::PATCH, "", Some(json!({ "enabled": false }))),
        (Method::DELETE, "", None),
        (Method::POST, "/secret", Some(json!({}))),
        (Method::POST, "/test", None),
        (Method::POST, "/replay", Some(json!({ "since": "2026-01-01T00:00:00Z" }))),
        (Method::GET, "/deliveries", None),
    ]
}

async fn who_is_not_admin_there_makes_no_webhook(db: TestDatabase) {
    let server = shop(db).await;
    let (all, shop, other) = (json!({}), json!({ "project": "shop" }), json!({ "project": "other" }));
    let (web, api) = (json!({ "project": "shop", "app": "web" }), json!({ "project": "shop", "app": "api" }));
    for (permission, at, expected) in [
        ("admin", "shop/web", [403, 403, 201, 404, 404]),
        ("admin", "shop", [403, 201, 201, 201, 404]),
        ("promote", "shop", [403, 403, 403, 403, 404]),
        ("view", "", [403, 403, 403, 403, 403]),
        ("admin", "", [201, 201, 201, 201, 201]),
    ] {
        let token = server.token(&[permission], at).await;
        for (scope, status) in [&all, &shop, &web, &api, &other].into_iter().zip(expected) {
            let body = with(new_hook(URL, &["push"]), "scope", scope.clone());
            let answer = server.post("/webhooks", &token, body).await;
            assert_eq!(answer.status, status, "{permission} on {at:?} for {scope}: {}", answer.text());
        }
    }
}

async fn a_delivery_is_found_under_its_webhook_only(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let of_all = Hook::to(&server, &receiver.url("/all"), &["promote"]).await;
    let scope = json!({ "project": "shop", "app": "web" });
    let own = Hook::make(&server, with(new_hook(&receiver.url("/own"), &["push"]), "scope", scope)).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let foreign = text(&of_all.reaches(&server, "delivered", 1).await[0]["id"]);
    let token = server.token(&["admin"], "shop/web").await;
    let path = format!("/webhooks/{}/deliveries", own.id);
    server.get(&path, &token).await.expect(200);
    for id in [&foreign, "00000000-0000-0000-0000-000000000000"] {
        server.get(&format!("{path}/{id}"), &token).await.refused(404, "not_found");
        let again = server.call(Method::POST, &format!("{path}/{id}/replay"), &token, None).await;
        again.refused(404, "not_found");
    }
    own.reaches(&server, "delivered", 2).await;
    receiver.wait_for("/own", 2, PATIENCE).await;
    assert_eq!(receiver.received("/all").len(), 1);
    for bad in ["x", "1", "..%2f..", "%00"] {
        let answer = server.get(&format!("/webhooks/{bad}"), &token).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.text());
        let answer = server.get(&format!("{path}/{bad}"), &token).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.text());
    }
}

async fn every_change_is_written_down(db: TestDatabase) {
    let server = shop(db).await;
    let scope = json!({ "project": "shop" });
    let url = "https://hooks.example.com/path-that-only-the-receiver-knows";
    let hook = Hook::make(&server, with(new_hook(url, &["push"]), "scope", scope)).await;
    hook.change(&server, json!({ "events": ["*"] })).await.expect(200);
    done(hook.call(&server, Method::POST, "/secret", Some(json!({}))).await);
    hook.change(&server, json!({ "events": [] })).await.refused(400, "invalid_request");
    done(hook.call(&server, Method::DELETE, "", None).await);
    let log = server.get("/audit?action=webhook.*&outcome=done", &server.admin).await.expect(200).json();
    assert!(!log.to_string().contains("path-that-only"), "{log}");
    let rows = log["items"].as_array().unwrap();
    let actions: Vec<_> = rows.iter().rev().map(|row| text(&row["action"])).collect();
    assert_eq!(actions, ["webhook.create", "webhook.update", "webhook.rotate", "webhook.delete"]);
    for row in rows {
        assert_eq!((&row["project"], &row["actor"]), (&json!("shop"), &json!("first-admin")), "{row}");
    }
}

async fn a_long_list_is_paged(db: TestDatabase) {
    let server = shop(db).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(Hook::to(&server, URL, &["push"]).await.id);
        server.clock.advance(chrono::TimeDelta::seconds(1));
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut path = "/webhooks?limit=2".to_owned();
    loop {
        let page = server.get(&path, &server.admin).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|one| text(&one["id"])));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/webhooks?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, made, "newest first");
}

on_both_databases! {
    a_webhook_is_made_shown_changed_and_removed,
    secrets_and_values_of_headers_are_never_shown_again,
    who_is_not_admin_there_sees_no_webhook,
    who_is_not_admin_there_makes_no_webhook,
    a_delivery_is_found_under_its_webhook_only,
    every_change_is_written_down,
    a_long_list_is_paged,
}
