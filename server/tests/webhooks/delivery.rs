//! What is delivered to whom: every kind of event, signed and numbered, and nothing else.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use kkartifact_model::time::Clock;
use kkartifact_testkit::{Behaviour, Received, Receiver, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    Hook, PATIENCE, anywhere, done, happen, in_time, is_signed, kind, new_hook, promote, push,
    received_in_time, shop, shop_with, signatures, text, until, with, with_versions,
};

const APP: &str = "/projects/shop/apps/web";

/// The number of an event among those of its app.
fn sequence(received: &Received) -> i64 {
    anywhere(&received.json(), "seq").and_then(Value::as_i64).unwrap()
}

/// Requests in the order of what they tell of: they may come in another one.
fn in_order(mut received: Vec<Received>) -> Vec<Received> {
    received.sort_by_key(sequence);
    received
}

/// Everything that can happen to a version, to shop/web; the kinds of events.
async fn everything_happens(server: &TestServer) -> Vec<&'static str> {
    let change = async |method: Method, what: &str| {
        done(server.call(method, &format!("{APP}/versions/v3{what}"), &server.admin, None).await);
    };
    for version in ["v1", "v2", "v3"] {
        push(server, "shop/web", version).await;
    }
    let report = json!({
        "agent": { "id": "agent-1", "host": "host-1" }, "target": "/srv/web", "bytes_received": 1,
        "duration_ms": 1,
    });
    server.post(&format!("{APP}/versions/v1/pulls"), &server.admin, report).await.expect(204);
    for version in ["v1", "v2"] {
        promote(server, &server.admin, "shop/web", version).await.expect(200);
    }
    let back = json!({ "project": "shop", "app": "web" });
    server.post("/rollback", &server.admin, back).await.expect(200);
    change(Method::POST, "/quarantine").await;
    change(Method::POST, "/release").await;
    change(Method::DELETE, "").await;
    change(Method::POST, "/restore").await;
    change(Method::POST, "/archive").await;
    vec![
        "push",
        "push",
        "push",
        "pull",
        "promote",
        "promote",
        "rollback",
        "quarantine",
        "release",
        "delete",
        "restore",
        "archive",
    ]
}

async fn every_event_is_delivered_signed_and_numbered_in_the_order_of_commits(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/all"), &["*"]).await;
    let happened = everything_happens(&server).await;
    let came = in_order(receiver.wait_for("/all", happened.len(), PATIENCE).await);
    assert_eq!(came.iter().map(kind).collect::<Vec<_>>(), happened);
    let numbers: Vec<_> = came.iter().map(sequence).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<i64>>());
    for received in &came {
        let body = received.json();
        assert!(is_signed(received, &hook.secret) && signatures(received) == 1, "{received:?}");
        assert!(received.header("content-type").starts_with("application/json"), "{received:?}");
        let mut fields: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["data", "timestamp", "type"], "{received:?}");
        let at: DateTime<Utc> = text(&body["timestamp"]).parse().unwrap();
        assert_eq!(at, server.clock.now(), "{received:?}");
        assert_eq!(received.header("webhook-timestamp"), at.timestamp().to_string());
        for (name, value) in [("project", "shop"), ("app", "web"), ("actor", "first-admin")] {
            assert_eq!(anywhere(&body["data"], name), Some(&json!(value)), "{received:?}");
        }
    }
    let versions: Vec<_> = came.iter().map(|one| text(anywhere(&one.json(), "version").unwrap())).collect();
    assert_eq!(versions, ["v1", "v2", "v3", "v1", "v1", "v2", "v1", "v3", "v3", "v3", "v3", "v3"]);
    // Each has an id of its own, which is the delivery's.
    let delivered = hook.reaches(&server, "delivered", happened.len()).await;
    let mut ids: Vec<_> = delivered.iter().map(|one| format!("msg_{}", text(&one["id"]))).collect();
    let mut sent: Vec<_> = came.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    sent.sort();
    assert_eq!(sent, ids);
}

async fn a_delivery_belongs_to_the_trace_of_its_cause(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let promotion = json!({ "project": "shop", "app": "web", "version": "v1" });
    let request = server.request(Method::POST, "/promote", &server.admin).json(&promotion);
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    server.send(request).await.expect(200);
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert!(came[0].header("traceparent").starts_with(&format!("00-{trace}-")), "{:?}", came[0].headers);
}

/// What the library of the standard says, which also looks at the time.
async fn what_is_sent_is_what_the_standard_library_takes(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    server.clock.advance(Clock::System.now() - server.clock.now());
    let hook = Hook::to(&server, &receiver.url("/standard"), &["push"]).await;
    assert!(hook.secret.starts_with("whsec_"), "{}", hook.secret);
    push(&server, "shop/web", "v1").await;
    let sent = &receiver.wait_for("/standard", 1, PATIENCE).await[0];
    let verifier = standardwebhooks::Webhook::new(&hook.secret).unwrap();
    verifier.verify(&sent.body, &sent.headers).unwrap();
    assert!(verifier.verify(b"{}", &sent.headers).is_err());
}

