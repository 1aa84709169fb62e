//! The job table: the truth about background work.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::job::Job;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{JobId, ProjectId};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Waits for its time and a worker.
    Queued,
    /// A worker has claimed it.
    Running,
    /// Done.
    Succeeded,
    /// Gave up by its own decision.
    Failed,
    /// Gave up after its last attempt.
    Dead,
    /// Called off.
    Cancelled,
}

impl JobState {
    /// The state's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A claimed job.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobRow {
    /// Row id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    payload: Json<serde_json::Value>,
    /// Which claim this is, from 1. Whatever the job does checks that it still is.
    pub attempt: i32,
    /// After so many it is dead.
    pub max_attempts: i32,
}

impl JobRow {
    /// What to do.
    pub fn job(&self) -> Result<Job, StoreError> {
        Job::from_parts(&self.kind, &self.payload.0).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

/// How often a job is tried.
const MAX_ATTEMPTS: i32 = 12;

statements! {
    INSERT = "INSERT INTO job (kind, payload, state, priority, run_at, attempt, max_attempts, unique_key, project_id,
            created_at, updated_at)
        VALUES ($1, $2, 'queued', 0, $3, 0, $4, $5, $6, $7, $7)
        ON CONFLICT (unique_key) WHERE state = 'queued' DO NOTHING";
    // A running job whose lease has ended counts as due: its worker is gone.
    DUE = "SELECT id FROM job WHERE (state = 'queued' AND run_at <= $1) OR (state = 'running' AND lease_until < $1)
        ORDER BY priority, run_at, id LIMIT $2";
    CLAIM = "UPDATE job SET state = 'running', attempt = attempt + 1, lease_until = $2, lease_owner = $3,
            updated_at = $4
        WHERE id = $1 AND ((state = 'queued' AND run_at <= $4) OR (state = 'running' AND lease_until < $4))
        RETURNING id, kind, payload, attempt, max_attempts";
    FINISH = "UPDATE job SET state = $3, error = $4, run_at = $5, lease_until = NULL, lease_owner = NULL,
            updated_at = $6, finished_at = $7
        WHERE id = $1 AND attempt = $2 AND state = 'running'";
    COUNT = "SELECT COUNT(*) FROM job WHERE state = $1";
}

impl Tx {
    /// Queues a job for `run_at`. With a key, nothing happens while a queued job has the same.
    pub async fn insert_job(
        &mut self,
        job: &Job,
        unique_key: Option<&str>,
        project: Option<ProjectId>,
        run_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let payload = Json(job.payload());
        execute!(self, INSERT, job.kind(), payload, run_at, MAX_ATTEMPTS, unique_key, project, now).map(drop)
    }

    /// The jobs that are due, best first.
    pub async fn due_jobs(&mut self, now: DateTime<Utc>, limit: u32) -> Result<Vec<JobId>, StoreError> {
        let rows = fetch_all!(self, (JobId,), DUE, now, i64::from(limit))?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Claims a job until `now + lease`; `None` if somebody else did or it is not due.
    pub async fn claim_job(
        &mut self,
        id: JobId,
        owner: &str,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<JobRow>, StoreError> {
        fetch_optional!(self, JobRow, CLAIM, id, now + lease, owner, now)
    }

    /// Writes the outcome of an attempt; false if the attempt is no longer the job's own.
    pub async fn finish_job(
        &mut self,
        job: &JobRow,
        state: JobState,
        error: Option<&str>,
        run_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let finished = (state != JobState::Queued).then_some(now);
        execute!(self, FINISH, job.id, job.attempt, state.as_str(), error, run_at, now, finished)
            .map(|rows| rows == 1)
    }

    /// How many jobs are in a state.
    pub async fn count_jobs(&mut self, state: JobState) -> Result<u64, StoreError> {
        let (count,) = fetch_one!(self, (i64,), COUNT, state.as_str())?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
