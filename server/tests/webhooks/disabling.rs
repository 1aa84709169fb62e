//! When the server gives up on a receiver: after lasting failure, or when it says that it is gone.

use chrono::TimeDelta;
use kkartifact_testkit::{Behaviour, Receiver, TestDatabase, TestServer, on_both_databases};
use serde_json::{Value, json};

use crate::{
    Hook, PATIENCE, anywhere, happen, in_time, is_signed, kind, shop, shop_with, text, until, with_versions,
};

/// What the server says of a webhook once it has disabled it.
async fn disabled(server: &TestServer, hook: &Hook) -> Value {
    until("the webhook to be disabled", async || {
        let hook = hook.get(server).await;
        (hook["enabled"] == false).then_some(hook)
    })
    .await
}

/// Asserts that a webhook is disabled for a reason, that this is told, and that nobody calls its receiver again.
async fn is_over(server: &TestServer, receiver: &Receiver, hook: &Hook, watcher: &Hook) {
    let said = disabled(server, hook).await;
    assert!(said["disabled_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
    let told = &receiver.wait_for("/watcher", 1, PATIENCE).await[0];
    assert!(kind(told) == "webhook_disabled" && is_signed(told, &watcher.secret), "{told:?}");
    assert!(told.text().contains(&text(&said["name"])), "{told:?}");
    assert!(!told.text().contains(&hook.secret), "{told:?}");

    until("nothing to be under way", async || {
        let path = "/jobs?kind=deliver_webhook&state=running";
        let page = server.get(path, &server.admin).await.expect(200).json();
        page["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    receiver.on("/hook", Behaviour::status(200));
    let before = receiver.received("/hook").len();
    let other = Hook::to(server, &receiver.url("/other"), &["promote"]).await;
    for number in 1..=2 {
        server.clock.advance(TimeDelta::days(2));
        happen(server, number).await;
    }
    other.reaches(server, "delivered", 2).await;
    // Also not for what had been waiting.
    until("what waits to be called off", async || {
        hook.deliveries(server, "state=pending").await.is_empty().then_some(())
    })
    .await;
    assert_eq!(receiver.received("/hook").len(), before);
    assert_eq!(receiver.received("/watcher").len(), 1);

    // Whoever enables it again begins anew.
    let enabled = hook.change(server, json!({ "enabled": true })).await.expect(200).json();
    assert_eq!((&enabled["enabled"], &enabled["disabled_reason"]), (&json!(true), &json!(null)), "{enabled}");
    assert!(enabled["failing_since"].is_null(), "{enabled}");
    happen(server, 1).await;
    let came = receiver.wait_for("/hook", before + 1, PATIENCE).await;
    assert_eq!(anywhere(&came[before].json(), "version"), Some(&json!("v1")));
}

async fn a_receiver_that_fails_for_days_is_given_up(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    let watcher = Hook::to(&server, &receiver.url("/watcher"), &["webhook_disabled"]).await;
    receiver.on("/hook", Behaviour::status(500));
    with_versions(&server).await;
    // Less than three days are not too long.
    for number in 2..=8 {
        happen(&server, number).await;
        receiver.wait_for("/hook", number - 1, PATIENCE).await;
        until("the failure to be noted", async || {
            hook.get(&server).await["failing_since"].is_string().then_some(())
        })
        .await;
        assert_eq!(hook.get(&server).await["enabled"], true, "after {} half days", number - 2);
        if number < 8 {
            server.clock.advance(TimeDelta::hours(11));
        }
    }
    in_time(&server, TimeDelta::hours(8), "the webhook to be disabled", async || {
        (hook.get(&server).await["enabled"] == false).then_some(())
    })
    .await;
    is_over(&server, &receiver, &hook, &watcher).await;
}

async fn a_success_in_between_ends_the_failure(db: TestDatabase) {
    let server = shop_with(db, |config| config.webhooks.disable_after_hours = 1).await;
    let receiver = Receiver::start().await;
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    for round in 1..=4 {
        receiver.on("/hook", Behaviour::failing_first(1, 500));
        happen(&server, round).await;
        until("the failure to be noted", async || {
            hook.get(&server).await["failing_since"].is_string().then_some(())
        })
        .await;
        in_time(&server, TimeDelta::minutes(40), "the delivery", async || {
            (hook.deliveries(&server, "state=delivered").await.len() == round).then_some(())
        })
        .await;
        let said = hook.get(&server).await;
        assert!(said["enabled"] == true && said["failing_since"].is_null(), "{said}");
    }
}

async fn nobody_is_given_up_where_that_is_switched_off(db: TestDatabase) {
    let server = shop_with(db, |config| config.webhooks.disable_after_hours = 0).await;
    let receiver = Receiver::start().await;
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::status(500));
    with_versions(&server).await;
    for number in 1..=3 {
        let before = receiver.received("/hook").len();
        happen(&server, number).await;
        receiver.wait_for("/hook", before + 1, PATIENCE).await;
        server.clock.advance(TimeDelta::days(6));
    }
    receiver.on("/hook", Behaviour::status(200));
    happen(&server, 4).await;
    hook.reaches(&server, "delivered", 1).await;
    assert_eq!(hook.get(&server).await["enabled"], true);
}

async fn a_receiver_that_says_that_it_is_gone_is_not_called_again(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    let watcher = Hook::to(&server, &receiver.url("/watcher"), &["webhook_disabled"]).await;
    receiver.on("/hook", Behaviour::status(410));
    with_versions(&server).await;
    happen(&server, 2).await;
    is_over(&server, &receiver, &hook, &watcher).await;
}

on_both_databases! {
    a_receiver_that_fails_for_days_is_given_up,
    a_success_in_between_ends_the_failure,
    nobody_is_given_up_where_that_is_switched_off,
    a_receiver_that_says_that_it_is_gone_is_not_called_again,
}
