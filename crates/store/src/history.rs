//! What is over and old: rows that nothing needs any more, removed a batch at a time.

use chrono::{DateTime, Utc};
use kkartifact_model::api::job::JobState;

use crate::error::StoreError;
use crate::tx::{Tx, execute, statements};

statements! {
    // One state at a time, in the order of the index: what came to nothing is kept for longer, and is not passed over.
    // SQLite numbers changes from the greatest one there is: its row stays. Who is queued again meanwhile does too.
    JOBS = "DELETE FROM job WHERE state NOT IN ('queued', 'running') AND id IN (
        SELECT j.id FROM job j WHERE j.state = $1 AND j.finished_at < $2
            AND (j.kind = 'query_versions') = $3 AND j.change < (SELECT MAX(change) FROM job)
        ORDER BY j.finished_at LIMIT $4)";
    EVENTS = "DELETE FROM event WHERE id IN (
        SELECT e.id FROM event e WHERE e.created_at < $1
            AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.event_id = e.id)
        ORDER BY e.created_at LIMIT $2)";
    UPLOADS = "DELETE FROM upload WHERE state <> 'open' AND id IN (
        SELECT u.id FROM upload u WHERE u.state IN ('finished', 'aborted', 'expired') AND u.expires_at < $1 LIMIT $2)";
}

/// How long jobs that are over are kept.
#[derive(Debug, Clone, Copy)]
pub struct OldJobs {
    /// Those that succeeded or were called off go if they were over before.
    pub done_before: DateTime<Utc>,
    /// Those that came to nothing go if they were over before: no later than `done_before`.
    pub failed_before: DateTime<Utc>,
    /// Only batch queries, whose answers go with them, or only others.
    pub queries: bool,
}

impl Tx {
    /// Removes old jobs with their logs, at most `limit`; how many.
    pub async fn delete_old_jobs(&mut self, old: OldJobs, limit: u32) -> Result<u64, StoreError> {
        let (mut gone, limit) = (0, u64::from(limit));
        for (state, before) in [
            (JobState::Succeeded, old.done_before),
            (JobState::Cancelled, old.done_before),
            (JobState::Failed, old.failed_before),
            (JobState::Dead, old.failed_before),
        ] {
            let left = i64::try_from(limit.saturating_sub(gone)).unwrap_or(0);
            gone += execute!(self, JOBS, state.as_str(), before, old.queries, left)?;
        }
        Ok(gone)
    }

    /// Removes events that are older and that no delivery tells of, at most `limit`; how many.
    pub async fn delete_old_events(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        execute!(self, EVENTS, before, i64::from(limit))
    }

    /// Removes closed uploads whose time would have been over before, at most `limit`; how many.
    pub async fn delete_closed_uploads(
        &mut self,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        execute!(self, UPLOADS, before, i64::from(limit))
    }
}
