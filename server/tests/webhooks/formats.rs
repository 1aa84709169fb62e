//! Messages for people: what chats are sent, and that no name or note in it calls everybody.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kkartifact_testkit::{Received, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{
    Hook, PATIENCE, anywhere, done, happen, is_signed, new_hook, promote, shop, text, with, with_versions,
};

/// What calls everybody, or somebody, in one of the chats. A name may be as long as this.
const HOSTILE: &str =
    r#"<!channel> <!here> <!everyone> <@U1> @channel @here @all <at user_id="all">x</at> [x](//evil.test)"#;

/// A robot's secret.
const SECRET: &str = "SEC000of-a-robot-that-does-not-exist";

/// Whether a text has what chats take for a call.
fn calls_somebody(format: &str, text: &str) -> bool {
    let text = text.to_lowercase();
    match format {
        // Slack reads the first ones, what speaks like it the others.
        "slack" => {
            ["<!", "<@", "@channel", "@here", "@all", "@everyone"].iter().any(|call| text.contains(call))
        }
        "feishu" => ["<at", "@all"].iter().any(|call| text.contains(call)),
        _ => text.contains("@all"),
    }
}

/// All texts in a value.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// A webhook of a format, at a path called like it.
async fn hook_of(server: &TestServer, receiver: &Receiver, format: &str) -> Hook {
    let url = receiver.url(&format!("/{format}?access_token=abc"));
    let hook = with(new_hook(&url, &["*"]), "format", json!(format));
    Hook::make(server, if format == "slack" { hook } else { with(hook, "secret", json!(SECRET)) }).await
}

/// Things happen to shop/web, done by, built by and noted by somebody who wants to be heard by all.
async fn hostile_things_happen(server: &TestServer) -> usize {
    let new = json!({ "name": HOSTILE, "permissions": ["admin"], "scopes": [{ "project": "shop" }] });
    let token = text(&server.post("/tokens", &server.admin, new).await.expect(201).json()["token"]);
    let build = json!({ "builder": HOSTILE, "git_commit": &HOSTILE[..60] });
    let init = json!({ "project": "shop", "app": "web", "version": "v3", "build": build });
    let opened = server.post("/upload/init", &token, init).await.expect(201).json();
    let put = server.request(Method::PUT, "/file/shop/web/v3?path=a", &token).body("content");
    server.send(put).await.expect(200);
    server.post("/upload/finish", &token, json!({ "upload_id": opened["upload_id"] })).await.expect(201);
    let version = "/projects/shop/apps/web/versions/v3";
    let notes = json!({ "notes": format!("{HOSTILE}\n{HOSTILE}"), "labels": { "team": HOSTILE } });
    server.call(Method::PATCH, version, &token, Some(notes)).await.expect(200);
    let report = json!({
        "agent": { "id": &HOSTILE[..60], "host": HOSTILE }, "target": HOSTILE, "bytes_received": 1,
        "duration_ms": 1,
    });
    server.post(&format!("{version}/pulls"), &token, report).await.expect(204);
    promote(server, &token, "shop/web", "v3").await.expect(200);
    for what in ["/quarantine", "/release"] {
        done(server.call(Method::POST, &format!("{version}{what}"), &token, None).await);
    }
    5
}

async fn no_name_and_no_note_calls_everybody(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    for format in ["slack", "dingtalk", "feishu"] {
        hook_of(&server, &receiver, format).await;
    }
    let count = hostile_things_happen(&server).await;
    for format in ["slack", "dingtalk", "feishu"] {
        for received in receiver.wait_for(&format!("/{format}"), count, PATIENCE).await {
            let body = received.json();
            for text in texts(&body) {
                assert!(!calls_somebody(format, &text), "{format}: {text}");
            }
            for everybody in ["isAtAll", "is_at_all", "link_names"] {
                assert!(!anywhere(&body, everybody).is_some_and(|value| value != false), "{format}: {body}");
            }
            for somebody in ["atMobiles", "atUserIds", "at_mobiles"] {
                let called = anywhere(&body, somebody).and_then(Value::as_array);
                assert!(called.is_none_or(Vec::is_empty), "{format}: {body}");
            }
        }
    }
}

