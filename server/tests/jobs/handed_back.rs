//! A server that is told to stop hands back what it has in hand: no failure is counted, and the next one does it.

use std::net::TcpStream;
use std::path::Path;

use chrono::DateTime;
use kkartifact_model::api::job::{JobInfo, JobState};
use kkartifact_store::{Database, DatabaseConfig, JobId, Tx};
use kkartifact_testkit::process::{Programs, ServerProcess};
use kkartifact_testkit::{Behaviour, Receiver, TestDatabase, on_both_databases};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{PATIENCE, items, text, until};

/// What the server is told: it may call this machine, and waits long for an answer.
const SETTINGS: &[(&str, &str)] =
    &[("KKARTIFACT_OUTBOUND__ALLOW", "[\"127.0.0.1\"]"), ("KKARTIFACT_WEBHOOKS__TIMEOUT_SECONDS", "60")];

/// A server as a process, its first admin, and its database.
struct Process {
    server: ServerProcess,
    admin: String,
    database: Database,
    http: reqwest::Client,
    _dir: TempDir,
}

impl Process {
    async fn start(db: TestDatabase) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&db, dir.path());
        let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
        let (server, admin) =
            tokio::task::block_in_place(|| ServerProcess::start_with(&programs, dir.path(), db, SETTINGS));
        let database = Database::connect(&config).await.unwrap();
        Self { server, admin, database, http: reqwest::Client::new(), _dir: dir }
    }

    /// Calls the API as the admin.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, String) {
        let url = format!("{}/api/v1{path}", self.server.url());
        let request = self.http.request(method, url).bearer_auth(&self.admin);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The answer of a call that must succeed.
    async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, text) = self.call(method, path, body).await;
        assert!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A job as its row has it.
    async fn job(&self, id: JobId) -> JobInfo {
        let mut tx = self.database.read().await.unwrap();
        tx.find_job(id).await.unwrap().unwrap().into()
    }

    /// Makes the writes of a job wait, in the middle of its work, until the transaction is dropped. `None` if it was
    /// too late for that.
    async fn hold(&self, id: JobId) -> Option<Tx> {
        let is_over = until("the job to run", async || match self.job(id).await.state {
            JobState::Queued => None,
            state => Some(state != JobState::Running),
        });
        if is_over.await {
            return None;
        }
        let mut tx = self.database.begin().await.unwrap();
        // With SQLite it holds whatever is written, with PostgreSQL the job's row. It is never committed.
        if !tx.cancel_job(id, DateTime::UNIX_EPOCH).await.unwrap() {
            return None;
        }
        let held = JobInfo::from(tx.find_job(id).await.unwrap().unwrap());
        let answered = held.progress.map_or(0, |progress| progress["answered"].as_u64().unwrap());
        (answered < APPS).then_some(tx)
    }

    /// Tells the server to stop, and waits until it has understood.
    async fn ask_to_stop(&self) {
        self.server.ask_to_stop();
        let address = self.server.url().trim_start_matches("http://").to_owned();
        until("the server to listen no more", async || TcpStream::connect(&address).is_err().then_some(()))
            .await;
    }

    /// Waits until the server has stopped, and asserts that a job is back in the queue.
    async fn has_handed_back(&mut self, id: JobId) {
        tokio::task::block_in_place(|| self.server.wait_until_stopped());
        let job = self.job(id).await;
        assert_eq!((job.state, job.attempt, job.failures), (JobState::Queued, 1, 0), "{job:?}");
        assert_eq!(job.error, None);
    }

    /// Starts the server again, and waits until a job has been done.
    async fn finishes(&mut self, id: JobId) {
        tokio::task::block_in_place(|| self.server.restart(None));
        let job = until("the job to be done", async || {
            let job = self.job(id).await;
            (!matches!(job.state, JobState::Queued | JobState::Running)).then_some(job)
        });
        let job = job.await;
        assert_eq!((job.state, job.attempt, job.failures), (JobState::Succeeded, 2, 0), "{job:?}");
    }
}

/// How to connect to the database of the server in a directory.
fn config(db: &TestDatabase, dir: &Path) -> DatabaseConfig {
    match db.config() {
        DatabaseConfig::Sqlite { .. } => DatabaseConfig::Sqlite { path: dir.join("data/kkartifact.db") },
        postgres @ DatabaseConfig::Postgres { .. } => postgres.clone(),
    }
}

/// So many apps a question names: answered in twenty steps.
const APPS: u64 = 10_000;

async fn a_long_job_is_handed_back_between_two_steps(db: TestDatabase) {
    let mut process = Process::start(db).await;
    process.done(Method::POST, "/projects", Some(json!({ "name": "shop" }))).await;
    process.done(Method::POST, "/projects/shop/apps", Some(json!({ "name": "web" }))).await;
    let apps: Vec<_> = (0..APPS).map(|_| json!({ "project": "shop", "app": "web" })).collect();
    let question = json!({ "apps": apps, "limit": 10 });
    // One that is done before it can be held is asked again.
    let (job, held) = until("a question that is still being answered", async || {
        let queued = process.done(Method::POST, "/batch/versions", Some(question.clone())).await;
        let job = JobId(queued["job_id"].as_i64().unwrap());
        process.hold(job).await.map(|held| (job, held))
    })
    .await;
    process.ask_to_stop().await;
    drop(held);
    process.has_handed_back(job).await;
    process.finishes(job).await;
    let (status, text) = process.call(Method::GET, &format!("/batch/{}", job.0), None).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(text.lines().count() as u64, APPS);
    assert!(text.lines().all(|line| line == r#"{"project":"shop","app":"web","versions":[]}"#));
}

async fn a_call_that_hangs_is_handed_back_at_the_second_signal(db: TestDatabase) {
    let (mut process, receiver) = (Process::start(db).await, Receiver::start().await);
    receiver.on("/hook", Behaviour::hanging());
    let hook = json!({ "name": "hook", "url": receiver.url("/hook"), "events": ["push"] });
    let hook = text(&process.done(Method::POST, "/webhooks", Some(hook)).await["id"]);
    process.done(Method::POST, &format!("/webhooks/{hook}/test"), None).await;
    receiver.wait_for("/hook", 1, PATIENCE).await;
    let page = process.done(Method::GET, "/jobs?kind=deliver_webhook", None).await;
    let job = JobId(items(&page)[0]["id"].as_i64().unwrap());
    process.ask_to_stop().await;
    // It has just begun, and may take its time.
    assert!(process.server.exit_status().is_none());
    assert_eq!(process.job(job).await.state, JobState::Running);
    process.ask_to_stop().await;
    process.has_handed_back(job).await;
    receiver.on("/hook", Behaviour::status(200));
    process.finishes(job).await;
    assert_eq!(receiver.received("/hook").len(), 2);
}

on_both_databases! {
    a_long_job_is_handed_back_between_two_steps,
    a_call_that_hangs_is_handed_back_at_the_second_signal,
}
