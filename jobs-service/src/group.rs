//! Claims and endings of many attempts in one transaction: a commit each would cost more than most of the work.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::job::JobState;
use kkartifact_model::api::webhook::DeliveryState;
use kkartifact_service::{ApiResult, Resources};
use kkartifact_store::{DeliveryAttemptRow, Ending, JobId, JobRow, StoreError, Tx};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::over;

/// The most claims or endings of a transaction.
const BATCH: usize = 256;
/// How long an ending waits for a database that is away before it is tried again.
const AWAY: Duration = Duration::from_millis(500);

/// How an attempt ended, and what belongs to that.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) row: JobRow,
    pub(crate) state: JobState,
    pub(crate) failed: bool,
    pub(crate) error: Option<String>,
    pub(crate) result: Option<Value>,
    pub(crate) again_in: TimeDelta,
    /// What was found out about a webhook's receiver.
    pub(crate) delivery: Option<DeliveryAttemptRow>,
}

type Waiting<T, R> = (T, oneshot::Sender<R>);

/// Puts claims and endings together.
#[derive(Clone)]
pub(crate) struct Group {
    claims: mpsc::Sender<Waiting<JobId, Option<JobRow>>>,
    endings: mpsc::Sender<Waiting<Ended, bool>>,
}

impl Group {
    /// Starts it. It ends when the last clone is gone.
    pub(crate) fn start(resources: &Resources, owner: &str) -> Self {
        let (claims, waiting_claims) = mpsc::channel(BATCH);
        let (endings, waiting_endings) = mpsc::channel(BATCH);
        tokio::spawn(claim_all(resources.clone(), owner.to_owned(), waiting_claims));
        tokio::spawn(end_all(resources.clone(), waiting_endings));
        Self { claims, endings }
    }

    /// Claims a job; `None` if it is not due, somebody else has it, or the database is away: it will be offered again.
    pub(crate) async fn claim(&self, id: JobId) -> Option<JobRow> {
        let (answer, answered) = oneshot::channel();
        self.claims.send((id, answer)).await.ok()?;
        answered.await.ok().flatten()
    }

    /// Writes how an attempt ended, however long the database is away. False if the attempt was not the job's own any
    /// more.
    pub(crate) async fn end(&self, ended: Ended) -> bool {
        let (answer, answered) = oneshot::channel();
        self.endings.send((ended, answer)).await.is_ok() && answered.await.unwrap_or(false)
    }
}

async fn claim_all(
    resources: Resources,
    owner: String,
    mut waiting: mpsc::Receiver<Waiting<JobId, Option<JobRow>>>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let mut ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut claimed = claim(&resources, &owner, &ids).await.unwrap_or_else(|error| {
            tracing::warn!(%error, cause = error.cause, "jobs can't be claimed; they will be offered again");
            Vec::new()
        });
        for (id, answer) in batch.drain(..) {
            let row = claimed.iter().position(|row| row.id == id).map(|at| claimed.swap_remove(at));
            // Whoever asked is there: it waits for nothing else.
            drop(answer.send(row));
        }
    }
}

async fn claim(resources: &Resources, owner: &str, ids: &[JobId]) -> ApiResult<Vec<JobRow>> {
    let mut tx = resources.db.begin().await?;
    let rows = tx.claim_jobs(ids, owner, resources.clock.now()).await?;
    tx.commit().await?;
    Ok(rows)
}

async fn end_all(resources: Resources, mut waiting: mpsc::Receiver<Waiting<Ended, bool>>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        // In the order of ids, so that two processes never wait for each other in a circle.
        batch.sort_unstable_by_key(|(ended, _)| ended.row.id);
        let own = end_patiently(&resources, &batch).await;
        for ((_, answer), own) in batch.drain(..).zip(own) {
            if answer.send(own).is_err() {
                tracing::debug!("nobody waits for an ending any more");
            }
        }
    }
}

async fn end_patiently(resources: &Resources, batch: &[Waiting<Ended, bool>]) -> Vec<bool> {
    loop {
        match end(resources, batch).await {
            Ok(own) => return own,
            // A conflict is a key that somebody has just queued: the next try sees it.
            Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::Conflict)) => {
                tracing::warn!(%error, "what jobs have done can't be written now; trying again");
                tokio::time::sleep(AWAY).await;
            }
            // One of them can't be written: the others don't suffer for it.
            Err(error) if batch.len() > 1 => {
                tracing::error!(%error, "endings can't be written together");
                let mut own = Vec::with_capacity(batch.len());
                for one in batch {
                    own.extend(Box::pin(end_patiently(resources, std::slice::from_ref(one))).await);
                }
                return own;
            }
            Err(error) => {
                let job = batch.first().map(|(ended, _)| ended.row.id.0);
                tracing::error!(%error, job, "an ending can't be written; the job will be taken over");
                return vec![false; batch.len()];
            }
        }
    }
}

async fn end(resources: &Resources, batch: &[Waiting<Ended, bool>]) -> Result<Vec<bool>, StoreError> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let mut own = Vec::with_capacity(batch.len());
    for (ended, _) in batch {
        own.push(end_one(&mut tx, ended, now).await?);
    }
    tx.commit().await?;
    clear_failing(resources, batch).await;
    Ok(own)
}

/// Webhooks to which something has been delivered are not failing, whatever others were saying of them while that was
/// recorded: one that works would be disabled some day. Says so however long the database is away.
async fn clear_failing(resources: &Resources, batch: &[Waiting<Ended, bool>]) {
    let deliveries = batch.iter().filter_map(|(ended, _)| ended.delivery.as_ref());
    let delivered = deliveries.filter(|delivery| delivery.state == DeliveryState::Delivered);
    let webhooks: Vec<_> = delivered.map(|delivery| delivery.webhook).collect();
    while let Err(error) = take_back(resources, &webhooks).await {
        tracing::warn!(%error, "that webhooks work can't be written now");
        if !matches!(error, StoreError::Unavailable(_) | StoreError::Full(_)) {
            return;
        }
        tokio::time::sleep(AWAY).await;
    }
}

async fn take_back(resources: &Resources, webhooks: &[i64]) -> Result<(), StoreError> {
    if webhooks.is_empty() {
        return Ok(());
    }
    let mut tx = resources.db.read().await?;
    let failing = tx.failing_webhooks(webhooks).await?;
    tx.commit().await?;
    for webhook in failing {
        let mut tx = resources.db.begin().await?;
        tx.webhook_works(webhook).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn end_one(tx: &mut Tx, ended: &Ended, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let row = &ended.row;
    let ending = Ending {
        state: ended.state,
        failed: ended.failed,
        error: ended.error.as_deref(),
        result: ended.result.as_ref(),
        run_at: now + ended.again_in,
    };
    if !tx.end_job(row, &ending, now).await? {
        return Ok(false);
    }
    if let Some(error) = &ended.error {
        tx.log_job(row.id, row.attempt, error, now).await?;
    }
    if let Some(delivery) = &ended.delivery {
        tx.record_delivery_attempt(delivery).await?;
    }
    if matches!(ended.state, JobState::Failed | JobState::Dead) {
        let error = ended.error.as_deref().unwrap_or_default();
        over::announce(tx, &row.kind, row.job().ok().as_ref(), row.id, row.project_id, error, now).await?;
    }
    Ok(true)
}
