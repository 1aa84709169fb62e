//! Garbage collection from outside: what becomes of deleted apps and projects, what runs count, what clocks must agree
//! about, and who reads or pushes at the same time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod clock;
mod compaction;
mod counts;
mod deleted;
mod meanwhile;

use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use kkartifact_service::Config;
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a file that is one chunk.
const FILE: usize = 50_000;

/// A server that collects garbage only when it is told to. What is deleted is purged an hour later, and its bytes are
/// removed an hour after that.
async fn by_hand(db: TestDatabase, change: impl FnOnce(&mut Config)) -> TestServer {
    let server = TestServer::start_with(db, |config| {
        config.gc.grace_minutes = 60;
        config.gc.delay_minutes = 60;
        change(config);
    })
    .await;
    let off = Some(json!({ "enabled": false }));
    server.call(Method::PATCH, "/schedules/garbage", &server.admin, off).await.expect(200);
    server
}

/// Waits until something is so.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(PAUSE).await;
    }
}

/// Collects garbage now; what its job says.
async fn collect(server: &TestServer) -> Value {
    let queued = server.call(Method::POST, "/schedules/garbage/run", &server.admin, None).await;
    let id = queued.expect(202).json()["job_id"].as_i64().unwrap();
    until("the collection", async || {
        server.resources().jobs_queued.notify_waiters();
        let job = server.get(&format!("/jobs/{id}"), &server.admin).await.expect(200).json();
        assert!(job["failures"] == 0, "{job}");
        (job["state"] == "succeeded").then(|| job["result"].clone())
    })
    .await
}

/// Collects garbage an hour later; what its job says.
async fn collect_later(server: &TestServer) -> Value {
    server.clock.advance(TimeDelta::minutes(61));
    collect(server).await
}

/// The packs in storage.
fn packs(server: &TestServer) -> Vec<PathBuf> {
    let list = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    list(server.content_dir().join("packs")).flat_map(list).collect()
}

/// The pack that has these bytes, and where in it they are.
fn find(server: &TestServer, bytes: &[u8]) -> Option<(PathBuf, usize)> {
    packs(server).into_iter().find_map(|pack| {
        let content = std::fs::read(&pack).unwrap();
        let at = content.windows(64).position(|window| window == &bytes[..64])?;
        Some((pack, at))
    })
}

/// Publishes a version with one file, whose content the seed decides.
async fn push(server: &TestServer, app: &str, version: &str, seed: u64) {
    let content = noise(seed, FILE);
    server.push_files(app, version, &server.admin, &[("own", &content)]).await.expect(201);
}

/// Deletes what a path names.
async fn delete(server: &TestServer, path: &str, status: u16) {
    server.call(Method::DELETE, path, &server.admin, None).await.expect(status);
}
