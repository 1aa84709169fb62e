//! Retention: what a run deletes is what the preview shows, and what something relies on stays.

use chrono::TimeDelta;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{call, done, get, items, promote, push, reschedule, run, shop, text, until};

const APP: &str = "/projects/shop/apps/web";

/// Says how many versions stay.
async fn keep(server: &TestServer, rule: Value) {
    let set = server.call(Method::PUT, "/retention", &server.admin, Some(rule)).await;
    done(set);
}

/// A server on which retention runs only when somebody wants it to.
async fn by_hand(db: TestDatabase) -> TestServer {
    let server = shop(db).await;
    reschedule(&server, "retention", json!({ "cron": "0 0 1 1 *" })).await.expect(200);
    server
}

/// Publishes versions of shop/web, a minute apart.
async fn push_all(server: &TestServer, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        push(server, "shop/web", &format!("v{number}")).await;
        server.clock.advance(TimeDelta::minutes(1));
    }
}

/// What a run would delete now: the versions of the apps, sorted. Reads small pages.
async fn preview(server: &TestServer) -> Vec<String> {
    let (mut found, mut path) = (Vec::new(), "/retention/preview?limit=2".to_owned());
    loop {
        let page = get(server, &path).await;
        assert!(items(&page).len() <= 2, "{page}");
        for item in items(&page) {
            assert!(item["created_at"].is_string(), "{item}");
            let place = [&item["project"], &item["app"], &item["version"]].map(text);
            found.push(place.join("/"));
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        path = format!("/retention/preview?limit=2&cursor={cursor}");
    }
    found.sort();
    found
}

/// The versions of an app that are in a state, sorted, with the app in front.
async fn versions(server: &TestServer, app: &str, state: &str) -> Vec<String> {
    let (project, name) = app.split_once('/').unwrap();
    let mut found = Vec::new();
    for query in ["limit=500", "limit=500&deleted=true"] {
        let page = get(server, &format!("/projects/{project}/apps/{name}/versions?{query}")).await;
        let in_state = items(&page).iter().filter(|one| one["state"] == state);
        found.extend(in_state.map(|one| format!("{app}/{}", text(&one["version"]))));
    }
    found.sort();
    found.dedup();
    found
}

/// The names of versions of shop/web.
fn web(numbers: &[u32]) -> Vec<String> {
    let mut names: Vec<_> = numbers.iter().map(|number| format!("shop/web/v{number}")).collect();
    names.sort();
    names
}

/// Says something about a version of shop/web.
async fn mark(server: &TestServer, version: &str, change: Value) {
    let path = format!("{APP}/versions/{version}");
    server.call(Method::PATCH, &path, &server.admin, Some(change)).await.expect(200);
}

/// A host reports that it runs a version of shop/web now.
async fn report(server: &TestServer, host: &str, version: &str) {
    let body = json!({
        "agent": { "id": format!("agent-of-{host}"), "host": host }, "target": "/srv/web", "bytes_received": 1,
        "duration_ms": 1,
    });
    server.post(&format!("{APP}/versions/{version}/pulls"), &server.admin, body).await.expect(204);
}

/// Opens an upload that is told by its difference to a version; the upload.
async fn open_upload_on(server: &TestServer, version: &Value) -> String {
    let base = json!({ "version": version["version"], "manifest_digest": version["manifest_digest"] });
    let init = json!({ "project": "shop", "app": "web", "version": "next", "base": base });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    assert_eq!(opened["base"], true, "{opened}");
    text(&opened["upload_id"])
}

async fn the_rule_is_what_was_said_last(db: TestDatabase) {
    let mut server = by_hand(db).await;
    let first = get(&server, "/retention").await;
    assert_eq!(
        (&first["keep"], &first["keep_days"], &first["action"]),
        (&json!(null), &json!(0), &json!("delete")),
        "nothing is deleted at first"
    );
    push_all(&server, 1..=5).await;
    server.clock.advance(TimeDelta::days(400));
    assert_eq!(preview(&server).await, [""; 0]);
    keep(&server, json!({ "keep": 7, "keep_days": 30 })).await;
    server.restart_with(|_| {}).await;
    let said = json!({ "keep": 7, "keep_days": 30, "action": "delete" });
    assert_eq!(get(&server, "/retention").await, said);
    for bad in [
        json!({ "keep": 0 }),
        json!({ "keep": -1 }),
        json!({ "keep": "7" }),
        json!({ "keep": 1.5 }),
        json!({ "keep": 5_000_000_000_u64 }),
        json!({ "keep_days": -1 }),
        json!({ "keep_days": null }),
        json!({ "keep": 7, "action": "purge" }),
        json!({ "keep": 7, "action": null }),
        json!({ "keep": 7, "apps": ["web"] }),
        json!([7, 30]),
    ] {
        let answer = server.call(Method::PUT, "/retention", &server.admin, Some(bad.clone())).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert_eq!(get(&server, "/retention").await, said);
    keep(&server, json!({})).await;
    assert_eq!(get(&server, "/retention").await, first, "an empty one keeps everything again");
    let log = get(&server, "/audit?action=retention.set&outcome=done").await;
    assert_eq!(items(&log).len(), 2, "{log}");
}

async fn a_run_deletes_what_the_preview_shows(db: TestDatabase) {
    let server = by_hand(db).await;
    push_all(&server, 1..=9).await;
    for version in ["v1", "v2", "v3"] {
        push(&server, "other/app", version).await;
        server.clock.advance(TimeDelta::minutes(1));
    }
    push(&server, "shop/api", "v1").await;
    server.clock.advance(TimeDelta::hours(2));
    keep(&server, json!({ "keep": 2 })).await;
    let mut expected = web(&[1, 2, 3, 4, 5, 6, 7]);
    expected.insert(0, "other/app/v1".to_owned());
    assert_eq!(preview(&server).await, expected);
    // Another number can be tried.
    let tried = get(&server, "/retention/preview?keep=8&limit=500").await;
    assert_eq!((items(&tried).len(), &items(&tried)[0]["version"]), (1, &json!("v1")), "{tried}");
    for bad in ["keep=0", "keep=x", "limit=0", "limit=501", "cursor=*"] {
        let answer = server.get(&format!("/retention/preview?{bad}"), &server.admin).await;
        answer.refused(400, "invalid_request");
    }
    // To look changes nothing.
    assert_eq!(versions(&server, "shop/web", "deleted").await, [""; 0]);
    run(&server, "retention").await;
    let mut deleted = versions(&server, "other/app", "deleted").await;
    deleted.extend(versions(&server, "shop/web", "deleted").await);
    assert_eq!(deleted, expected);
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[8, 9]));
    assert_eq!(versions(&server, "shop/api", "published").await, ["shop/api/v1"]);
    assert_eq!(preview(&server).await, [""; 0]);
    // Everybody can see that it was retention, and each can come back.
    let log = get(&server, "/audit?action=version.delete&outcome=done&limit=500").await;
    assert_eq!(items(&log).len(), expected.len(), "{log}");
    assert!(items(&log).iter().all(|row| row["actor"] == "retention"), "{log}");
    done(call(&server, Method::POST, &format!("{APP}/versions/v7/restore")).await);
    run(&server, "garbage").await;
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[7, 8, 9]));
}

