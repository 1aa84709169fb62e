//! URLs of chats, which are as good as passwords: called as they are, and neither shown nor kept in clear.

use kkartifact_service::config::DeclaredWebhook;
use kkartifact_testkit::{Answer, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Hook, PATIENCE, done, happen, new_hook, shop, shop_with, text, until, with, with_versions};

/// What only the chat and who has made the webhook may know.
const PASSWORD: &str = "T0000-of-the-robot-alone";
const FORMATS: [&str; 3] = ["slack", "dingtalk", "feishu"];

/// Where a chat's robot listens.
fn url(receiver: &Receiver, format: &str) -> String {
    receiver.url(&format!("/{format}/{PASSWORD}?access_token={PASSWORD}"))
}

/// The path of that.
fn path(format: &str) -> String {
    format!("/{format}/{PASSWORD}")
}

/// What may be seen of it.
fn shown(receiver: &Receiver) -> Value {
    json!(format!("http://127.0.0.1:{}/…", receiver.port()))
}

/// A webhook for promotions to a chat's robot.
async fn robot(server: &TestServer, receiver: &Receiver, format: &str) -> Hook {
    let hook = with(new_hook(&url(receiver, format), &["promote"]), "format", json!(format));
    Hook::make(server, hook).await
}

/// The URLs that stand in the database: the webhook's, and those of the attempts at its only delivery.
async fn kept(server: &TestServer, hook: &Hook) -> Vec<String> {
    let mut tx = server.resources().db.snapshot().await.unwrap();
    let row = tx.find_webhook(hook.id.parse().unwrap()).await.unwrap().unwrap();
    let delivery = text(&hook.deliveries(server, "").await[0]["id"]).parse().unwrap();
    let delivery = tx.find_delivery(row.seq, delivery).await.unwrap().unwrap();
    let log = tx.describe_delivery(delivery, 100).await.unwrap().log;
    std::iter::once(row.url).chain(log.into_iter().map(|attempt| attempt.url)).collect()
}

/// Everything that the API says, and the server measures.
async fn everything_said(server: &TestServer, hook: &Hook) -> Vec<Answer> {
    let delivery = text(&hook.deliveries(server, "").await[0]["id"]);
    let mut said = Vec::new();
    for below in ["", "/deliveries", &format!("/deliveries/{delivery}")] {
        said.push(hook.call(server, Method::GET, below, None).await);
    }
    for path in ["/webhooks", "/audit?limit=500", "/jobs?limit=500", "/metrics"] {
        said.push(server.get(path, &server.admin).await);
    }
    said.into_iter().map(done).collect()
}

async fn a_robots_url_is_called_and_neither_shown_nor_kept_in_clear(db: TestDatabase) {
    let file = db.file();
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    for (number, format) in FORMATS.into_iter().enumerate() {
        let body = with(new_hook(&url(&receiver, format), &["promote"]), "format", json!(format));
        let made = server.post("/webhooks", &server.admin, body).await.expect(201);
        assert!(!made.text().contains(PASSWORD), "{}", made.text());
        let made = made.json();
        assert_eq!(made["url"], shown(&receiver), "{made}");
        let hook = Hook { id: text(&made["id"]), secret: text(&made["secret"]) };
        happen(&server, number + 1).await;
        let came = receiver.wait_for(&path(format), 1, PATIENCE).await;
        assert!(came[0].query.contains(PASSWORD), "{came:?}");
        hook.reaches(&server, "delivered", 1).await;
        let delivery = hook.only_delivery(&server).await;
        assert_eq!(delivery["log"][0]["url"], shown(&receiver), "{delivery}");
        for answer in everything_said(&server, &hook).await {
            assert!(!answer.text().contains(PASSWORD), "{}", answer.text());
        }
        assert!(kept(&server, &hook).await.iter().all(|url| json!(url) == shown(&receiver)));
        done(hook.call(&server, Method::DELETE, "", None).await);
    }
    // The server's own file lies elsewhere than the test's; it is there with SQLite.
    if file.is_some() {
        for name in ["kkartifact.db", "kkartifact.db-wal"] {
            let bytes = std::fs::read(server.dir().join("data").join(name)).unwrap_or_default();
            let found = bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
            assert!(!found && (name.ends_with("wal") || !bytes.is_empty()), "{name}");
        }
    }
}

async fn a_change_without_a_url_keeps_it(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    let hook = robot(&server, &receiver, "slack").await;
    let changes = [
        json!({ "name": "chat of the shop" }),
        json!({ "headers": { "x-team": "shop" } }),
        json!({ "format": "feishu" }),
        json!({ "enabled": true }),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let told = hook.change(&server, change).await.expect(200).json();
        assert_eq!(told["url"], shown(&receiver), "{told}");
        happen(&server, number + 1).await;
        let came = receiver.wait_for(&path("slack"), number + 1, PATIENCE).await;
        assert!(came[number].query.contains(PASSWORD), "{came:?}");
        assert_eq!(came[number].header("x-team"), if number == 0 { "" } else { "shop" });
    }
    let secret = json!({ "secret": "of-the-robot" });
    done(hook.call(&server, Method::POST, "/secret", Some(secret)).await);
    happen(&server, 5).await;
    receiver.wait_for(&path("slack"), 5, PATIENCE).await;
    let moved = json!({ "url": receiver.url("/moved") });
    assert_eq!(hook.change(&server, moved).await.expect(200).json()["url"], shown(&receiver));
    happen(&server, 6).await;
    receiver.wait_for("/moved", 1, PATIENCE).await;
}

