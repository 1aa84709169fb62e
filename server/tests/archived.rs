//! Versions that are archived: out of use, whole, and back whenever somebody wants them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

const APP: &str = "/projects/shop/apps/web";

/// A server with versions `v1`, `v2` and so on of shop/web, a second apart.
async fn with_versions(db: TestDatabase, count: usize) -> TestServer {
    let server = TestServer::start(db).await;
    for number in 1..=count {
        push(&server, &format!("v{number}")).await.expect(201);
        server.clock.advance(TimeDelta::seconds(1));
    }
    server
}

/// Pushes a version of shop/web, whose content is its name.
async fn push(server: &TestServer, version: &str) -> Answer {
    server.push_files("shop/web", version, &server.admin, &[("a", version.as_bytes())]).await
}

/// Does something with a version as the admin: `POST …/versions/v1/archive`.
async fn act(server: &TestServer, version: &str, what: &str) -> Answer {
    server.call(Method::POST, &format!("{APP}/versions/{version}/{what}"), &server.admin, None).await
}

async fn delete(server: &TestServer, version: &str) -> Answer {
    server.call(Method::DELETE, &format!("{APP}/versions/{version}"), &server.admin, None).await
}

/// Puts a version under legal hold, or lifts it.
async fn hold(server: &TestServer, version: &str, held: bool) {
    let path = format!("{APP}/versions/{version}");
    let change = json!({ "legal_hold": held });
    server.call(Method::PATCH, &path, &server.admin, Some(change)).await.expect(200);
}

/// The versions of a list with their states, newest first.
async fn listed(server: &TestServer, query: &str) -> Value {
    let page = server.get(&format!("{APP}/versions{query}"), &server.admin).await.expect(200).json();
    page["items"].as_array().unwrap().iter().map(|one| json!([one["version"], one["state"]])).collect()
}

/// What has happened to shop/web, after the versions were pushed.
async fn happened(server: &TestServer) -> Vec<String> {
    let mut tx = server.resources().db.read().await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let events = tx.events_after(app.id, 0, 100).await.unwrap();
    events.into_iter().map(|event| event.kind).filter(|kind| kind != "push").collect()
}

async fn an_archived_version_is_seen_and_not_used_until_it_is_restored(db: TestDatabase) {
    let server = with_versions(db, 2).await;
    // The newest one: what is asked for as such is another one then.
    for _ in 0..2 {
        let archived = act(&server, "v2", "archive").await.expect(200).json();
        assert_eq!(archived["state"], "archived", "{archived}");
        assert_eq!(archived.get("deleted_at"), None, "{archived}");
    }
    assert_eq!(happened(&server).await, ["archive"], "the second time nothing happens");
    assert_eq!(listed(&server, "").await, json!([["v1", "published"]]));
    assert_eq!(listed(&server, "?deleted=true").await, json!([["v2", "archived"]]));
    assert_eq!(server.get("/file/shop/web/@latest?path=a", &server.admin).await.expect(200).text(), "v1");
    let batch = json!({ "apps": [{ "project": "shop", "app": "web" }], "limit": 10 });
    let found = server.post("/batch/versions", &server.admin, batch).await.expect(200).json();
    let versions = found["items"][0]["versions"].as_array().unwrap();
    assert!(versions.len() == 1 && versions[0]["version"] == "v1", "{found}");

    let refused = server.get("/file/shop/web/v2?path=a", &server.admin).await;
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("archived") && message.contains("restore"), "{message}");
    refused.refused(410, "version_archived");
    let to = json!({ "project": "shop", "app": "web", "version": "v2" });
    server.post("/promote", &server.admin, to).await.refused(410, "version_archived");
    for what in ["quarantine", "release"] {
        act(&server, "v2", what).await.refused(410, "version_archived");
    }
    let other: [(&str, &[u8]); 1] = [("a", b"other")];
    server.push_files("shop/web", "v2", &server.admin, &other).await.refused(409, "version_exists");

    // However late.
    server.clock.advance(TimeDelta::days(300));
    let back = act(&server, "v2", "restore").await.expect(200).json();
    assert_eq!(back["state"], "published", "{back}");
    assert_eq!(server.get("/file/shop/web/@latest?path=a", &server.admin).await.expect(200).text(), "v2");
    assert_eq!(listed(&server, "?deleted=true").await, json!([]));
    assert_eq!(happened(&server).await, ["archive", "restore"]);
}

