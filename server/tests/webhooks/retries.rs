//! What becomes of deliveries that did not succeed: tried again, called off, delivered again by hand.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_testkit::{Behaviour, Received, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

use crate::{
    Hook, PATIENCE, anywhere, done, happen, in_time, is_signed, received_in_time, shop, shop_with, text,
    until, with_versions,
};

/// Ids of the messages of requests.
fn ids(received: &[Received]) -> Vec<&str> {
    received.iter().map(|one| one.header("webhook-id")).collect()
}

/// Waits until so many deliveries have been given up, while days go by.
async fn given_up(server: &TestServer, hook: &Hook, count: usize) {
    in_time(server, TimeDelta::days(1), "deliveries to be given up", async || {
        (hook.deliveries(server, "state=failed").await.len() >= count).then_some(())
    })
    .await;
}

async fn a_delivery_is_not_tried_again_before_its_time(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::failing_first(1, 503));
    with_versions(&server).await;
    happen(&server, 1).await;
    let first = hook.tried(&server, 1).await;
    assert_eq!((&first["state"], &first["status"]), (&json!("pending"), &json!(503)), "{first}");
    // What was asked for later is delivered, and the first one waits.
    happen(&server, 2).await;
    hook.reaches(&server, "delivered", 1).await;
    let waiting = hook.deliveries(&server, "state=pending").await;
    assert_eq!((waiting.len(), &waiting[0]["id"]), (1, &first["id"]), "{waiting:?}");
    assert_eq!(receiver.received("/hook").len(), 2);
    received_in_time(&server, &receiver, TimeDelta::hours(1), ("/hook", 3)).await;
    hook.reaches(&server, "delivered", 2).await;
    assert!(hook.get(&server).await["failing_since"].is_null());
}

async fn a_delivery_is_tried_again_with_the_same_id_until_it_succeeds(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::failing_first(3, 500));
    with_versions(&server).await;
    happen(&server, 1).await;
    receiver.wait_for("/hook", 1, PATIENCE).await;
    let came = received_in_time(&server, &receiver, TimeDelta::hours(1), ("/hook", 4)).await;
    let delivered = hook.reaches(&server, "delivered", 1).await;
    assert_eq!(delivered[0]["attempts"], 4, "{delivered:?}");
    let message = format!("msg_{}", text(&delivered[0]["id"]));
    assert_eq!(ids(&came), vec![message; 4]);
    let mut times = Vec::new();
    for received in &came {
        assert!(is_signed(received, &hook.secret), "{received:?}");
        assert_eq!(received.body, came[0].body, "the same is said each time");
        times.push(received.header("webhook-timestamp").parse::<i64>().unwrap());
    }
    // A signature is good for some minutes only: each attempt has one of its own time.
    assert!(times.is_sorted_by(|before, after| before < after), "{times:?}");
    let detail = hook.only_delivery(&server).await;
    let log = detail["log"].as_array().unwrap();
    let tries: Vec<_> = log.iter().map(|one| (one["attempt"].clone(), one["status"].clone())).collect();
    assert_eq!(json!(tries), json!([[1, 500], [2, 500], [3, 500], [4, 200]]));
    // Nothing comes behind it.
    server.clock.advance(TimeDelta::days(2));
    happen(&server, 2).await;
    hook.reaches(&server, "delivered", 2).await;
    assert_eq!(receiver.received("/hook").len(), 5);
}

async fn what_was_given_up_is_delivered_again_when_somebody_asks(db: TestDatabase) {
    let server = shop_with(db, |config| {
        config.webhooks.disable_after_hours = 0;
        config.webhooks.keep_days = 3650;
        config.jobs.keep_days = 3650;
    })
    .await;
    let receiver = Receiver::start().await;
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::status(500));
    with_versions(&server).await;
    happen(&server, 1).await;
    server.clock.advance(TimeDelta::minutes(1));
    let since = server.clock.now() - TimeDelta::seconds(30);
    happen(&server, 2).await;
    given_up(&server, &hook, 2).await;
    let before = receiver.received("/hook").len();
    receiver.on("/hook", Behaviour::status(200));

    let replay = async |since: DateTime<Utc>| {
        let body = json!({ "since": since });
        let answer = hook.call(&server, Method::POST, "/replay", Some(body)).await;
        done(answer).json()["replayed"].clone()
    };
    assert_eq!(replay(server.clock.now()).await, 0, "nothing happened since");
    assert_eq!(replay(since).await, 1);
    let came = receiver.wait_for("/hook", before + 1, PATIENCE).await;
    assert_eq!(anywhere(&came[before].json(), "version"), Some(&json!("v2")));
    hook.reaches(&server, "delivered", 1).await;
    // What has been delivered meanwhile is not sent again.
    assert_eq!(replay(since - TimeDelta::minutes(1)).await, 1);
    let came = receiver.wait_for("/hook", before + 2, PATIENCE).await;
    assert_eq!(anywhere(&came[before + 1].json(), "version"), Some(&json!("v1")));
    assert_eq!(hook.reaches(&server, "delivered", 2).await.len(), 2);
    assert_eq!(replay(since - TimeDelta::days(1)).await, 0);
    let nonsense = hook.call(&server, Method::POST, "/replay", Some(json!({ "since": "yesterday" }))).await;
    nonsense.refused(400, "invalid_request");
}

