//! Receivers that answer without end, never, with nonsense, or that many wait for.

use std::time::Duration;

use chrono::TimeDelta;
use kkartifact_testkit::{Behaviour, Receiver, TestDatabase, on_both_databases};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::{Hook, PATIENCE, done, happen, in_time, shop, shop_with, with_versions};

/// The longest beginning of an answer that is kept.
const EXCERPT: usize = 2 << 10;

async fn of_a_long_answer_only_the_beginning_is_read(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    // More than fits into all the buffers on the way.
    let long = 64 << 20;
    for (path, status, state) in [("/ten", 200, "delivered"), ("/long", 200, "delivered"), ("/bad", 500, "")]
    {
        let bytes = if path == "/ten" { 10 << 20 } else { long };
        receiver.on(path, Behaviour::long(status, bytes));
        let hook = Hook::to(&server, &receiver.url(path), &["promote"]).await;
        let started = Instant::now();
        let before = receiver.bytes_sent();
        done(hook.call(&server, Method::POST, "/test", None).await);
        let delivery = hook.tried(&server, 1).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{path} took {:?}", started.elapsed());
        if !state.is_empty() {
            assert_eq!(delivery["state"], state, "{path}: {delivery}");
        }
        let excerpt = delivery["log"][0]["response"].as_str().unwrap();
        assert!((1..=EXCERPT).contains(&excerpt.len()), "{path}: {} bytes", excerpt.len());
        assert!(excerpt.starts_with("€€€"), "{path}: {excerpt}");
        assert!(receiver.bytes_sent() - before < long / 2, "{path}: {} bytes", receiver.bytes_sent());
    }
}

async fn a_receiver_that_never_answers_fails_and_holds_nobody_up(db: TestDatabase) {
    const EVENTS: usize = 12;
    let server = shop_with(db, |config| {
        config.webhooks.timeout_seconds = 5;
        config.webhooks.per_receiver = 2;
        config.jobs.deliveries = 4;
    })
    .await;
    let receivers = [Receiver::start().await, Receiver::start().await];
    let [hanging, quick] = &receivers;
    hanging.on("/hanging", Behaviour::hanging());
    Hook::to(&server, &hanging.url("/hanging"), &["promote"]).await;
    Hook::to(&server, &quick.url("/quick"), &["promote"]).await;
    with_versions(&server).await;
    let started = Instant::now();
    for number in 1..=EVENTS {
        happen(&server, number).await;
    }
    // One after the other, behind those that hang, they would take half a minute.
    quick.wait_for("/quick", EVENTS, Duration::from_secs(15)).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(hanging.received("/hanging").len() < EVENTS);
}

async fn a_receiver_has_so_long_to_answer(db: TestDatabase) {
    let server = shop_with(db, |config| config.webhooks.timeout_seconds = 1).await;
    let receiver = Receiver::start().await;
    receiver.on("/hanging", Behaviour::hanging());
    receiver.on("/slow", Behaviour::status(200).after(Duration::from_millis(300)));
    let hanging = Hook::to(&server, &receiver.url("/hanging"), &["promote"]).await;
    let slow = Hook::to(&server, &receiver.url("/slow"), &["promote"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    slow.reaches(&server, "delivered", 1).await;
    let latency = slow.only_delivery(&server).await["log"][0]["latency_ms"].as_i64().unwrap();
    assert!((300..5000).contains(&latency), "{latency}");
    let delivery = hanging.tried(&server, 1).await;
    let attempt = &delivery["log"][0];
    assert!(attempt["error"].is_string() && attempt["status"].is_null(), "{delivery}");
    assert!((900..10_000).contains(&attempt["latency_ms"].as_i64().unwrap()), "{delivery}");
    assert_eq!(delivery["state"], "pending", "{delivery}");
    // It is tried again like others.
    receiver.on("/hanging", Behaviour::status(200));
    in_time(&server, TimeDelta::hours(1), "the second attempt", async || {
        (hanging.only_delivery(&server).await["state"] == "delivered").then_some(())
    })
    .await;
}

async fn nonsense_is_kept_as_text(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let umlauts = "ü".repeat(4000);
    let answers: [&[u8]; 4] =
        [b"a\0b", b"\xff\xfe\x00", b"\x1b[2J<script>alert(1)</script>", umlauts.as_bytes()];
    for (number, answer) in answers.iter().enumerate() {
        let path = format!("/hook{number}");
        receiver.on(&path, Behaviour::saying(200, answer));
        let hook = Hook::to(&server, &receiver.url(&path), &["promote"]).await;
        done(hook.call(&server, Method::POST, "/test", None).await);
        receiver.wait_for(&path, 1, PATIENCE).await;
        hook.reaches(&server, "delivered", 1).await;
        let delivery = hook.only_delivery(&server).await;
        let excerpt = delivery["log"][0]["response"].as_str().unwrap_or_default();
        assert!(excerpt.len() <= EXCERPT, "{answer:?}: {} bytes", excerpt.len());
    }
}

async fn a_receiver_that_is_not_there_is_a_failure_with_a_reason(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let gone = receiver.url("/hook");
    drop(receiver);
    let hook = Hook::to(&server, &gone, &["promote"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let delivery = hook.tried(&server, 1).await;
    assert_eq!(delivery["state"], "pending", "{delivery}");
    assert!(delivery["error"].is_string() && delivery["log"][0]["status"] == json!(null), "{delivery}");
}

on_both_databases! {
    of_a_long_answer_only_the_beginning_is_read,
    a_receiver_that_never_answers_fails_and_holds_nobody_up,
    a_receiver_has_so_long_to_answer,
    nonsense_is_kept_as_text,
    a_receiver_that_is_not_there_is_a_failure_with_a_reason,
}
