//! Secrets that sign: made, given, replaced with an overlap.

use chrono::TimeDelta;
use kkartifact_testkit::{Received, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Hook, PATIENCE, done, happen, is_signed, new_hook, shop, signatures, text, with, with_versions};

/// Replaces the secret of a webhook; the new one.
async fn rotate(server: &TestServer, hook: &Hook, how: Value) -> String {
    let answer = hook.call(server, Method::POST, "/secret", Some(how)).await;
    text(&done(answer).json()["secret"])
}

/// Makes the next thing happen; what the receiver gets.
async fn next(server: &TestServer, receiver: &Receiver, number: usize) -> Received {
    happen(server, number).await;
    receiver.wait_for("/hook", number, PATIENCE).await[number - 1].clone()
}

async fn a_new_secret_signs_beside_the_old_one_for_a_while(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    let first = next(&server, &receiver, 1).await;
    assert!(is_signed(&first, &hook.secret) && signatures(&first) == 1, "{first:?}");

    let new = rotate(&server, &hook, json!({})).await;
    assert!(new.starts_with("whsec_") && new != hook.secret, "{new}");
    server.clock.advance(TimeDelta::hours(23));
    let during = next(&server, &receiver, 2).await;
    assert!(is_signed(&during, &new) && is_signed(&during, &hook.secret), "{during:?}");
    assert_eq!(signatures(&during), 2);

    server.clock.advance(TimeDelta::minutes(61));
    let after = next(&server, &receiver, 3).await;
    assert!(is_signed(&after, &new) && !is_signed(&after, &hook.secret), "{after:?}");
    assert_eq!(signatures(&after), 1);
}

async fn an_overlap_is_as_long_as_was_asked(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    for bad in [
        json!({ "overlap_hours": 169 }),
        json!({ "overlap_hours": -1 }),
        json!({ "overlap_hours": 1.5 }),
        json!({ "hours": 1 }),
        json!({ "secret": "" }),
    ] {
        let answer = hook.call(&server, Method::POST, "/secret", Some(bad.clone())).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert!(is_signed(&next(&server, &receiver, 1).await, &hook.secret));

    // A secret that leaked signs nothing any more.
    let second = rotate(&server, &hook, json!({ "overlap_hours": 0 })).await;
    let sent = next(&server, &receiver, 2).await;
    assert!(is_signed(&sent, &second) && !is_signed(&sent, &hook.secret), "{sent:?}");
    let third = rotate(&server, &hook, json!({ "overlap_hours": 168 })).await;
    server.clock.advance(TimeDelta::hours(167));
    let sent = next(&server, &receiver, 3).await;
    assert!(is_signed(&sent, &third) && is_signed(&sent, &second), "{sent:?}");
    server.clock.advance(TimeDelta::minutes(61));
    assert!(!is_signed(&next(&server, &receiver, 4).await, &second));
}

async fn a_secret_can_be_given(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let (one, two) = ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let body = with(new_hook(&receiver.url("/hook"), &["promote"]), "secret", json!(one));
    let hook = Hook::make(&server, body).await;
    assert_eq!(hook.secret, one);
    with_versions(&server).await;
    assert!(is_signed(&next(&server, &receiver, 1).await, one));
    assert_eq!(rotate(&server, &hook, json!({ "secret": two })).await, two);
    let sent = next(&server, &receiver, 2).await;
    assert!(is_signed(&sent, one) && is_signed(&sent, two), "{sent:?}");
}

async fn every_webhook_has_a_secret_of_its_own(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let mut secrets = Vec::new();
    for _ in 0..5 {
        secrets.push(Hook::to(&server, &receiver.url("/hook"), &["*"]).await.secret);
    }
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 5);
    // 24 random bytes at least, as the standard wants.
    assert!(secrets.iter().all(|secret| secret.len() >= "whsec_".len() + 32), "{secrets:?}");
}

on_both_databases! {
    a_new_secret_signs_beside_the_old_one_for_a_while,
    an_overlap_is_as_long_as_was_asked,
    a_secret_can_be_given,
    every_webhook_has_a_secret_of_its_own,
}
