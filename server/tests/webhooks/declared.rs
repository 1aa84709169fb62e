//! Webhooks that stand in the configuration.

use kkartifact_service::Config;
use kkartifact_service::config::DeclaredWebhook;
use kkartifact_testkit::{Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    Hook, PATIENCE, done, happen, is_signed, new_hook, shop, shop_with, signatures, text, until, with,
    with_versions,
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A webhook for promotions in everything.
fn declared(name: &str, url: &str) -> DeclaredWebhook {
    DeclaredWebhook {
        name: name.into(),
        events: vec!["promote".into()],
        url: url.into(),
        format: None,
        headers: [("x-team".to_owned(), "releases".to_owned())].into(),
        secret_file: None,
        project: None,
        app: None,
    }
}

/// Puts webhooks in the place of the declared ones.
fn declare(config: &mut Config, webhooks: Vec<DeclaredWebhook>) {
    config.webhooks.declared = webhooks;
}

/// All webhooks, by name.
async fn listed(server: &TestServer) -> Vec<Value> {
    let page = server.get("/webhooks?limit=500", &server.admin).await.expect(200).json();
    let mut all = page["items"].as_array().unwrap().clone();
    all.sort_by_key(|one| one["name"].to_string());
    all
}

/// All webhooks, once there are so many: a start takes its time.
async fn there_are(server: &TestServer, count: usize) -> Vec<Value> {
    until(&format!("{count} webhooks"), async || {
        let all = listed(server).await;
        (all.len() == count).then_some(all)
    })
    .await
}

fn hook_of(said: &Value) -> Hook {
    Hook { id: text(&said["id"]), secret: String::new() }
}

async fn what_is_declared_is_there_once_however_often_the_server_starts(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let url = receiver.url("/hook");
    let mut server = shop_with(db, |config| declare(config, vec![declared("chat", &url)])).await;
    let first = there_are(&server, 1).await;
    assert_eq!(
        (&first[0]["name"], &first[0]["url"], &first[0]["declared"], &first[0]["enabled"]),
        (&json!("chat"), &json!(url), &json!(true), &json!(true))
    );
    assert_eq!((&first[0]["headers"], &first[0]["format"]), (&json!(["x-team"]), &json!("standard")));
    for _ in 0..2 {
        server.restart_with(|_| {}).await;
        assert_eq!(listed(&server).await, first);
    }
    with_versions(&server).await;
    happen(&server, 1).await;
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert_eq!(came[0].header("x-team"), "releases");
}

async fn a_changed_declaration_changes_the_webhook_and_one_that_is_gone_removes_it(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let (one, two) = (receiver.url("/one"), receiver.url("/two"));
    let mut server = shop_with(db, |config| declare(config, vec![declared("chat", &one)])).await;
    let by_hand = Hook::to(&server, &receiver.url("/by-hand"), &["promote"]).await;
    with_versions(&server).await;
    let before = there_are(&server, 2).await;
    server
        .restart_with(|config| {
            let changed =
                DeclaredWebhook { events: vec!["push".into(), "promote".into()], ..declared("chat", &two) };
            declare(config, vec![changed, declared("audit", &one)]);
        })
        .await;
    let after = until("the declaration to hold", async || {
        let all = listed(&server).await;
        (all.len() == 3 && all.iter().any(|hook| hook["url"] == two)).then_some(all)
    })
    .await;
    let chat = after.iter().find(|hook| hook["name"] == "chat").unwrap();
    let was = before.iter().find(|hook| hook["name"] == "chat").unwrap();
    assert_eq!((&chat["id"], &chat["url"]), (&was["id"], &json!(two)), "it is the same one");
    happen(&server, 1).await;
    for path in ["/one", "/two", "/by-hand"] {
        receiver.wait_for(path, 1, PATIENCE).await;
    }
    server.restart_with(|config| declare(config, Vec::new())).await;
    let left = there_are(&server, 1).await;
    assert_eq!(left[0]["id"], by_hand.id, "{left:?}");
    happen(&server, 2).await;
    receiver.wait_for("/by-hand", 2, PATIENCE).await;
    assert_eq!((receiver.received("/one").len(), receiver.received("/two").len()), (1, 1));
}

async fn what_is_declared_is_not_changed_by_calls(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let url = receiver.url("/hook");
    let server = shop_with(db, |config| declare(config, vec![declared("chat", &url)])).await;
    let before = there_are(&server, 1).await;
    let hook = hook_of(&before[0]);
    for (method, below, body) in [
        (Method::PATCH, "", Some(json!({ "enabled": false }))),
        (Method::PATCH, "", Some(json!({ "url": receiver.url("/elsewhere") }))),
        (Method::DELETE, "", None),
        (Method::POST, "/secret", Some(json!({}))),
    ] {
        hook.call(&server, method, below, body).await.refused(409, "in_use");
    }
    assert_eq!(listed(&server).await, before);
    // Looking and trying are open.
    done(hook.call(&server, Method::POST, "/test", None).await);
    receiver.wait_for("/hook", 1, PATIENCE).await;
    let delivered = text(&hook.reaches(&server, "delivered", 1).await[0]["id"]);
    done(hook.call(&server, Method::POST, &format!("/deliveries/{delivered}/replay"), None).await);
    let came = receiver.wait_for("/hook", 2, PATIENCE).await;
    assert_eq!(signatures(&came[0]), 0, "without a secret nothing is signed");
}

async fn a_secret_is_read_from_its_file(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let hook = DeclaredWebhook { secret_file: Some(file), ..declared("chat", &receiver.url("/hook")) };
    let server = shop_with(db, |config| declare(config, vec![hook])).await;
    there_are(&server, 1).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert!(is_signed(&came[0], SECRET), "{came:?}");
    assert!(!server.get("/webhooks", &server.admin).await.text().contains(SECRET));
}

async fn a_declaration_may_be_for_one_project_or_app(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let of = |name: &str, project: &str, app: Option<&str>| DeclaredWebhook {
        project: Some(project.to_owned()),
        app: app.map(str::to_owned),
        ..declared(name, &receiver.url(&format!("/{name}")))
    };
    let mut server = shop(db).await;
    with_versions(&server).await;
    let hooks = vec![of("web", "shop", Some("web")), of("shop", "shop", None), of("other", "other", None)];
    server.restart_with(|config| declare(config, hooks)).await;
    there_are(&server, 3).await;
    let admin = server.token(&["admin"], "shop").await;
    let seen = server.get("/webhooks", &admin).await.expect(200).json();
    assert_eq!(seen["items"].as_array().unwrap().len(), 2, "{seen}");
    happen(&server, 1).await;
    for path in ["/web", "/shop"] {
        receiver.wait_for(path, 1, PATIENCE).await;
    }
    let other = listed(&server).await.into_iter().find(|hook| hook["name"] == "other").unwrap();
    assert!(hook_of(&other).deliveries(&server, "").await.is_empty());
    // A name of the configuration is taken.
    let taken = with(new_hook(&receiver.url("/taken"), &["*"]), "name", json!("shop"));
    let taken = with(taken, "scope", json!({ "project": "shop" }));
    server.post("/webhooks", &server.admin, taken).await.refused(409, "already_exists");
}

on_both_databases! {
    what_is_declared_is_there_once_however_often_the_server_starts,
    a_changed_declaration_changes_the_webhook_and_one_that_is_gone_removes_it,
    what_is_declared_is_not_changed_by_calls,
    a_secret_is_read_from_its_file,
    a_declaration_may_be_for_one_project_or_app,
}
