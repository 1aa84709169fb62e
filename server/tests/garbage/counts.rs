//! A collection that is killed has counted what it did.

use std::path::PathBuf;
use std::time::Instant;

use kkartifact_testkit::process::{AgentProcess, Programs, ServerProcess};
use kkartifact_testkit::tree::{noise, write};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::{FILE, PATIENCE, PAUSE};

const SETTINGS: &[(&str, &str)] = &[
    // What is deleted is gone with the next run.
    ("KKARTIFACT_GC__GRACE_MINUTES", "0"),
    ("KKARTIFACT_GC__DELAY_MINUTES", "0"),
    // On PostgreSQL, what a killed server was doing waits for so long.
    ("KKARTIFACT_JOBS__LEASE_SECONDS", "2"),
];
/// Where a collection has done something, of which more is to do.
const PLACES: [&str; 4] = ["gc.purged", "gc.claimed", "gc.object-removed", "gc.row-removed"];
/// How many versions are collected at a time.
const VERSIONS: u64 = 3;

struct World {
    server: ServerProcess,
    agent: AgentProcess,
    token: String,
    http: Client,
    handle: Handle,
    dir: TempDir,
}

impl World {
    fn new(database: TestDatabase, handle: Handle) -> Self {
        let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
        let dir = tempfile::tempdir().unwrap();
        let (server, token) =
            ServerProcess::start_with(&programs, &dir.path().join("server"), database, SETTINGS);
        let agent = AgentProcess::new(&programs, &dir.path().join("home"), &server.url(), &token);
        // No connection outlives the server that it leads to.
        let http = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { server, agent, token, http, handle, dir }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.server.url())).bearer_auth(&self.token)
    }

    fn call(&self, request: RequestBuilder) -> Value {
        self.handle.block_on(async {
            let answer = request.send().await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.status());
            answer.json().await.unwrap()
        })
    }

    /// How many packs are in storage, and their bytes.
    fn stored(&self) -> (u64, u64) {
        let list = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let parts = list(self.dir.path().join("server/data/content/packs"));
        let sizes = parts.flat_map(list).map(|pack| std::fs::metadata(pack).unwrap().len());
        sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }

    /// Publishes versions and deletes them.
    fn litter(&self, name: &str, seed: u64) {
        for i in 0..VERSIONS {
            let (version, build) = (format!("{name}-{i}"), self.dir.path().join(format!("{name}-{i}")));
            write(&build, "file", &noise(seed + i, FILE));
            self.agent.ok(&["push", "--path", build.to_str().unwrap(), "--version", &version]);
            let path = format!("/projects/shop/apps/web/versions/{version}");
            self.call(self.request(Method::DELETE, &path));
        }
    }

    /// What the last collection says when it has succeeded.
    fn result(&self) -> Value {
        let schedule = self.call(self.request(Method::GET, "/schedules/garbage"));
        let path = format!("/jobs/{}", schedule["last_job_id"]);
        let started = Instant::now();
        loop {
            let job = self.call(self.request(Method::GET, &path));
            if job["state"] == "succeeded" {
                return job["result"].clone();
            }
            assert!(started.elapsed() < PATIENCE, "waited too long for {job}");
            self.handle.block_on(tokio::time::sleep(PAUSE));
        }
    }
}

async fn what_a_killed_collection_did_is_counted(db: TestDatabase) {
    let handle = Handle::current();
    let work = move || {
        let mut world = World::new(db, handle);
        let off = json!({ "enabled": false });
        world.call(world.request(Method::PATCH, "/schedules/garbage").json(&off));
        for (seed, place) in (0..).step_by(10).zip(PLACES) {
            world.litter(place, seed);
            let (packs, bytes) = world.stored();
            assert!(packs >= VERSIONS, "{packs}");
            world.server.stop();
            world.server.restart(Some(place));
            // It may die before it answers.
            let run = world.request(Method::POST, "/schedules/garbage/run");
            drop(world.handle.block_on(run.send()));
            world.server.wait_until_killed();
            world.server.restart(None);
            let result = world.result();
            let expected = json!({
                "purged": VERSIONS, "claimed": packs, "refused_by_pin": 0, "compacted": 0, "removed": packs,
                "freed_bytes": bytes, "skipped": 0,
            });
            assert_eq!(result, expected, "{place}");
            assert_eq!(world.stored(), (0, 0), "{place}");
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

on_both_databases! {
    what_a_killed_collection_did_is_counted,
}