async fn nothing_is_delivered_again_while_the_webhook_is_disabled(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let delivered = text(&hook.reaches(&server, "delivered", 1).await[0]["id"]);
    hook.change(&server, json!({ "enabled": false })).await.expect(200);
    let one = format!("/deliveries/{delivered}/replay");
    hook.call(&server, Method::POST, &one, None).await.refused(409, "in_use");
    hook.call(&server, Method::POST, "/replay", Some(json!({}))).await.refused(409, "in_use");
    assert_eq!(receiver.received("/hook").len(), 1);
}

async fn a_receiver_says_how_long_it_wants_to_be_left_alone(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    with_versions(&server).await;
    for (number, (status, wanted)) in [(503, 600), (429, 600), (503, 1_000_000)].into_iter().enumerate() {
        let path = format!("/hook{number}");
        let busy = Behaviour::status(status).with_header("retry-after", &wanted.to_string());
        receiver.on(&path, busy);
        let hook = Hook::to(&server, &receiver.url(&path), &["promote"]).await;
        happen(&server, number + 1).await;
        hook.tried(&server, 1).await;
        receiver.on(&path, Behaviour::status(200));
        server.clock.advance(TimeDelta::minutes(9));
        // What is due by now is done before what comes later.
        let other = Hook::to(&server, &receiver.url("/other"), &["delete"]).await;
        done(other.call(&server, Method::POST, "/test", None).await);
        other.reaches(&server, "delivered", 1).await;
        assert_eq!(receiver.received(&path).len(), 1, "{status} {wanted}");
        // An hour at most, whatever it says.
        server.clock.advance(if wanted == 600 { TimeDelta::minutes(4) } else { TimeDelta::minutes(60) });
        server.resources().jobs_queued.notify_waiters();
        receiver.wait_for(&path, 2, PATIENCE).await;
        hook.change(&server, json!({ "enabled": false })).await.expect(200);
    }
}

async fn one_delivery_is_delivered_again_with_the_same_id(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    let delivered = hook.reaches(&server, "delivered", 1).await;
    let again = format!("/deliveries/{}/replay", text(&delivered[0]["id"]));
    done(hook.call(&server, Method::POST, &again, None).await);
    let came = receiver.wait_for("/hook", 2, PATIENCE).await;
    assert_eq!(came[0].body, came[1].body);
    assert_eq!(ids(&came[..1]), ids(&came[1..2]));
    let detail = hook.tried(&server, 2).await;
    let attempts: Vec<_> =
        detail["log"].as_array().unwrap().iter().map(|one| one["attempt"].clone()).collect();
    assert_eq!(json!(attempts), json!([1, 2]));
    let unknown = "/deliveries/00000000-0000-0000-0000-000000000000";
    hook.call(&server, Method::GET, unknown, None).await.refused(404, "not_found");
    let replay = hook.call(&server, Method::POST, &format!("{unknown}/replay"), None).await;
    replay.refused(404, "not_found");
}

async fn a_delivery_whose_job_is_cancelled_is_called_off(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    receiver.on("/hook", Behaviour::status(500));
    with_versions(&server).await;
    happen(&server, 1).await;
    hook.tried(&server, 1).await;
    let job = until("the job to wait", async || {
        let path = "/jobs?kind=deliver_webhook&state=queued";
        let page = server.get(path, &server.admin).await.expect(200).json();
        page["items"].as_array().unwrap().first().map(|job| job["id"].to_string())
    })
    .await;
    done(server.call(Method::POST, &format!("/jobs/{job}/cancel"), &server.admin, None).await);
    hook.reaches(&server, "cancelled", 1).await;
    // Nothing comes of it any more, however long one waits.
    receiver.on("/hook", Behaviour::status(200));
    server.clock.advance(TimeDelta::days(1));
    happen(&server, 2).await;
    hook.reaches(&server, "delivered", 1).await;
    assert_eq!(receiver.received("/hook").len(), 2);
    assert_eq!(hook.deliveries(&server, "state=cancelled").await.len(), 1);
    // Whoever takes the job up again, takes up its delivery.
    done(server.call(Method::POST, &format!("/jobs/{job}/retry"), &server.admin, None).await);
    hook.reaches(&server, "delivered", 2).await;
    assert_eq!(receiver.received("/hook").len(), 3);
}

on_both_databases! {
    a_delivery_is_not_tried_again_before_its_time,
    a_delivery_is_tried_again_with_the_same_id_until_it_succeeds,
    what_was_given_up_is_delivered_again_when_somebody_asks,
    nothing_is_delivered_again_while_the_webhook_is_disabled,
    a_receiver_says_how_long_it_wants_to_be_left_alone,
    one_delivery_is_delivered_again_with_the_same_id,
    a_delivery_whose_job_is_cancelled_is_called_off,
}
