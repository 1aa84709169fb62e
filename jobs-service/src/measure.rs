//! What the queue looks like, for whoever watches the metrics.

use std::time::Duration;

use kkartifact_model::api::job::JobState;
use kkartifact_model::job::Job;
use kkartifact_service::{ApiResult, Resources, Shutdown};

/// How often it is measured.
const EVERY: Duration = Duration::from_secs(15);
/// The states that somebody may have to do something about.
const OPEN: [JobState; 4] = [JobState::Queued, JobState::Running, JobState::Dead, JobState::Failed];

/// Measures until it is time to stop.
pub(crate) async fn run(resources: Resources, shutdown: Shutdown) {
    metrics::describe_gauge!("kkartifact_jobs_due", "Jobs that are due, by kind");
    metrics::describe_gauge!(
        "kkartifact_job_oldest_seconds",
        metrics::Unit::Seconds,
        "Since when the oldest is due"
    );
    metrics::describe_gauge!("kkartifact_jobs", "Jobs by state");
    metrics::describe_counter!("kkartifact_jobs_total", "Attempts that ended, by kind and state");
    metrics::describe_histogram!("kkartifact_job_seconds", metrics::Unit::Seconds, "How long attempts took");
    metrics::describe_histogram!(
        "kkartifact_job_wait_seconds",
        metrics::Unit::Seconds,
        "From due to claimed"
    );
    loop {
        if let Err(error) = measure(&resources).await {
            tracing::warn!(%error, cause = error.cause, "the queue can't be measured");
        }
        if tokio::time::timeout(EVERY, shutdown.begun()).await.is_ok() {
            return;
        }
    }
}

async fn measure(resources: &Resources) -> ApiResult<()> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let counts = tx.count_states(&OPEN).await?;
    for kind in Job::KINDS {
        let (count, since) = tx.waiting_jobs(kind, now).await?;
        let seconds = since.map_or(0, |since| (now - since).num_seconds().max(0));
        metrics::gauge!("kkartifact_jobs_due", "kind" => *kind).set(number(count));
        metrics::gauge!("kkartifact_job_oldest_seconds", "kind" => *kind).set(number(seconds));
    }
    tx.commit().await?;
    let states = [
        ("queued", counts.queued),
        ("running", counts.running),
        ("dead", counts.dead),
        ("failed", counts.failed),
    ];
    for (state, count) in states {
        metrics::gauge!("kkartifact_jobs", "state" => state)
            .set(number(i64::try_from(count).unwrap_or(i64::MAX)));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a measure, not a count")]
fn number(value: i64) -> f64 {
    value as f64
}
