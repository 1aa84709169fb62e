//! The worker: claims due jobs, does them, writes their outcomes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::failpoint;
use kkartifact_model::job::Job;
use kkartifact_service::{ApiError, ApiResult, Resources, Shutdown};
use kkartifact_store::{JobId, JobRow, JobState, VersionId};
use uuid::Uuid;

use crate::{marker, sweep};

/// How long a claim holds. Every job of this service is done in far less.
const LEASE: TimeDelta = TimeDelta::minutes(2);
/// How often the table is looked at when nothing rings.
const LOOK: Duration = Duration::from_secs(5);
/// How often uploads are swept.
const SWEEP: TimeDelta = TimeDelta::minutes(5);
/// How many jobs are claimed after one look.
const BATCH: u32 = 50;

/// Works until it is time to stop; finishes the job in hand.
pub(crate) async fn run(resources: Resources, shutdown: Shutdown) {
    let owner = Uuid::new_v4().to_string();
    let mut last_sweep = DateTime::<Utc>::MIN_UTC;
    loop {
        let rung = resources.jobs_queued.notified();
        if let Err(error) = look(&resources, &owner, &mut last_sweep, &shutdown).await {
            tracing::warn!(%error, cause = error.cause, "the job table is out of reach; trying again");
        }
        tokio::select! {
            () = shutdown.begun() => return,
            () = rung => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn look(
    resources: &Resources,
    owner: &str,
    last_sweep: &mut DateTime<Utc>,
    shutdown: &Shutdown,
) -> ApiResult<()> {
    let now = resources.clock.now();
    if now - *last_sweep >= SWEEP {
        let mut tx = resources.db.begin().await?;
        tx.insert_job(&Job::SweepUploads {}, Some("sweep_uploads"), None, now, now).await?;
        tx.commit().await?;
        *last_sweep = now;
    }
    loop {
        let mut tx = resources.db.read().await?;
        let due = tx.due_jobs(resources.clock.now(), BATCH).await?;
        tx.commit().await?;
        if due.is_empty() {
            return Ok(());
        }
        for id in due {
            if shutdown.is_begun() {
                return Ok(());
            }
            work(resources, owner, id).await?;
        }
    }
}

async fn work(resources: &Resources, owner: &str, id: JobId) -> ApiResult<()> {
    let mut tx = resources.db.begin().await?;
    let Some(row) = tx.claim_job(id, owner, LEASE, resources.clock.now()).await? else { return Ok(()) };
    tx.commit().await?;
    let done = perform(resources, &row).await;
    let now = resources.clock.now();
    let (state, error, run_at) = match &done {
        Ok(()) => (JobState::Succeeded, None, now),
        Err(error) if row.attempt >= row.max_attempts => (JobState::Dead, Some(explain(error)), now),
        Err(error) => (JobState::Queued, Some(explain(error)), now + backoff(row.attempt)),
    };
    if let Some(error) = &error {
        tracing::warn!(job = id.0, kind = row.kind, attempt = row.attempt, error, "a job failed");
    }
    let mut tx = resources.db.begin().await?;
    if !tx.finish_job(&row, state, error.as_deref(), run_at, now).await? {
        tracing::warn!(
            job = id.0,
            attempt = row.attempt,
            "a job was taken over; its outcome is not ours to write"
        );
    }
    tx.commit().await?;
    metrics::counter!("kkartifact_jobs_total", "kind" => row.kind.clone(), "state" => state.as_str())
        .increment(1);
    if state == JobState::Succeeded && row.kind == "version_marker" {
        failpoint::reach("marker.recorded");
    }
    Ok(())
}

async fn perform(resources: &Resources, row: &JobRow) -> ApiResult<()> {
    match row.job()? {
        Job::VersionMarker { version_id } => marker::write(resources, VersionId(version_id)).await,
        Job::SweepUploads {} => sweep::uploads(resources).await,
    }
}

fn explain(error: &ApiError) -> String {
    error.cause.clone().unwrap_or_else(|| error.to_string())
}

/// 2, 4, 8, … seconds, at most an hour.
fn backoff(attempt: i32) -> TimeDelta {
    TimeDelta::seconds(2i64.saturating_pow(attempt.clamp(1, 12).unsigned_abs()).min(3600))
}
