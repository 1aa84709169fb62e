//! What belongs to apps and projects that were deleted.

use kkartifact::verify;
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{FILE, by_hand, collect, collect_later, delete, find, packs, push};

const APP: &str = "/projects/shop/apps/web";
/// Of what two apps have.
const SHARED: u64 = 50;

/// Says something about a version of shop/web.
async fn mark(server: &TestServer, version: &str, change: Value) {
    let path = format!("{APP}/versions/{version}");
    server.call(Method::PATCH, &path, &server.admin, Some(change)).await.expect(200);
}

/// The versions that have been purged, by name.
async fn purged(server: &TestServer) -> Vec<String> {
    let path = "/audit?action=version.purge&outcome=done&limit=500";
    let log = server.get(path, &server.admin).await.expect(200).json();
    let items = log["items"].as_array().unwrap();
    assert!(items.iter().all(|row| row["actor"] == "garbage collection"), "{log}");
    let mut names: Vec<_> = items.iter().map(|row| row["version"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

async fn what_a_deleted_app_has_is_freed(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    let shared = noise(SHARED, FILE);
    for (app, version, seed) in [("shop/web", "v0", 60), ("shop/api", "v1", 61)] {
        let own = noise(seed, FILE);
        let files: [(&str, &[u8]); 2] = [("own", &own), ("shared", &shared)];
        server.push_files(app, version, &server.admin, &files).await.expect(201);
    }
    for number in 1..=4 {
        push(&server, "shop/web", &format!("v{number}"), number).await;
    }
    // In every state, and with everything that keeps a version from retention.
    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    server.post("/promote", &server.admin, promote).await.expect(200);
    mark(&server, "v2", json!({ "pinned": true })).await;
    delete(&server, &format!("{APP}/versions/v3"), 200).await;
    let archive = format!("{APP}/versions/v4/archive");
    server.call(Method::POST, &archive, &server.admin, None).await.expect(200);
    delete(&server, APP, 204).await;

    let result = collect(&server).await;
    assert_eq!((&result["purged"], &result["claimed"]), (&json!(0), &json!(0)), "{result}");
    assert!(find(&server, &noise(1, FILE)).is_some(), "its grace has just begun");
    let result = collect_later(&server).await;
    assert_eq!(result["purged"], 5, "{result}");
    assert_eq!(purged(&server).await, ["v0", "v1", "v2", "v3", "v4"]);
    let result = collect_later(&server).await;
    assert_eq!((&result["purged"], &result["skipped"]), (&json!(0), &json!(0)), "{result}");
    assert!(result["freed_bytes"].as_u64().unwrap() > 5 * FILE as u64, "{result}");
    for seed in [1, 2, 3, 4, 60] {
        assert!(find(&server, &noise(seed, FILE)).is_none(), "the bytes of {seed} are there");
    }

    // What others need of it is there.
    for (path, seed) in [("own", 61), ("shared", SHARED)] {
        let file = server.get(&format!("/file/shop/api/v1?path={path}"), &server.admin).await.expect(200);
        assert!(file.body == noise(seed, FILE), "{path}");
    }
    let report = verify::verify_all(server.resources()).await.unwrap();
    assert!(report.versions == 1 && report.problems.is_empty(), "{report:?}");
}

async fn what_a_deleted_project_has_is_freed(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    push(&server, "shop/web", "v1", 1).await;
    push(&server, "shop/api", "v2", 2).await;
    let before = packs(&server).len();
    delete(&server, "/projects/shop", 204).await;
    assert_eq!(collect(&server).await["purged"], 0);
    let result = collect_later(&server).await;
    assert_eq!((&result["purged"], &result["claimed"]), (&json!(2), &json!(before)), "{result}");
    assert_eq!(purged(&server).await, ["v1", "v2"]);
    assert_eq!(packs(&server).len(), before);
    assert_eq!(collect_later(&server).await["removed"], before);
    assert!(packs(&server).is_empty());
}

async fn a_legal_hold_keeps_its_app_and_its_project(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    for number in 1..=3 {
        push(&server, "shop/web", &format!("v{number}"), number).await;
    }
    push(&server, "shop/api", "v1", 9).await;
    // Also one that was deleted before.
    delete(&server, &format!("{APP}/versions/v1"), 200).await;
    for version in ["v1", "v3"] {
        mark(&server, version, json!({ "legal_hold": true })).await;
    }
    for (lifted, expected) in
        [(None, "2 versions"), (Some("v1"), "version v3 of app web is under legal hold")]
    {
        if let Some(version) = lifted {
            mark(&server, version, json!({ "legal_hold": false })).await;
        }
        for path in [APP, "/projects/shop"] {
            let answer = server.call(Method::DELETE, path, &server.admin, None).await;
            assert!(answer.text().contains(expected), "{path}: {}", answer.text());
            answer.refused(409, "in_use");
        }
    }
    server.get(&format!("{APP}/versions/v2"), &server.admin).await.expect(200);
    delete(&server, "/projects/shop/apps/api", 204).await;
    let audited = server.get("/audit?action=app.delete&outcome=done", &server.admin).await.expect(200).json();
    assert_eq!(audited["items"].as_array().unwrap().len(), 1, "{audited}");

    mark(&server, "v3", json!({ "legal_hold": false })).await;
    for path in [APP, "/projects/shop"] {
        delete(&server, path, 204).await;
        server.call(Method::DELETE, path, &server.admin, None).await.refused(404, "not_found");
    }
}

on_both_databases! {
    what_a_deleted_app_has_is_freed,
    what_a_deleted_project_has_is_freed,
    a_legal_hold_keeps_its_app_and_its_project,
}
