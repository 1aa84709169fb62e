//! How many jobs there are in which state.

use axum::extract::State;
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiResult, Resources};
use kkartifact_store::JobState;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Summary {
    queued: u64,
    running: u64,
    succeeded: u64,
    dead: u64,
}

pub(crate) async fn summary(State(resources): State<Resources>) -> ApiResult<Json<Summary>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(Summary {
        queued: tx.count_jobs(JobState::Queued).await?,
        running: tx.count_jobs(JobState::Running).await?,
        succeeded: tx.count_jobs(JobState::Succeeded).await?,
        dead: tx.count_jobs(JobState::Dead).await?,
    }))
}
