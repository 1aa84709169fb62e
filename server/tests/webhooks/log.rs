//! What the server remembers of deliveries: each attempt, and pages of them.

use kkartifact_testkit::{Behaviour, Receiver, TestDatabase, on_both_databases};
use reqwest::Method;
use serde_json::json;

use crate::{Hook, PATIENCE, done, happen, is_signed, kind, shop, text, with_versions};

async fn an_attempt_is_remembered_with_what_was_said(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let url = receiver.url("/hook?key=7");
    let hook = Hook::to(&server, &url, &["promote"]).await;
    receiver.on("/hook", Behaviour::saying(202, "thank you ✓".as_bytes()));
    with_versions(&server).await;
    happen(&server, 1).await;
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    hook.reaches(&server, "delivered", 1).await;
    let delivery = hook.only_delivery(&server).await;
    assert_eq!((&delivery["event"], &delivery["status"]), (&json!("promote"), &json!(202)), "{delivery}");
    assert_eq!(delivery["created_at"], json!(server.clock.now()), "{delivery}");
    let attempt = &delivery["log"][0];
    assert_eq!((&attempt["attempt"], &attempt["status"]), (&json!(1), &json!(202)), "{attempt}");
    assert_eq!((&attempt["url"], &attempt["request"]), (&json!(url), &json!(came[0].text())), "{attempt}");
    assert_eq!((&attempt["response"], &attempt["error"]), (&json!("thank you ✓"), &json!(null)), "{attempt}");
    assert!(attempt["latency_ms"].as_i64().is_some_and(|taken| (0..60_000).contains(&taken)), "{attempt}");
    assert_eq!(attempt["at"], json!(server.clock.now()), "{attempt}");
    assert_eq!(came[0].query, "key=7");
}

async fn a_refusal_is_remembered_with_its_reason(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::saying(422, b"no such channel"));
    with_versions(&server).await;
    happen(&server, 1).await;
    let delivery = hook.tried(&server, 1).await;
    let attempt = &delivery["log"][0];
    assert_eq!((&attempt["status"], &attempt["response"]), (&json!(422), &json!("no such channel")));
    assert!(attempt["error"].is_string() && delivery["error"].is_string(), "{delivery}");
    assert_ne!(delivery["state"], "delivered");
    assert!(hook.get(&server).await["failing_since"].is_string());
}

async fn lists_of_deliveries_are_paged_and_filtered(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    for number in 1..=5 {
        happen(&server, number).await;
    }
    hook.reaches(&server, "delivered", 5).await;
    let all: Vec<_> = hook.deliveries(&server, "").await.iter().map(|one| text(&one["id"])).collect();
    let mut seen = Vec::new();
    let mut path = "/deliveries?limit=2".to_owned();
    loop {
        let page = hook.call(&server, Method::GET, &path, None).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|one| text(&one["id"])));
        if seen.len() == 2 {
            // What comes meanwhile is newer than what is still to be shown.
            happen(&server, 6).await;
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        path = format!("/deliveries?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, all, "newest first, each once");
    assert!(hook.deliveries(&server, "state=failed").await.is_empty());
    for bad in ["state=lost", "limit=0", "limit=501", "cursor=x"] {
        let path = format!("/deliveries?{bad}");
        hook.call(&server, Method::GET, &path, None).await.refused(400, "invalid_request");
    }
}

async fn a_test_call_reaches_the_receiver(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["delete"]).await;
    let bystander = Hook::to(&server, &receiver.url("/bystander"), &["*"]).await;
    done(hook.call(&server, Method::POST, "/test", None).await);
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert!(kind(&came[0]) == "test" && is_signed(&came[0], &hook.secret), "{came:?}");
    hook.reaches(&server, "delivered", 1).await;
    let delivery = hook.only_delivery(&server).await;
    assert_eq!(delivery["event"], "test", "{delivery}");
    assert_eq!(came[0].header("webhook-id"), format!("msg_{}", text(&delivery["id"])));
    assert!(bystander.deliveries(&server, "").await.is_empty());
    // It may also fail.
    receiver.on("/hook", Behaviour::status(500));
    done(hook.call(&server, Method::POST, "/test", None).await);
    receiver.wait_for("/hook", 2, PATIENCE).await;
    let failed = hook.reaches(&server, "failed", 1).await;
    assert_eq!(failed[0]["attempts"], 1, "once is enough to see it: {failed:?}");
}

on_both_databases! {
    an_attempt_is_remembered_with_what_was_said,
    a_refusal_is_remembered_with_its_reason,
    lists_of_deliveries_are_paged_and_filtered,
    a_test_call_reaches_the_receiver,
}
