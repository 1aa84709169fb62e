//! Background work: what has to happen after a commit, whatever becomes of the process that made it.
//!
//! The job table is the truth. A worker claims a due job under a lease, does it, and writes the outcome only if
//! the claim is still its own.

mod marker;
mod status;
mod sweep;
mod upkeep;
mod worker;

use axum::Router;
use kkartifact_service::{ApiResult, Resources, Routes, Service, Shutdown};

/// Works until it is time to stop.
pub async fn run(resources: Resources, shutdown: Shutdown) {
    tokio::join!(worker::run(resources.clone(), shutdown.clone()), upkeep::run(resources, shutdown));
}

/// The service's routes.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    Routes::new(Service::Jobs, resources)?.on("job.summary", status::summary).finish()
}
