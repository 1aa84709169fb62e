//! A row or an object that is broken stops neither collection nor retention: it is told of, the rest is done, and the
//! next run passes it again.

use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{call, done, get, items, make_apps, push, reschedule, run, text};

/// A server on which runs come only when somebody wants them, and what is deleted can be collected an hour later.
async fn by_hand(db: TestDatabase) -> TestServer {
    let server = TestServer::start_with(db, |config| {
        config.gc.grace_minutes = 60;
        config.gc.delay_minutes = 0;
    })
    .await;
    make_apps(&server).await;
    for schedule in ["retention", "garbage"] {
        reschedule(&server, schedule, json!({ "cron": "0 0 1 1 *" })).await.expect(200);
    }
    server
}

/// Gives the app shop/api a name that no app can have; its id.
async fn break_api(server: &TestServer) -> i64 {
    let mut tx = server.resources().db.read().await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"api".parse().unwrap()).await.unwrap().unwrap();
    drop(tx);
    server.execute("UPDATE app SET name = '../api' WHERE name = 'api'").await;
    app.id.0
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Deletes a version, a minute after what happened before.
async fn delete(server: &TestServer, app: &str, version: &str) {
    server.clock.advance(TimeDelta::minutes(1));
    let (project, name) = app.split_once('/').unwrap();
    let path = format!("/projects/{project}/apps/{name}/versions/{version}");
    done(call(server, Method::DELETE, &path).await);
}

/// The lines that a run has noted of what it has skipped.
fn noted(job: &Value) -> Vec<String> {
    let lines = job["log"].as_array().unwrap().iter().map(|line| text(&line["line"]));
    lines.filter(|line| line.contains(" is skipped: ")).collect()
}

async fn collection_passes_what_is_broken_in_each_run(db: TestDatabase) {
    let server = by_hand(db).await;
    push(&server, "other/app", "v1").await;
    let packs = files(&server.content_dir().join("packs"));
    assert!(!packs.is_empty());
    push(&server, "shop/api", "v1").await;
    server.make_app("third", "app").await;
    // No app has so many small packs that they would be merged.
    for (app, version) in [("shop/web", "v1"), ("shop/web", "v2"), ("third/app", "v1")] {
        push(&server, app, version).await;
    }
    // First what can't be purged: whatever follows comes behind it.
    delete(&server, "shop/api", "v1").await;
    break_api(&server).await;
    for pack in &packs {
        std::fs::remove_file(pack).unwrap();
        std::fs::write(pack, "this is no pack").unwrap();
    }
    let mut before: Option<Vec<String>> = None;
    for app in ["shop/web", "third/app"] {
        delete(&server, app, "v1").await;
        server.clock.advance(TimeDelta::hours(2));
        let job = run(&server, "garbage").await;
        let result = &job["result"];
        assert_eq!((&result["purged"], &job["failures"]), (&json!(1), &json!(0)), "{job}");
        assert!(result["removed"].as_u64() > Some(0), "{job}");
        assert!(result["freed_bytes"].as_u64() > Some(0), "{job}");
        let noted = noted(&job);
        assert_eq!(noted.iter().filter(|line| line.starts_with("version ")).count(), 1, "{noted:?}");
        assert_eq!(noted.iter().filter(|line| line.starts_with("pack ")).count(), packs.len(), "{noted:?}");
        assert_eq!(result["skipped"], noted.len(), "{job}");
        assert!(before.is_none_or(|before| before == noted), "as in the run before: {noted:?}");
        before = Some(noted);
    }
    // What is left can be read.
    let content = server.get("/file/shop/web/v2?path=a", &server.admin).await.expect(200);
    assert_eq!(content.text(), "v2 of shop/web");
}

async fn retention_passes_an_app_that_is_broken_in_each_run(db: TestDatabase) {
    let server = by_hand(db).await;
    for app in ["shop/web", "shop/api", "other/app"] {
        for version in ["v1", "v2"] {
            push(&server, app, version).await;
            server.clock.advance(TimeDelta::minutes(1));
        }
    }
    let api = break_api(&server).await;
    done(server.call(Method::PUT, "/retention", &server.admin, Some(json!({ "keep": 1 }))).await);
    for (newest, old) in [("v3", "v1"), ("v4", "v2")] {
        server.clock.advance(TimeDelta::hours(2));
        let job = run(&server, "retention").await;
        let result = &job["result"];
        // Of the apps before and behind it.
        assert_eq!((&result["deleted"], &result["skipped"]), (&json!(2), &json!(1)), "{job}");
        let noted = noted(&job);
        assert_eq!(noted.len(), 1, "{noted:?}");
        assert!(noted[0].starts_with(&format!("app {api} is skipped: ")), "{noted:?}");
        for app in ["/projects/shop/apps/web", "/projects/other/apps/app"] {
            let version = get(&server, &format!("{app}/versions/{old}")).await;
            assert_eq!(version["state"], "deleted", "{version}");
            let kept = get(&server, &format!("{app}/versions")).await;
            assert_eq!(items(&kept).len(), 1, "{kept}");
        }
        for app in ["shop/web", "other/app"] {
            push(&server, app, newest).await;
        }
    }
}

on_both_databases! {
    collection_passes_what_is_broken_in_each_run,
    retention_passes_an_app_that_is_broken_in_each_run,
}