async fn who_pushes_at_the_same_time_leaves_no_gap(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    Hook::to(&server, &receiver.url("/all"), &["push"]).await;
    let names: Vec<_> = (1..=8).map(|i| format!("v{i}")).collect();
    join_all(names.iter().map(|name| push(&server, "shop/web", name))).await;
    push(&server, "other/app", "v1").await;
    let came = receiver.wait_for("/all", 9, PATIENCE).await;
    let (other, web): (Vec<_>, Vec<_>) =
        came.into_iter().partition(|one| anywhere(&one.json(), "project") == Some(&json!("other")));
    assert_eq!(other.iter().map(sequence).collect::<Vec<_>>(), [1], "each app counts for itself");
    let web = in_order(web);
    assert_eq!(web.iter().map(sequence).collect::<Vec<_>>(), (1..=8).collect::<Vec<i64>>());
    let mut versions: Vec<_> =
        web.iter().map(|one| text(anywhere(&one.json(), "version").unwrap())).collect();
    versions.sort();
    assert_eq!(versions, names);
}

async fn nobody_gets_what_they_did_not_ask_for(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let scoped = |path: &str, scope: Value| with(new_hook(&receiver.url(path), &["*"]), "scope", scope);
    let silent = [
        scoped("/silent", json!({ "project": "other" })),
        scoped("/silent", json!({ "project": "other", "app": "app" })),
        scoped("/silent", json!({ "project": "shop", "app": "api" })),
        new_hook(&receiver.url("/silent"), &["pull", "delete", "job_failed", "webhook_disabled", "expire"]),
        with(new_hook(&receiver.url("/silent"), &["*"]), "enabled", json!(false)),
    ];
    let mut others = Vec::new();
    for body in silent {
        others.push(Hook::make(&server, body).await);
    }
    Hook::make(&server, scoped("/shop", json!({ "project": "shop" }))).await;
    Hook::make(&server, scoped("/web", json!({ "project": "shop", "app": "web" }))).await;
    Hook::to(&server, &receiver.url("/pushes"), &["push", "delete"]).await;
    let late = Hook::to(&server, &receiver.url("/late"), &["*"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    for (path, count) in [("/shop", 3), ("/web", 3), ("/pushes", 2), ("/late", 3)] {
        receiver.wait_for(path, count, PATIENCE).await;
        assert_eq!(receiver.received(path).len(), count, "{path}");
    }
    assert!(receiver.received("/pushes").iter().all(|one| kind(one) == "push"));
    for hook in &others {
        assert!(hook.deliveries(&server, "").await.is_empty(), "{:?}", hook.get(&server).await);
    }
    assert!(receiver.received("/silent").is_empty());
    // One that is removed hears of nothing more, also not of what was on its way.
    done(late.call(&server, Method::DELETE, "", None).await);
    let everything = Hook::to(&server, &receiver.url("/everything"), &["*"]).await;
    happen(&server, 2).await;
    everything.reaches(&server, "delivered", 1).await;
    assert_eq!(receiver.received("/late").len(), 3);
}

async fn a_webhook_hears_of_what_happens_while_it_is_enabled(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    happen(&server, 1).await;
    receiver.wait_for("/hook", 1, PATIENCE).await;
    hook.change(&server, json!({ "enabled": false })).await.expect(200);
    happen(&server, 2).await;
    hook.change(&server, json!({ "enabled": true, "url": receiver.url("/moved") })).await.expect(200);
    happen(&server, 3).await;
    let came = receiver.wait_for("/moved", 1, PATIENCE).await;
    assert_eq!(anywhere(&came[0].json(), "version"), Some(&json!("v1")));
    assert_eq!(hook.reaches(&server, "delivered", 2).await.len(), 2);
    assert_eq!(receiver.received("/hook").len(), 1);
}

async fn what_was_refused_or_rolled_back_is_told_to_nobody(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["promote"]).await;
    with_versions(&server).await;
    let viewer = server.token(&["view"], "shop/web").await;
    promote(&server, &viewer, "shop/web", "v1").await.refused(403, "forbidden");
    promote(&server, &server.admin, "shop/web", "v9").await.refused(404, "not_found");
    let sqlite = server.resources().config.database.url.is_none();
    // The change is undone by the row that the database does not take.
    server
        .execute(if sqlite {
            "CREATE TRIGGER refuse BEFORE INSERT ON audit WHEN NEW.action = 'channel.promote'
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        } else {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.action = 'channel.promote')
             EXECUTE FUNCTION refuse()"
        })
        .await;
    promote(&server, &server.admin, "shop/web", "v1").await.expect(500);
    assert!(hook.deliveries(&server, "").await.is_empty());
    server.execute(if sqlite { "DROP TRIGGER refuse" } else { "DROP TRIGGER refuse ON audit" }).await;
    happen(&server, 2).await;
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert_eq!((came.len(), sequence(&came[0])), (1, 3), "two pushes and one promotion");
    assert_eq!(anywhere(&came[0].json(), "version"), Some(&json!("v2")));
}

