//! The worker: claims the jobs whose ids the queue brings, does them, and says what came of it.

use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::Data;
use chrono::TimeDelta;
use kkartifact_model::api::job::JobState;
use kkartifact_model::failpoint;
use kkartifact_model::job::Job;
use kkartifact_service::{Resources, Shutdown};
use kkartifact_store::{DeliveryAttemptRow, JobId, JobRow, VersionId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::attempt::{Attempt, Failure, Outcome};
use crate::deliver::{self, Delivered};
use crate::group::{Ended, Group};
use crate::heartbeat::InHand;
use crate::kind::{Kind, backoff, jitter};
use crate::{announce, batch, collect, history, marker, retain, sweep};

/// What all workers of the process share.
pub(crate) struct Hands {
    pub(crate) resources: Resources,
    pub(crate) shutdown: Shutdown,
    pub(crate) kinds: Arc<[Kind]>,
    pub(crate) group: Group,
    pub(crate) in_hand: InHand,
    /// Everything that is under way, also what is only being claimed.
    pub(crate) tasks: TaskTracker,
    /// Rings when a job is done.
    pub(crate) freed: Arc<Notify>,
}

/// What the queue calls with an id. It never fails: what becomes of the job stands in its row.
pub(crate) async fn handle(id: i64, hands: Data<Arc<Hands>>) -> Result<(), apalis::prelude::BoxDynError> {
    let working = Arc::clone(&hands);
    // A task of its own: when the queue breaks off, what was begun goes on to its end.
    hands.tasks.spawn(async move { working.work(JobId(id)).await }).await?;
    Ok(())
}

/// What came of a job's work, and whether it is about a delivery.
struct Done {
    outcome: Outcome,
    delivery: Option<DeliveryAttemptRow>,
    /// When to try again, if the work says so.
    again_in: Option<TimeDelta>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, delivery: None, again_in: None }
    }
}

impl Hands {
    async fn work(self: &Arc<Self>, id: JobId) {
        if self.shutdown.is_begun() {
            return;
        }
        if let Some(row) = self.group.claim(id).await {
            self.attempt(row).await;
        }
        self.freed.notify_one();
    }

    async fn attempt(self: &Arc<Self>, row: JobRow) {
        let (id, attempt, kind) = (row.id, row.attempt, row.kind.clone());
        let lost = self.in_hand.take(id, attempt);
        let waited = (self.resources.clock.now() - row.run_at).to_std().unwrap_or_default();
        metrics::histogram!("kkartifact_job_wait_seconds", "kind" => kind.clone()).record(waited);
        let began = Instant::now();
        let timeout =
            self.kinds.iter().find(|known| known.name == kind).map_or(MINUTE, |known| known.timeout);
        let span = tracing::info_span!("job", job = id.0, kind, attempt, trace = row.trace_parent);
        let (hands, again) = (self.clone(), row.clone());
        // A task of its own: a panic is this job's failure and nobody else's.
        let mut work = tokio::spawn(async move { hands.perform(again).await }.instrument(span));
        let done = tokio::select! {
            done = tokio::time::timeout(timeout, &mut work) => match done {
                Ok(Ok(done)) => done,
                Ok(Err(error)) => Outcome::Err(Failure::Retry(format!("the work broke down: {error}"))).into(),
                Err(_) => Outcome::Err(Failure::Retry(format!("it took longer than {} s", timeout.as_secs()))).into(),
            },
            () = lost.cancelled() => Outcome::Err(Failure::Lost).into(),
            () = self.shutdown.at_once() => Outcome::Err(Failure::HandedBack).into(),
        };
        work.abort();
        let state = self.end(row, done).await;
        self.in_hand.put_down(id, attempt);
        metrics::counter!("kkartifact_jobs_total", "kind" => kind.clone(), "state" => state).increment(1);
        metrics::histogram!("kkartifact_job_seconds", "kind" => kind.clone()).record(began.elapsed());
        if state == JobState::Succeeded.as_str() && kind == "version_marker" {
            failpoint::reach("marker.recorded");
        }
    }

    async fn perform(self: Arc<Self>, row: JobRow) -> Done {
        let job = match row.job() {
            Ok(job) => job,
            // Another release may know it.
            Err(error) => return Outcome::Err(Failure::Retry(error.to_string())).into(),
        };
        let attempt = Attempt { resources: self.resources.clone(), row, shutdown: self.shutdown.clone() };
        match job {
            Job::VersionMarker { version_id } => marker::write(&attempt.resources, VersionId(version_id))
                .await
                .map(|()| None)
                .map_err(Failure::from),
            Job::SweepUploads {} => sweep::uploads(&attempt).await,
            Job::DeliverWebhook { delivery } => {
                let Delivered { outcome, row, again_in } = deliver::run(&attempt, delivery).await;
                return Done { outcome, delivery: row, again_in };
            }
            Job::Retain {} => retain::run(&attempt).await,
            Job::CollectGarbage {} => collect::run(&attempt).await,
            Job::QueryVersions(query) => batch::run(&attempt, &query).await,
            Job::SweepHistory {} => history::run(&attempt).await,
            Job::AnnounceEnds {} => announce::run(&attempt).await,
        }
        .into()
    }

    /// Writes what came of an attempt; the state for the metrics.
    async fn end(&self, row: JobRow, done: Done) -> &'static str {
        let Done { outcome, delivery, again_in } = done;
        let (state, failed, error, result) = match outcome {
            Ok(result) => (JobState::Succeeded, false, None, result),
            Err(Failure::Lost) => {
                tracing::warn!(job = row.id.0, attempt = row.attempt, "a job was taken over or cancelled");
                return "lost";
            }
            Err(Failure::HandedBack) => (JobState::Queued, false, None, None),
            Err(Failure::Final(error)) => (JobState::Failed, true, Some(error), None),
            Err(Failure::Retry(error)) if row.failures + 1 >= row.max_attempts => {
                (JobState::Dead, true, Some(error), None)
            }
            Err(Failure::Retry(error)) => (JobState::Queued, true, Some(error), None),
        };
        if let Some(error) = &error {
            tracing::warn!(job = row.id.0, kind = row.kind, attempt = row.attempt, error, "a job failed");
        }
        let again_in = match (failed, again_in) {
            (false, _) => TimeDelta::zero(),
            (true, Some(wait)) => wait,
            (true, None) => backoff(row.failures + 1, jitter()),
        };
        let ended = Ended { row, state, failed, error, result, again_in, delivery };
        if self.group.end(ended).await { state.as_str() } else { "lost" }
    }
}

const MINUTE: Duration = Duration::from_mins(1);
