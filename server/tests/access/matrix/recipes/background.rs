//! How webhooks, retention, jobs, schedules and batch queries are called.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::job::Job;
use kkartifact_store::NewJob;
use kkartifact_testkit::TestServer;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::principals::{Credential, as_admin, fresh, make, text};
use super::Cell;

/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// The request of a cell.
pub(super) async fn request(cell: &Cell<'_>) -> RequestBuilder {
    match cell.route.name.as_str() {
        "webhook.create" => cell.call(&[]).json(&new_webhook(cell)),
        "webhook.list" => cell.call(&[]),
        "retention.set" => cell.call(&[]).json(&json!({ "keep_days": 0 })),
        "job.get" | "job.retry" | "job.cancel" => of_job(cell).await,
        "schedule.get" | "schedule.update" | "schedule.run" => of_schedule(cell).await,
        "batch.versions" => {
            let (project, app) = cell.place();
            cell.call(&[]).json(&json!({ "apps": [{ "project": project, "app": app }] }))
        }
        "batch.result" => batch_result(cell).await,
        name if name.starts_with("webhook.") || name.starts_with("delivery.") => of_webhook(cell).await,
        _ => cell.call(&[]),
    }
}

/// A webhook for the target. It hears of nothing that happens in these tests.
fn new_webhook(cell: &Cell<'_>) -> Value {
    let url = cell.stage.receiver.url("/hook");
    json!({ "name": fresh("hook"), "url": url, "events": ["webhook_disabled"], "scope": cell.scope() })
}

/// What names a webhook, and perhaps a delivery of it.
async fn of_webhook(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let webhook = text(&make(server, "/webhooks", new_webhook(cell)).await["id"]);
    let needs_delivery = cell.route.path.contains("{delivery}");
    let delivery = if needs_delivery { delivered(server, &webhook).await } else { String::new() };
    let request = cell.call(&[("webhook", &webhook), ("delivery", &delivery)]);
    match cell.route.name.as_str() {
        "webhook.update" => request.json(&json!({ "name": fresh("hook") })),
        "webhook.rotate" => request.json(&json!({})),
        "webhook.replay" => request.json(&json!({ "since": server.clock.now() - TimeDelta::hours(1) })),
        _ => request,
    }
}

/// Delivers a test call of a webhook; the delivery's id.
async fn delivered(server: &TestServer, webhook: &str) -> String {
    as_admin(server, Method::POST, &format!("/webhooks/{webhook}/test"), None).await;
    loop {
        let path = format!("/webhooks/{webhook}/deliveries?state=delivered");
        let page = as_admin(server, Method::GET, &path, None).await.json();
        if let Some(delivery) = page["items"].as_array().unwrap().first() {
            return text(&delivery["id"]);
        }
        sleep(PAUSE).await;
    }
}

/// What names a job: one whose time is far away.
async fn of_job(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let (job, now) = (Job::SweepUploads {}, server.clock.now());
    let mut tx = server.resources().db.begin().await.unwrap();
    let (project, app) = cell.place();
    let app = tx.find_app(&project.parse().unwrap(), &app.parse().unwrap()).await.unwrap().unwrap();
    let mut new = NewJob::new(&job, now + TimeDelta::days(3650));
    if cell.target != "all" {
        (new.project, new.app) = (Some(app.project_id), Some(app.id));
    }
    let id = tx.insert_job(&new, now).await.unwrap().unwrap().0.to_string();
    tx.commit().await.unwrap();
    if cell.route.name == "job.retry" {
        as_admin(server, Method::POST, &format!("/jobs/{id}/cancel"), None).await;
    }
    cell.call(&[("job", &id)])
}

/// What names a schedule: whichever is the first one.
async fn of_schedule(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let listed = as_admin(server, Method::GET, "/schedules", None).await.json();
    let schedules = listed.as_array().or_else(|| listed["items"].as_array()).unwrap();
    let name = text(&schedules[0]["name"]);
    // A job of it that still waits would do for the next one too.
    while something_is_due(server).await {
        sleep(PAUSE).await;
    }
    let request = cell.call(&[("schedule", &name)]);
    if cell.route.name == "schedule.update" { request.json(&json!({ "enabled": true })) } else { request }
}

async fn something_is_due(server: &TestServer) -> bool {
    let page = as_admin(server, Method::GET, "/jobs?state=queued&limit=500", None).await.json();
    let now = server.clock.now();
    page["items"].as_array().unwrap().iter().any(|job| {
        let run_at: DateTime<Utc> = job["run_at"].as_str().unwrap().parse().unwrap();
        run_at <= now
    })
}

/// What names the job of a batch query that has been answered: the caller's own where they can ask, else the admin's.
async fn batch_result(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let (caller, admin) = (&cell.caller.credential, cell.admin());
    let own = if cell.target == "own" { ask(server, caller).await } else { None };
    let (job, maker) = match own {
        Some(job) => (job, caller),
        None => (ask(server, &admin).await.unwrap(), &admin),
    };
    let path = format!("/batch/{job}");
    while server.send(maker.request(server, Method::GET, &path)).await.status == 409 {
        sleep(PAUSE).await;
    }
    cell.call(&[("job", &job)])
}

/// Asks for more apps than are answered at once; the job that answers.
async fn ask(server: &TestServer, credential: &Credential) -> Option<String> {
    let apps: Vec<_> = (0..501).map(|i| json!({ "project": "nix", "app": format!("a{i}") })).collect();
    let request = credential.request(server, Method::POST, "/batch/versions");
    let answer = server.send(request.json(&json!({ "apps": apps }))).await;
    (answer.status == 202).then(|| answer.json()["job_id"].to_string())
}