async fn a_chat_is_told_in_words_what_happened_to_what(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    for format in ["slack", "dingtalk", "feishu"] {
        hook_of(&server, &receiver, format).await;
    }
    with_versions(&server).await;
    happen(&server, 1).await;
    for format in ["slack", "dingtalk", "feishu"] {
        let came = receiver.wait_for(&format!("/{format}"), 3, PATIENCE).await;
        let said: Vec<_> = came.iter().map(|one| texts(&one.json()).join("\n")).collect();
        for words in ["shop", "web", "v1", "v2", "stable", "first-admin"] {
            assert!(said.iter().any(|text| text.contains(words)), "{format}: no {words} in {said:?}");
        }
        for received in &came {
            assert!(received.header("content-type").starts_with("application/json"), "{received:?}");
            let body = received.json();
            let marked = match format {
                "slack" => body["text"].is_string(),
                "dingtalk" => body["msgtype"].is_string(),
                _ => body["msg_type"].is_string(),
            };
            assert!(marked, "{format}: {body}");
            assert!(!received.text().contains(SECRET) && !received.query.contains(SECRET), "{received:?}");
        }
    }
}

/// HMAC-SHA256 in Base64.
fn mac(key: &str, message: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    STANDARD.encode(hmac::sign(&key, message.as_bytes()))
}

/// A parameter of a request's URL.
fn parameter(received: &Received, name: &str) -> Option<String> {
    let url = Url::parse(&format!("http://receiver.test/?{}", received.query)).unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// As their documentation says: "customize robot security settings" of DingTalk, "custom bot" of Feishu.
async fn robots_are_signed_as_their_owners_want(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    for format in ["dingtalk", "feishu"] {
        hook_of(&server, &receiver, format).await;
    }
    with_versions(&server).await;
    let dingtalk = &receiver.wait_for("/dingtalk", 1, PATIENCE).await[0];
    let at = server.clock.now().timestamp_millis().to_string();
    assert_eq!(parameter(dingtalk, "access_token").as_deref(), Some("abc"));
    assert_eq!(parameter(dingtalk, "timestamp"), Some(at.clone()), "{dingtalk:?}");
    let right = mac(SECRET, &format!("{at}\n{SECRET}"));
    assert_eq!(parameter(dingtalk, "sign"), Some(right), "{dingtalk:?}");

    let feishu = receiver.wait_for("/feishu", 1, PATIENCE).await[0].json();
    let at = server.clock.now().timestamp().to_string();
    assert_eq!(feishu["timestamp"], at, "{feishu}");
    assert_eq!(feishu["sign"], mac(&format!("{at}\n{SECRET}"), ""), "{feishu}");
}

async fn the_event_alone_is_signed_like_the_standard(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let body = with(new_hook(&receiver.url("/generic"), &["promote"]), "format", json!("generic"));
    let hook = Hook::make(&server, body).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let came = receiver.wait_for("/generic", 1, PATIENCE).await;
    assert!(is_signed(&came[0], &hook.secret), "{came:?}");
    let said = came[0].json();
    for (name, value) in [("kind", json!("promote")), ("seq", json!(3)), ("version", json!("v1"))] {
        assert_eq!(anywhere(&said, name), Some(&value), "{said}");
    }
    assert!(said.get("data").is_none(), "{said}");
}

async fn test_calls_speak_the_language_of_the_receiver(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    for (format, field) in [("slack", "text"), ("dingtalk", "msgtype"), ("feishu", "msg_type")] {
        let hook = hook_of(&server, &receiver, format).await;
        done(hook.call(&server, Method::POST, "/test", None).await);
        let came = receiver.wait_for(&format!("/{format}"), 1, PATIENCE).await;
        assert!(came[0].json()[field].is_string(), "{came:?}");
    }
}

on_both_databases! {
    no_name_and_no_note_calls_everybody,
    a_chat_is_told_in_words_what_happened_to_what,
    robots_are_signed_as_their_owners_want,
    the_event_alone_is_signed_like_the_standard,
    test_calls_speak_the_language_of_the_receiver,
}
