//! Background work as callers see it: jobs and their stream, schedules, batch queries, retention.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actions;
mod api;
mod bad_rows;
mod batch;
mod declared;
mod handed_back;
mod large_batch;
mod next_times;
mod retention;
mod schedules;
mod stream;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::job::Job;
use kkartifact_store::{NewJob, PrincipalId};
use kkartifact_testkit::{Answer, TestDatabase, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(10);

/// The text that an answer has in this place.
#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The time that an answer has in this place.
#[track_caller]
fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// The items of a page.
#[track_caller]
fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().unwrap()
}

/// The answer, if what was asked for was done.
#[track_caller]
fn done(answer: Answer) -> Answer {
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    answer
}

/// A server with the apps shop/web, shop/api and other/app.
async fn shop(db: TestDatabase) -> TestServer {
    let server = TestServer::start(db).await;
    make_apps(&server).await;
    server
}

async fn make_apps(server: &TestServer) {
    server.make_app("shop", "web").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.make_app("other", "app").await;
}

/// Publishes a version of an app; what the server says of it.
async fn push(server: &TestServer, app: &str, version: &str) -> Value {
    let content = format!("{version} of {app}");
    server.push_files(app, version, &server.admin, &[("a", content.as_bytes())]).await.expect(201).json()
}

/// Points the channel `stable` of shop/web to a version.
async fn promote(server: &TestServer, version: &str) {
    let body = json!({ "project": "shop", "app": "web", "version": version });
    server.post("/promote", &server.admin, body).await.expect(200);
}

/// `GET` as the admin.
async fn get(server: &TestServer, path: &str) -> Value {
    server.get(path, &server.admin).await.expect(200).json()
}

/// Calls without a body as the admin.
async fn call(server: &TestServer, method: Method, path: &str) -> Answer {
    server.call(method, path, &server.admin, None).await
}

/// Queues a job of an app (`shop/web`), or of no project, as a change would.
async fn queue(
    server: &TestServer,
    job: &Job,
    app: Option<&str>,
    by: Option<PrincipalId>,
    run_at: DateTime<Utc>,
) -> i64 {
    let mut tx = server.resources().db.begin().await.unwrap();
    let mut new = NewJob::new(job, run_at);
    new.principal = by;
    if let Some((project, name)) = app.and_then(|app| app.split_once('/')) {
        let found = tx.find_app(&project.parse().unwrap(), &name.parse().unwrap()).await.unwrap().unwrap();
        (new.project, new.app) = (Some(found.project_id), Some(found.id));
    }
    let id = tx.insert_job(&new, server.clock.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    id.0
}

/// Queues a job whose time is far away.
async fn queue_for_later(server: &TestServer, app: Option<&str>) -> i64 {
    let later = server.clock.now() + TimeDelta::days(3650);
    queue(server, &Job::SweepUploads {}, app, None, later).await
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

/// Waits until a job is in a state; what the server says of it.
async fn job_is(server: &TestServer, id: i64, state: &str) -> Value {
    until(&format!("job {id} to be {state}"), async || {
        // What has become due needn't wait for the next look at the table.
        server.resources().jobs_queued.notify_waiters();
        let job = get(server, &format!("/jobs/{id}")).await;
        (job["state"] == state).then_some(job)
    })
    .await
}

/// Waits until so many jobs of a project (`project=shop`) have succeeded; they, newest first.
async fn succeeded(server: &TestServer, query: &str, count: usize) -> Vec<Value> {
    let path = format!("/jobs?limit=500&state=succeeded&{query}");
    until(&format!("{count} jobs of {query}"), async || {
        let page = get(server, &path).await;
        (items(&page).len() >= count).then(|| items(&page).clone())
    })
    .await
}

/// Ids of jobs.
fn ids(jobs: &[Value]) -> Vec<i64> {
    jobs.iter().map(|job| job["id"].as_i64().unwrap()).collect()
}

/// Does now what a schedule does at its time; the job, once it has succeeded.
async fn run(server: &TestServer, schedule: &str) -> Value {
    let queued = done(call(server, Method::POST, &format!("/schedules/{schedule}/run")).await).json();
    job_is(server, queued["job_id"].as_i64().unwrap(), "succeeded").await
}

/// Changes a schedule.
async fn reschedule(server: &TestServer, schedule: &str, change: Value) -> Answer {
    server.call(Method::PATCH, &format!("/schedules/{schedule}"), &server.admin, Some(change)).await
}