async fn what_a_run_archives_is_kept_until_somebody_deletes_it(db: TestDatabase) {
    let server = by_hand(db).await;
    reschedule(&server, "garbage", json!({ "cron": "0 0 1 1 *" })).await.expect(200);
    push_all(&server, 1..=5).await;
    promote(&server, "v1").await;
    done(call(&server, Method::DELETE, &format!("{APP}/versions/v2")).await);
    server.clock.advance(TimeDelta::hours(2));
    keep(&server, json!({ "keep": 1, "action": "archive" })).await;
    let page = get(&server, "/retention/preview").await;
    assert_eq!(page["retention"], json!({ "keep": 1, "keep_days": 0, "action": "archive" }));
    assert_eq!(preview(&server).await, web(&[3, 4]));
    let job = run(&server, "retention").await;
    assert_eq!(job["result"], json!({ "deleted": 0, "archived": 2, "skipped": 0 }));
    assert_eq!(versions(&server, "shop/web", "archived").await, web(&[3, 4]));
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[1, 5]));
    assert_eq!(preview(&server).await, [""; 0]);
    let log = get(&server, "/audit?action=version.archive&outcome=done").await;
    assert_eq!(items(&log).len(), 2, "{log}");
    for row in items(&log) {
        let why = json!({ "reason": "not among the newest 1" });
        assert_eq!((&row["actor"], &row["detail"]), (&json!("retention"), &why), "{log}");
    }

    // Long after what was deleted has let go of its bytes, and whatever the rule says then.
    server.clock.advance(TimeDelta::days(200));
    keep(&server, json!({ "keep": 1 })).await;
    run(&server, "retention").await;
    run(&server, "garbage").await;
    server.clock.advance(TimeDelta::days(2));
    run(&server, "garbage").await;
    assert_eq!(versions(&server, "shop/web", "purged").await, web(&[2]));
    assert_eq!(versions(&server, "shop/web", "archived").await, web(&[3, 4]));
    done(call(&server, Method::POST, &format!("{APP}/versions/v3/restore")).await);
    let content = server.get("/file/shop/web/v3?path=a", &server.admin).await.expect(200);
    assert_eq!(content.text(), "v3 of shop/web");

    // Deleted by hand, it goes like any other.
    done(call(&server, Method::DELETE, &format!("{APP}/versions/v4")).await);
    server.clock.advance(TimeDelta::days(8));
    run(&server, "garbage").await;
    assert_eq!(versions(&server, "shop/web", "purged").await, web(&[2, 4]));
}

