//! What all workers share: the server's address, what has been pushed, what was counted, and how to wait.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kkartifact_testkit::process::{AgentProcess, Programs};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::builds::{APPS, Scale, noise_of};
use crate::model::{Model, Version};
use crate::storage::Storage;
use crate::tally::Tally;

/// How long anything may take before the test fails, with kills and restarts in between.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(10);
/// How much of the server's log is shown when something fails.
const LINES: usize = 60;

/// What the server said, or that it has no answer in JSON.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
}

/// The world.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) scale: Scale,
    pub(crate) root: PathBuf,
    pub(crate) model: Model,
    pub(crate) storage: Storage,
    pub(crate) handle: Handle,
    /// Held by a collection, and by who needs that there is none. Fair.
    pub(crate) gate: tokio::sync::Mutex<()>,
    programs: Programs,
    url: String,
    token: String,
    http: Client,
    tally: Mutex<Tally>,
    failed: AtomicBool,
}

/// A running server, and who one is there.
pub(crate) struct Place {
    pub(crate) programs: Programs,
    pub(crate) root: PathBuf,
    pub(crate) url: String,
    pub(crate) token: String,
}

impl World {
    pub(crate) fn new(place: Place, storage: Storage, handle: &Handle, scale: Scale, seed: u64) -> Self {
        let Place { programs, root, url, token } = place;
        Self {
            seed,
            scale,
            root,
            model: Model::default(),
            storage,
            handle: handle.clone(),
            gate: tokio::sync::Mutex::default(),
            programs,
            url,
            token,
            http: Client::new(),
            tally: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// What has been counted so far, to be added to.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a worker has failed, so that nobody waits for what it would have done.
    pub(crate) fn fail(&self) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            let log = std::fs::read_to_string(self.root.join("server/log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LINES)..];
            eprintln!("the server's log ends with:\n{}", end.join("\n"));
        }
    }

    /// Waits until something is so.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(!self.failed.load(Ordering::SeqCst), "another worker failed; this one waited for {what}");
            assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
            #[expect(clippy::disallowed_methods, reason = "another process can only be polled")]
            std::thread::sleep(PAUSE);
        }
    }

    /// A number from 0 to `below`, the same for the same seed and parts.
    pub(crate) fn pick(&self, parts: &[u64], below: usize) -> usize {
        let random = noise_of(self.seed, parts) >> 16;
        usize::try_from(random % below.max(1) as u64).unwrap()
    }

    /// An agent of an app with a memory of its own.
    pub(crate) fn agent(&self, who: &str, app: usize) -> AgentProcess {
        let (project, name) = APPS[app];
        let home = self.root.join("homes").join(who);
        AgentProcess::new(&self.programs, &home, &self.url, &self.token).with_app(project, name)
    }

    /// A directory for a worker, empty.
    pub(crate) fn fresh(&self, what: &str, who: &str) -> PathBuf {
        let dir = self.root.join(what).join(who);
        remove(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Sends a request until it is answered: a server that was killed comes back. A fault of the server fails the test.
    pub(crate) fn send(&self, what: &str, request: impl Fn(&Client, &str) -> RequestBuilder) -> Answer {
        let base = format!("{}/api/v1", self.url);
        self.until(what, || {
            let request = request(&self.http, &base).bearer_auth(&self.token).timeout(PATIENCE);
            let answer = self.handle.block_on(async {
                let response = request.send().await.ok()?;
                let status = response.status().as_u16();
                Some((status, response.bytes().await.ok()?))
            });
            let (status, body) = answer?;
            let text = String::from_utf8_lossy(&body);
            assert!(status < 500 || status == 503, "{what}: {status} {text}");
            // It can't serve now, and says so.
            (status != 503)
                .then(|| Answer { status, json: serde_json::from_slice(&body).unwrap_or_default() })
        })
    }

    /// Calls the API.
    pub(crate) fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Answer {
        self.send(&format!("{method} {path}"), |http, base| {
            let request = http.request(method.clone(), format!("{base}{path}"));
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        })
    }

    /// `GET`, which must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        let Answer { status, json } = self.call(&Method::GET, path, None);
        assert_eq!(status, 200, "{path}: {json}");
        json
    }

    /// Begins a download; `None` if it can't begin now.
    pub(crate) fn download(&self, path: &str) -> Option<Response> {
        let request = self.http.get(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        let response = self.handle.block_on(request.send()).ok()?;
        (response.status() == 200).then_some(response)
    }

    /// Deletes a version. Done twice, it is still deleted.
    pub(crate) fn delete(&self, app: usize, name: &str) {
        let Answer { status, json } = self.call(&Method::DELETE, &version_path(app, name), None);
        assert_eq!(status, 200, "{name}: {json}");
        self.tally().deletes += 1;
    }

    /// Where the server says that a version is: `published`, `deleted`, `purged`.
    pub(crate) fn state_of(&self, version: &Version) -> String {
        self.get(&version_path(version.app, &version.name))["state"].as_str().unwrap().to_owned()
    }

    /// The names of the versions of an app that are there.
    pub(crate) fn listed(&self, app: usize) -> BTreeSet<String> {
        let page = self.get(&format!("{}/versions?limit=500", app_path(app)));
        assert_eq!(page["has_more"], false, "more versions than a page holds");
        let name = |item: &Value| item["version"].as_str().unwrap().to_owned();
        page["items"].as_array().unwrap().iter().map(name).collect()
    }

    /// Gives up the open uploads of an app: those of pushes that were interrupted.
    pub(crate) fn close_uploads(&self, app: usize) {
        let page = self.get(&format!("{}/uploads?limit=500", app_path(app)));
        for upload in page["items"].as_array().unwrap() {
            self.give_up(upload["upload_id"].as_str().unwrap());
        }
    }

    /// Gives an upload up.
    pub(crate) fn give_up(&self, upload: &str) {
        let Answer { status, json } = self.call(&Method::DELETE, &format!("/upload/{upload}"), None);
        // The answer to an earlier try may have got lost, or it has expired.
        assert!(status == 200 || json["error"]["code"] == "upload_closed", "{upload}: {status} {json}");
    }

    /// Sets how many versions of each app retention keeps. It is run by hand only, like the collection of garbage.
    pub(crate) fn prepare(&self, keep: u32) {
        let set = |method: &Method, path: &str, body: &Value| {
            let answer = self.call(method, path, Some(body));
            assert_eq!(answer.status, 200, "{path}: {}", answer.json);
        };
        set(&Method::PUT, "/retention", &json!({ "keep": keep }));
        for schedule in ["retention", "garbage"] {
            set(&Method::PATCH, &format!("/schedules/{schedule}"), &json!({ "enabled": false }));
        }
    }
}

/// Where the API has an app.
pub(crate) fn app_path(app: usize) -> String {
    let (project, name) = APPS[app];
    format!("/projects/{project}/apps/{name}")
}

/// Where the API has a version.
pub(crate) fn version_path(app: usize, name: &str) -> String {
    format!("{}/versions/{name}", app_path(app))
}

/// Removes a directory, if it is there.
fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", dir.display());
    }
}