async fn what_may_not_be_deleted_is_not_archived(db: TestDatabase) {
    let server = with_versions(db, 3).await;
    let to = json!({ "project": "shop", "app": "web", "version": "v1" });
    server.post("/promote", &server.admin, to).await.expect(200);
    hold(&server, "v2", true).await;
    delete(&server, "v3").await.expect(200);
    for version in ["v1", "v2"] {
        act(&server, version, "archive").await.refused(409, "in_use");
    }
    act(&server, "v3", "archive").await.refused(410, "version_deleted");
    act(&server, "v9", "archive").await.refused(404, "not_found");
    let pusher = server.token(&["push"], "shop/web").await;
    let path = format!("{APP}/versions/v1/archive");
    server.call(Method::POST, &path, &pusher, None).await.refused(403, "forbidden");
    assert_eq!(listed(&server, "").await, json!([["v2", "published"], ["v1", "published"]]));
    assert_eq!(listed(&server, "?deleted=true").await, json!([["v3", "deleted"]]));
    assert_eq!(happened(&server).await, ["promote", "delete"]);

    hold(&server, "v2", false).await;
    act(&server, "v2", "archive").await.expect(200);
}

async fn an_archived_version_is_deleted_like_any_other(db: TestDatabase) {
    let server = with_versions(db, 1).await;
    act(&server, "v1", "quarantine").await.expect(200);
    act(&server, "v1", "archive").await.expect(200);
    hold(&server, "v1", true).await;
    delete(&server, "v1").await.refused(409, "in_use");
    hold(&server, "v1", false).await;
    server.clock.advance(TimeDelta::hours(1));
    let deleted = delete(&server, "v1").await.expect(200).json();
    let at: DateTime<Utc> = deleted["deleted_at"].as_str().unwrap().parse().unwrap();
    assert_eq!((&deleted["state"], at), (&json!("deleted"), server.clock.now()));
    server.get("/file/shop/web/v1?path=a", &server.admin).await.refused(410, "version_deleted");
    // It is again what it was before all this.
    let back = act(&server, "v1", "restore").await.expect(200).json();
    assert_eq!(back["state"], "quarantined", "{back}");
    assert_eq!(happened(&server).await, ["quarantine", "archive", "delete", "restore"]);
}

async fn pushing_the_same_content_brings_an_archived_version_back(db: TestDatabase) {
    let server = with_versions(db, 1).await;
    act(&server, "v1", "archive").await.expect(200);
    let back = push(&server, "v1").await.expect(200).json();
    assert_eq!(back["state"], "published", "{back}");
    act(&server, "v1", "archive").await.expect(200);
    // Already `init` brings it back, if it knows the content.
    let init =
        json!({ "project": "shop", "app": "web", "version": "v1", "tree_digest": back["tree_digest"] });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(200).json();
    assert_eq!(opened["version"]["state"], "published", "{opened}");
    assert_eq!(happened(&server).await, ["archive", "restore", "archive", "restore"]);
}

/// What the newest marker of a version says in storage.
fn marker(server: &TestServer, version: &str) -> String {
    let newest = fs::read_dir(server.content_dir().join("versions/shop/web")).unwrap().filter_map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name()?.to_str()?.to_owned();
        let revision: u64 = name.strip_prefix(version)?.strip_prefix('.')?.parse().ok()?;
        Some((revision, path))
    });
    fs::read_to_string(newest.max().unwrap().1).unwrap()
}

async fn storage_says_that_a_version_is_archived(db: TestDatabase) {
    let server = with_versions(db, 1).await;
    for (what, state) in [("archive", "archived"), ("restore", "published")] {
        act(&server, "v1", what).await.expect(200);
        server.settle().await;
        let marker = marker(&server, "v1");
        assert!(marker.contains(state), "{marker}");
    }
    act(&server, "v1", "archive").await.expect(200);
    delete(&server, "v1").await.expect(200);
    server.settle().await;
    let marker = marker(&server, "v1");
    assert!(marker.contains("deleted"), "{marker}");
}

on_both_databases! {
    an_archived_version_is_seen_and_not_used_until_it_is_restored,
    what_may_not_be_deleted_is_not_archived,
    an_archived_version_is_deleted_like_any_other,
    pushing_the_same_content_brings_an_archived_version_back,
    storage_says_that_a_version_is_archived,
}
