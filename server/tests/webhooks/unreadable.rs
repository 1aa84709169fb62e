//! Webhooks whose secrets, headers or URLs can't be decrypted: as after the server got another secret key.

use chrono::TimeDelta;
use kkartifact_testkit::{Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    Hook, PATIENCE, done, happen, in_time, is_signed, new_hook, shop, shop_with, text, with, with_versions,
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A webhook with a header, at a path called like its format.
async fn hook_of(server: &TestServer, receiver: &Receiver, format: &str) -> Hook {
    let hook = with(new_hook(&receiver.url(&format!("/{format}")), &["promote"]), "format", json!(format));
    Hook::make(server, with(hook, "headers", json!({ "x-team": "shop" }))).await
}

/// Makes a webhook one that nobody can read: what is encrypted for one opens for no other.
async fn damage(server: &TestServer, hook: &Hook) {
    let other = Hook::make(
        server,
        with(new_hook("https://x.example/", &["pull"]), "headers", json!({ "x-of": "another" })),
    )
    .await;
    let name = text(&hook.get(server).await["name"]);
    let theirs = text(&other.get(server).await["name"]);
    let taken = |column: &str| format!("(SELECT {column} FROM webhook WHERE name = '{theirs}')");
    let (headers, secrets) = (taken("headers"), taken("secrets"));
    let sql = format!("UPDATE webhook SET headers = {headers}, secrets = {secrets} WHERE name = '{name}'");
    server.execute(&sql).await;
    done(other.call(server, Method::DELETE, "", None).await);
}

/// Asks for a call, which has to fail before anybody is called.
async fn is_not_called(server: &TestServer, hook: &Hook) {
    let asked = done(hook.call(server, Method::POST, "/test", None).await).json();
    let failed = &hook.reaches(server, "failed", 1).await[0];
    assert_eq!(failed["id"], asked["id"], "{failed}");
    let delivery = hook.delivery(server, &text(&failed["id"])).await;
    let attempt = &delivery["log"][0];
    assert!(attempt["status"].is_null() && attempt["request"] == "", "{delivery}");
    for error in [&delivery["error"], &attempt["error"]] {
        assert!(error.as_str().is_some_and(|why| why.contains("another secret key")), "{delivery}");
    }
}

async fn one_that_cannot_be_read_is_shown_and_hides_no_other(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let (good, bad) =
        (hook_of(&server, &receiver, "generic").await, hook_of(&server, &receiver, "standard").await);
    let before = bad.get(&server).await;
    damage(&server, &bad).await;
    let page = server.get("/webhooks", &server.admin).await.expect(200).json();
    let listed = |hook: &Hook| {
        let all = page["items"].as_array().unwrap();
        all.iter().find(|one| one["id"] == hook.id.as_str()).unwrap().clone()
    };
    assert!(listed(&good).get("unreadable").is_none() && listed(&good)["headers"] == json!(["x-team"]));
    let expected = with(with(before, "unreadable", json!(true)), "headers", json!([]));
    assert_eq!(listed(&bad), expected);
    assert_eq!(bad.get(&server).await, expected);
    is_not_called(&server, &bad).await;
    assert_eq!(receiver.connections(), 0);
    done(good.call(&server, Method::POST, "/test", None).await);
    receiver.wait_for("/generic", 1, PATIENCE).await;
    done(bad.call(&server, Method::DELETE, "", None).await);
    bad.call(&server, Method::GET, "", None).await.refused(404, "not_found");
}

async fn what_is_given_anew_makes_it_work_again(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    let hook = hook_of(&server, &receiver, "standard").await;
    damage(&server, &hook).await;
    let unreadable = async |change: Value| {
        let changed = hook.change(&server, change).await.expect(200).json();
        assert_eq!(changed["unreadable"], true, "{changed}");
    };
    // What has nothing to do with it can be changed meanwhile, and what is missing is not taken for nothing.
    unreadable(json!({ "name": "chat", "events": ["*"] })).await;
    unreadable(json!({ "url": receiver.url("/moved") })).await;
    hook.change(&server, json!({ "format": "slack" })).await.refused(400, "invalid_request");
    unreadable(json!({ "headers": { "x-team": "releases" } })).await;
    let rotated = hook.call(&server, Method::POST, "/secret", Some(json!({ "secret": SECRET }))).await;
    let rotated = done(rotated).json();
    assert!(rotated.get("unreadable").is_none() && rotated["headers"] == json!(["x-team"]), "{rotated}");
    happen(&server, 1).await;
    let came = receiver.wait_for("/moved", 1, PATIENCE).await;
    assert!(is_signed(&came[0], SECRET) && came[0].header("x-team") == "releases", "{came:?}");
}

async fn of_a_robot_url_and_headers_are_given_together(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    let hook = hook_of(&server, &receiver, "slack").await;
    let shown = hook.get(&server).await["url"].clone();
    damage(&server, &hook).await;
    let url = receiver.url("/moved");
    for change in [
        json!({ "url": url }),
        json!({ "headers": {} }),
        json!({ "format": "standard" }),
        json!({ "format": "standard", "url": url }),
    ] {
        hook.change(&server, change).await.refused(400, "invalid_request");
    }
    let said = hook.get(&server).await;
    assert_eq!((&said["url"], &said["unreadable"]), (&shown, &json!(true)), "{said}");
    is_not_called(&server, &hook).await;
    hook.change(&server, json!({ "url": url, "headers": {} })).await.expect(200);
    done(hook.call(&server, Method::POST, "/secret", Some(json!({}))).await);
    let said = hook.get(&server).await;
    assert!(said.get("unreadable").is_none() && said["url"] == shown, "{said}");
    happen(&server, 1).await;
    receiver.wait_for("/moved", 1, PATIENCE).await;
    assert!(receiver.received("/slack").is_empty());
}

/// It is tried like others, for as long as others; but the receiver has done nothing wrong.
async fn what_the_server_cannot_send_is_no_failure_of_the_receiver(db: TestDatabase) {
    let server = shop_with(db, |config| {
        config.webhooks.disable_after_hours = 1;
        config.webhooks.keep_days = 3650;
        config.jobs.keep_days = 3650;
    })
    .await;
    let receiver = Receiver::start().await;
    with_versions(&server).await;
    let hook = hook_of(&server, &receiver, "standard").await;
    damage(&server, &hook).await;
    happen(&server, 1).await;
    let first = hook.tried(&server, 1).await;
    assert_eq!(first["state"], "pending", "{first}");
    assert!(hook.get(&server).await["failing_since"].is_null());
    let given_up = in_time(&server, TimeDelta::days(1), "it to be given up", async || {
        hook.deliveries(&server, "state=failed").await.pop()
    })
    .await;
    assert_eq!(given_up["attempts"], 12, "{given_up}");
    let log = hook.only_delivery(&server).await["log"].clone();
    let why = |attempt: &Value| attempt["error"].as_str().is_some_and(|why| why.contains("secret key"));
    assert!(log.as_array().unwrap().iter().all(why), "{log}");
    let said = hook.get(&server).await;
    assert!(said["enabled"] == true && said["failing_since"].is_null(), "{said}");
    assert_eq!(receiver.connections(), 0);
    // Put right, it is delivered.
    hook.change(&server, json!({ "headers": {} })).await.expect(200);
    done(hook.call(&server, Method::POST, "/secret", Some(json!({}))).await);
    done(hook.call(&server, Method::POST, "/replay", Some(json!({}))).await);
    receiver.wait_for("/standard", 1, PATIENCE).await;
}

on_both_databases! {
    one_that_cannot_be_read_is_shown_and_hides_no_other,
    what_is_given_anew_makes_it_work_again,
    of_a_robot_url_and_headers_are_given_together,
    what_the_server_cannot_send_is_no_failure_of_the_receiver,
}