async fn what_something_relies_on_stays_until_nothing_does(db: TestDatabase) {
    let server = by_hand(db).await;
    push_all(&server, 1..=10).await;
    promote(&server, "v1").await;
    promote(&server, "v2").await;
    report(&server, "host-1", "v8").await;
    report(&server, "host-1", "v3").await;
    mark(&server, "v4", json!({ "pinned": true })).await;
    mark(&server, "v5", json!({ "legal_hold": true })).await;
    for pinned in [true, false] {
        mark(&server, "v9", json!({ "pinned": pinned })).await;
    }
    let base = get(&server, &format!("{APP}/versions/v6")).await;
    let upload = open_upload_on(&server, &base).await;
    done(call(&server, Method::POST, &format!("{APP}/versions/v7/quarantine")).await);
    server.clock.advance(TimeDelta::hours(2));
    push_all(&server, 11..=12).await;
    keep(&server, json!({ "keep": 1 })).await;

    // 1 was in the channel before, 2 is in it; 3 runs on a host; 4, 5, 6, 7: as above; 11 has just been pushed.
    assert_eq!(preview(&server).await, web(&[8, 9, 10]));
    run(&server, "retention").await;
    assert_eq!(versions(&server, "shop/web", "deleted").await, web(&[8, 9, 10]));
    call(&server, Method::DELETE, &format!("{APP}/versions/v5")).await.refused(409, "in_use");
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[1, 2, 3, 4, 5, 6, 11, 12]));

    // Then nothing relies on them any more.
    promote(&server, "v12").await;
    report(&server, "host-1", "v12").await;
    mark(&server, "v4", json!({ "pinned": false })).await;
    mark(&server, "v5", json!({ "legal_hold": false })).await;
    done(call(&server, Method::DELETE, &format!("/upload/{upload}")).await);
    server.clock.advance(TimeDelta::hours(1));
    // 2 is what the channel pointed to before.
    assert_eq!(preview(&server).await, web(&[1, 3, 4, 5, 6, 11]));
    run(&server, "retention").await;
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[2, 12]));
    assert_eq!(versions(&server, "shop/web", "quarantined").await, web(&[7]));
    // It isn't counted among the newest either.
    push_all(&server, 13..=14).await;
    done(call(&server, Method::POST, &format!("{APP}/versions/v14/quarantine")).await);
    server.clock.advance(TimeDelta::hours(2));
    assert_eq!(preview(&server).await, [""; 0], "v13 is the newest; v2 and v12 are the channel's");
}

async fn versions_have_their_days(db: TestDatabase) {
    let server = by_hand(db).await;
    push_all(&server, 1..=3).await;
    server.clock.advance(TimeDelta::days(29));
    push_all(&server, 4..=5).await;
    keep(&server, json!({ "keep": 1, "keep_days": 30 })).await;
    assert_eq!(preview(&server).await, [""; 0]);
    run(&server, "retention").await;
    assert_eq!(versions(&server, "shop/web", "deleted").await, [""; 0]);
    server.clock.advance(TimeDelta::days(1));
    assert_eq!(preview(&server).await, web(&[1, 2, 3]));
    server.clock.advance(TimeDelta::days(30));
    assert_eq!(preview(&server).await, web(&[1, 2, 3, 4]));
}

async fn a_night_without_a_server_is_caught_up(db: TestDatabase) {
    let mut server = shop(db).await;
    reschedule(&server, "retention", json!({ "cron": "0 4 * * *" })).await.expect(200);
    push_all(&server, 1..=4).await;
    keep(&server, json!({ "keep": 1 })).await;
    let clock = server.clock.clone();
    server.restart_with(|_| clock.advance(TimeDelta::hours(30))).await;
    until("the run that was missed", async || {
        (versions(&server, "shop/web", "deleted").await == web(&[1, 2, 3])).then_some(())
    })
    .await;
    assert_eq!(versions(&server, "shop/web", "published").await, web(&[4]));
}

on_both_databases! {
    the_rule_is_what_was_said_last,
    a_run_deletes_what_the_preview_shows,
    what_a_run_archives_is_kept_until_somebody_deletes_it,
    what_something_relies_on_stays_until_nothing_does,
    versions_have_their_days,
    a_night_without_a_server_is_caught_up,
}