async fn a_restart_between_event_and_delivery_loses_nothing(db: TestDatabase) {
    let mut server = shop_with(db, |config| config.webhooks.timeout_seconds = 2).await;
    let receiver = Receiver::start().await;
    let failing = Hook::to(&server, &receiver.url("/failing"), &["promote"]).await;
    let hanging = Hook::to(&server, &receiver.url("/hanging"), &["promote"]).await;
    receiver.on("/failing", Behaviour::failing_first(1, 503));
    receiver.on("/hanging", Behaviour::hanging());
    with_versions(&server).await;
    happen(&server, 1).await;
    // One has been refused, the other is under way.
    let first = failing.tried(&server, 1).await;
    let begun = receiver.wait_for("/hanging", 1, PATIENCE).await;
    receiver.on("/hanging", Behaviour::status(200));
    server.restart_with(|_| {}).await;
    let hour = TimeDelta::hours(1);
    let failed = received_in_time(&server, &receiver, hour, ("/failing", 2)).await;
    let hung = received_in_time(&server, &receiver, hour, ("/hanging", 2)).await;
    let id = |received: &Received| received.header("webhook-id").to_owned();
    assert_eq!(id(&failed[1]), format!("msg_{}", text(&first["id"])));
    assert_eq!(id(&hung[1]), id(&begun[0]));
    for hook in [&failing, &hanging] {
        hook.reaches(&server, "delivered", 1).await;
    }
}

async fn a_credential_that_is_about_to_end_is_announced_once(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    let hook = Hook::to(&server, &receiver.url("/hook"), &["expire"]).await;
    let end = server.clock.now() + TimeDelta::hours(1);
    let token = json!({ "name": "short", "permissions": ["view"], "scopes": [{}], "expires_at": end });
    let made = server.post("/tokens", &server.admin, token).await.expect(201).json();
    for _ in 0..2 {
        let queued = server.call(Method::POST, "/schedules/ends/run", &server.admin, None).await;
        let job = done(queued).json()["job_id"].to_string();
        until("the job to end", async || {
            let job = server.get(&format!("/jobs/{job}"), &server.admin).await.expect(200).json();
            (job["state"] == "succeeded").then_some(())
        })
        .await;
    }
    assert_eq!(hook.deliveries(&server, "").await.len(), 1);
    let came = receiver.wait_for("/hook", 1, PATIENCE).await;
    assert_eq!(kind(&came[0]), "expire");
    assert!(came[0].text().contains("short"), "{came:?}");
    let secret = text(&made["token"]).split('_').nth(2).unwrap().to_owned();
    assert!(!came[0].text().contains(&secret), "{came:?}");
}

/// A job whose payload nobody can read.
async fn a_job_that_fails_for_good_is_an_event(db: TestDatabase) {
    let (server, receiver) = (shop(db).await, Receiver::start().await);
    Hook::to(&server, &receiver.url("/hook"), &["job_failed"]).await;
    server
        .execute(
            "INSERT INTO job (kind, payload, state, priority, run_at, attempt, max_attempts, created_at, updated_at)
             VALUES ('version_marker', '{\"version_id\": \"none\"}', 'queued', 0, '2026-01-01T00:00:00+00:00', 0, 2,
                '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')",
        )
        .await;
    let came = in_time(&server, TimeDelta::hours(1), "the event", async || {
        receiver.received("/hook").first().cloned()
    })
    .await;
    assert_eq!(kind(&came), "job_failed");
    assert!(came.text().contains("version_marker"), "{came:?}");
}

on_both_databases! {
    every_event_is_delivered_signed_and_numbered_in_the_order_of_commits,
    a_delivery_belongs_to_the_trace_of_its_cause,
    what_is_sent_is_what_the_standard_library_takes,
    who_pushes_at_the_same_time_leaves_no_gap,
    nobody_gets_what_they_did_not_ask_for,
    a_webhook_hears_of_what_happens_while_it_is_enabled,
    what_was_refused_or_rolled_back_is_told_to_nobody,
    a_restart_between_event_and_delivery_loses_nothing,
    a_credential_that_is_about_to_end_is_announced_once,
    a_job_that_fails_for_good_is_an_event,
}
