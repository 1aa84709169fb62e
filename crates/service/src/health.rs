//! Health and metrics: routes that every service has.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use crate::error::ApiResult;
use crate::http::extract::Json;
use crate::resources::Resources;
use crate::routes::{Routes, Service};

/// How far a process is able to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Degraded,
    Fail,
}

#[derive(Serialize)]
struct Health {
    status: Status,
    timestamp: String,
    version: &'static str,
    service: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// Below this part of the disk free, storage is degraded.
const LOW: u64 = 20;

/// The routes.
pub fn router(resources: &Resources) -> ApiResult<axum::Router> {
    Routes::new(Service::Every, resources)?
        .on("health.live", live)
        .on("health.ready", ready)
        .on("metrics", metrics)
        .finish()
}

fn health(resources: &Resources, status: Status, checks: Vec<Check>) -> Health {
    let timestamp = resources.clock.now().to_rfc3339();
    Health { status, timestamp, version: env!("CARGO_PKG_VERSION"), service: "kkartifact", checks }
}

async fn live(State(resources): State<Resources>) -> Json<impl Serialize> {
    Json(health(&resources, Status::Ok, Vec::new()))
}

async fn ready(State(resources): State<Resources>) -> Response {
    let checks = vec![database(&resources).await, storage(&resources).await];
    let worst = if checks.iter().any(|check| check.status == Status::Fail) {
        Status::Fail
    } else if checks.iter().any(|check| check.status == Status::Degraded) {
        Status::Degraded
    } else {
        Status::Ok
    };
    let code = if worst == Status::Fail { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(health(&resources, worst, checks))).into_response()
}

async fn database(resources: &Resources) -> Check {
    let answer = async {
        let mut tx = resources.db.read().await?;
        tx.ping().await
    };
    match answer.await {
        Ok(()) => Check { name: "database", status: Status::Ok, message: None },
        Err(error) => {
            tracing::warn!(%error, "the database is not ready");
            Check { name: "database", status: Status::Fail, message: Some("it does not answer") }
        }
    }
}

async fn storage(resources: &Resources) -> Check {
    let (status, message) = match resources.blob.capacity().await {
        Ok(space) if space.free <= resources.config.storage.reserve.0 => {
            (Status::Degraded, Some("it is full: pulls work, pushes don't"))
        }
        Ok(space) if space.free < space.total / LOW => (Status::Degraded, Some("it is nearly full")),
        Ok(_) => (Status::Ok, None),
        Err(error) => {
            tracing::warn!(%error, "storage is not ready");
            (Status::Fail, Some("it does not answer"))
        }
    };
    Check { name: "storage", status, message }
}

async fn metrics(State(resources): State<Resources>) -> Response {
    ([(http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], resources.metrics.render()).into_response()
}