async fn a_format_that_shows_its_url_wants_it_anew(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = robot(&server, &receiver, "slack").await;
    let before = hook.get(&server).await;
    for format in ["standard", "generic"] {
        hook.change(&server, json!({ "format": format })).await.refused(400, "invalid_request");
    }
    // What is shown is no URL.
    for change in
        [json!({ "url": shown(&receiver) }), json!({ "url": shown(&receiver), "format": "standard" })]
    {
        hook.change(&server, change).await.refused(400, "invalid_url");
    }
    let taken = new_hook(&text(&shown(&receiver)), &["*"]);
    server.post("/webhooks", &server.admin, taken).await.refused(400, "invalid_url");
    assert_eq!(hook.get(&server).await, before);

    let open = receiver.url("/open");
    let changed = hook.change(&server, json!({ "format": "standard", "url": open })).await;
    assert_eq!(changed.expect(200).json()["url"], open);
    done(hook.call(&server, Method::POST, "/test", None).await);
    receiver.wait_for("/open", 1, PATIENCE).await;
    // Back again, what was shown is known.
    let changed = hook.change(&server, json!({ "format": "slack" })).await.expect(200).json();
    assert_eq!(changed["url"], shown(&receiver));
    done(hook.call(&server, Method::POST, "/test", None).await);
    receiver.wait_for("/open", 2, PATIENCE).await;
    assert!(receiver.received(&path("slack")).is_empty(), "the old one was not called");
}

/// Rows as they were kept before, with the URL in clear.
async fn clear(server: &TestServer, url: &str) {
    let old =
        format!("UPDATE webhook SET url = '{url}', headers = NULL; UPDATE webhook_attempt SET url = '{url}'");
    server.execute(&old).await;
}

async fn what_was_kept_in_clear_works_and_is_encrypted_when_it_changes(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    let hook = robot(&server, &receiver, "slack").await;
    happen(&server, 1).await;
    hook.reaches(&server, "delivered", 1).await;
    let url = url(&receiver, "slack");
    clear(&server, &url).await;
    assert_eq!(kept(&server, &hook).await, [url.as_str(), url.as_str()]);
    for answer in everything_said(&server, &hook).await {
        assert!(!answer.text().contains(PASSWORD), "{}", answer.text());
    }
    for (number, change) in [None, Some(json!({ "name": "chat" }))].into_iter().enumerate() {
        if let Some(change) = change {
            hook.change(&server, change).await.expect(200);
        }
        happen(&server, number + 2).await;
        let came = receiver.wait_for(&path("slack"), number + 2, PATIENCE).await;
        assert!(came[number + 1].query.contains(PASSWORD), "{came:?}");
    }
    hook.reaches(&server, "delivered", 3).await;
    assert!(
        kept(&server, &hook).await.iter().all(|url| json!(url) == shown(&receiver)),
        "the newest delivery"
    );
    clear(&server, &url).await;
    done(hook.call(&server, Method::POST, "/secret", Some(json!({}))).await);
    assert_eq!(json!(kept(&server, &hook).await[0]), shown(&receiver), "a new secret is a change too");
}

async fn a_declared_robot_is_kept_the_same_way(db: TestDatabase) {
    let receiver = Receiver::start().await;
    let declared = DeclaredWebhook {
        name: "chat".into(),
        events: vec!["promote".into()],
        url: url(&receiver, "dingtalk"),
        format: Some("dingtalk".into()),
        headers: [("x-team".to_owned(), "releases".to_owned())].into(),
        secret_file: None,
        project: None,
        app: None,
    };
    let mut server = shop_with(db, |config| config.webhooks.declared = vec![declared]).await;
    with_versions(&server).await;
    let list = async |server: &TestServer| {
        server.get("/webhooks", &server.admin).await.expect(200).json()["items"].clone()
    };
    let first = until("the webhook", async || {
        let all = list(&server).await;
        (all.as_array().unwrap().len() == 1).then_some(all)
    })
    .await;
    assert_eq!((&first[0]["url"], &first[0]["headers"]), (&shown(&receiver), &json!(["x-team"])));
    let hook = Hook { id: text(&first[0]["id"]), secret: String::new() };
    server.clock.advance(chrono::TimeDelta::minutes(1));
    server.restart_with(|_| {}).await;
    assert_eq!(list(&server).await, first, "nothing has changed");
    happen(&server, 1).await;
    let came = receiver.wait_for(&path("dingtalk"), 1, PATIENCE).await;
    assert!(came[0].query.contains(PASSWORD) && came[0].header("x-team") == "releases", "{came:?}");
    hook.reaches(&server, "delivered", 1).await;
    assert!(kept(&server, &hook).await.iter().all(|url| json!(url) == shown(&receiver)));
    // One from before is encrypted at the next start.
    clear(&server, &url(&receiver, "dingtalk")).await;
    server.restart_with(|_| {}).await;
    assert_eq!(json!(kept(&server, &hook).await[0]), shown(&receiver));
    happen(&server, 2).await;
    receiver.wait_for(&path("dingtalk"), 2, PATIENCE).await;
}

on_both_databases! {
    a_robots_url_is_called_and_neither_shown_nor_kept_in_clear,
    a_change_without_a_url_keeps_it,
    a_format_that_shows_its_url_wants_it_anew,
    what_was_kept_in_clear_works_and_is_encrypted_when_it_changes,
    a_declared_robot_is_kept_the_same_way,
}
