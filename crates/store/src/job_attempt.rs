//! What becomes of a claimed job: signs of life, how far it is, how it ends, and who takes it over.

use chrono::{DateTime, Utc};
use kkartifact_model::api::job::JobState;
use serde_json::Value;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::JobId;
use crate::job::JobRow;
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_optional, statements};

/// The last sign of life of a running job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Beat {
    /// Row id.
    pub id: JobId,
    /// Which claim.
    pub attempt: i32,
    /// Counts signs of life.
    pub beat: i64,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// Where the job is then; `queued` to try again.
    pub state: JobState,
    /// Whether the attempt came to nothing. One that was handed back did not.
    pub failed: bool,
    /// Why it came to nothing.
    pub error: Option<&'a str>,
    /// What came of it.
    pub result: Option<&'a Value>,
    /// When to try again.
    pub run_at: DateTime<Utc>,
}

macro_rules! beat {
    ($lock:literal) => {
        concat!(
            "UPDATE job SET beat = beat + 1 WHERE id IN (SELECT id FROM job
            WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND lease_owner = $2 AND state = 'running'",
            $lock,
            ")"
        )
    };
}

macro_rules! take_over {
    ($lock:literal) => {
        concat!(
            "UPDATE job SET lease_owner = NULL, failures = failures + 1, run_at = $4, updated_at = $4,
            error = 'its worker gave no sign of life',
            state = CASE WHEN failures + 1 >= max_attempts THEN 'dead'
                WHEN EXISTS (SELECT 1 FROM job q WHERE q.unique_key = job.unique_key AND q.state = 'queued')
                    THEN 'cancelled'
                ELSE 'queued' END,
            finished_at = CASE WHEN failures + 1 >= max_attempts
                OR EXISTS (SELECT 1 FROM job q WHERE q.unique_key = job.unique_key AND q.state = 'queued')
                    THEN $4 ELSE finished_at END
        WHERE id IN (SELECT id FROM job WHERE id = $1 AND attempt = $2 AND beat = $3 AND state = 'running'",
            $lock,
            ") RETURNING state"
        )
    };
}

statements! {
    HOLDS = "SELECT id FROM job WHERE id = $1 AND attempt = $2 AND state = 'running'";
    HOLDS_POSTGRES = "SELECT id FROM job WHERE id = $1 AND attempt = $2 AND state = 'running' FOR SHARE";
    END = "UPDATE job SET state = $3, failures = failures + $4, error = $5, result = $6, run_at = $7,
            lease_owner = NULL, updated_at = $8, finished_at = $9
        WHERE id = $1 AND attempt = $2 AND state = 'running'";
    // Of two with the same key, the one that is queued already does the work.
    YIELD = "UPDATE job SET state = 'cancelled', error = 'another one with the same key is queued',
            lease_owner = NULL, updated_at = $3, finished_at = $3
        WHERE id = $1 AND attempt = $2 AND state = 'running'";
    KEY_IS_QUEUED = "SELECT q.id FROM job q JOIN job j ON j.unique_key = q.unique_key
        WHERE j.id = $1 AND q.id <> j.id AND q.state = 'queued' LIMIT 1";
    PROGRESS = "UPDATE job SET progress = $3, beat = beat + 1, updated_at = $4
        WHERE id = $1 AND attempt = $2 AND state = 'running'";
    BEAT = beat!("");
    // A job that is just writing something is left out: it lives.
    BEAT_POSTGRES = beat!(" ORDER BY id FOR NO KEY UPDATE SKIP LOCKED");
    OWN = "SELECT id, attempt, beat FROM job WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
            AND lease_owner = $2 AND state = 'running' ORDER BY id";
    BEATS = "SELECT id, attempt, beat FROM job WHERE state = 'running' AND id > $1 ORDER BY id LIMIT $2";
    TAKE_OVER = take_over!("");
    // One that hangs in the middle of a transaction must not hold up whoever looks after the others.
    TAKE_OVER_POSTGRES = take_over!(" FOR NO KEY UPDATE SKIP LOCKED");
    CANCEL = "UPDATE job SET state = 'cancelled', lease_owner = NULL, updated_at = $2, finished_at = $2
        WHERE id = $1 AND state IN ('queued', 'running')";
    REQUEUE = "UPDATE job SET state = 'queued', failures = 0, run_at = $2, updated_at = $2, finished_at = NULL
        WHERE id = $1 AND state IN ('failed', 'dead', 'cancelled')";
    LOG = "INSERT INTO job_log (job_id, attempt, at, line) VALUES ($1, $2, $3, $4)";
}

impl Tx {
    /// Whether an attempt is still the job's own, and stays so until the transaction ends: neither taken over nor
    /// cancelled.
    pub async fn holds_job(&mut self, job: &JobRow) -> Result<bool, StoreError> {
        let sql = match self {
            // The single writer is lock enough.
            Self::Sqlite(_) => HOLDS,
            Self::Postgres(_) => HOLDS_POSTGRES,
        };
        Ok(fetch_optional!(self, (JobId,), sql, job.id, job.attempt)?.is_some())
    }

    /// Writes how an attempt ended; false if it is no longer the job's own.
    pub async fn end_job(
        &mut self,
        job: &JobRow,
        ending: &Ending<'_>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let again = ending.state == JobState::Queued;
        if again && fetch_optional!(self, (JobId,), KEY_IS_QUEUED, job.id)?.is_some() {
            return execute!(self, YIELD, job.id, job.attempt, now).map(|rows| rows == 1);
        }
        execute!(
            self,
            END,
            job.id,
            job.attempt,
            ending.state.as_str(),
            i32::from(ending.failed),
            ending.error,
            ending.result.map(Json),
            ending.run_at,
            now,
            (!again).then_some(now)
        )
        .map(|rows| rows == 1)
    }

    /// Notes how far an attempt is; false if it is no longer the job's own. Also a sign of life.
    pub async fn note_progress(
        &mut self,
        job: &JobRow,
        progress: &Value,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, PROGRESS, job.id, job.attempt, Json(progress), now).map(|rows| rows == 1)
    }

    /// Gives signs of life for an owner's jobs; those that still are its own.
    pub async fn beat_jobs(&mut self, ids: &[JobId], owner: &str) -> Result<Vec<Beat>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => BEAT,
            Self::Postgres(_) => BEAT_POSTGRES,
        };
        let ids = list(ids);
        execute!(self, sql, ids.as_str(), owner)?;
        fetch_all!(self, Beat, OWN, ids, owner)
    }

    /// The last signs of life of running jobs behind an id, by id.
    pub async fn job_beats(&mut self, after: JobId, limit: u32) -> Result<Vec<Beat>, StoreError> {
        fetch_all!(self, Beat, BEATS, after, i64::from(limit))
    }

    /// Takes a job away from an attempt that has given no sign of life since `beat`. Where the job is then; `None` if
    /// it has given one, or has ended.
    pub async fn take_over_job(
        &mut self,
        beat: &Beat,
        now: DateTime<Utc>,
    ) -> Result<Option<String>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => TAKE_OVER,
            Self::Postgres(_) => TAKE_OVER_POSTGRES,
        };
        let row = fetch_optional!(self, (String,), sql, beat.id, beat.attempt, beat.beat, now)?;
        Ok(row.map(|(state,)| state))
    }

    /// Calls a job off; false if it is over. What its attempt does afterwards has no effect.
    pub async fn cancel_job(&mut self, id: JobId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, CANCEL, id, now).map(|rows| rows == 1)
    }

    /// Queues a job again that came to nothing; false if it did not. [`StoreError::Conflict`] if another one with its
    /// key is queued.
    pub async fn requeue_job(&mut self, id: JobId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, REQUEUE, id, now).map(|rows| rows == 1)
    }

    /// Adds a line to a job's log.
    pub async fn log_job(
        &mut self,
        id: JobId,
        attempt: i32,
        line: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute!(self, LOG, id, attempt, now, line).map(drop)
    }
}
