//! The job table: the truth about background work. Queues only carry ids.
//!
//! An attempt owns its job while `attempt` is its own and the state is `running`. Whatever it writes, it writes in a
//! transaction that has checked this ([`Tx::holds_job`]), so that one that was taken over changes nothing.

use chrono::{DateTime, Utc};
use kkartifact_model::api::job::JobState;
use kkartifact_model::job::Job;
use serde_json::Value;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{AppId, JobId, PrincipalId, ProjectId};
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// Which of the jobs of a kind that are due come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum Priority {
    /// Before the others.
    High = -1,
    /// As most.
    Normal = 0,
    /// After the others.
    Low = 1,
}

/// A job to be queued.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// What to do.
    pub job: &'a Job,
    /// Nothing is queued while a queued job has the same key.
    pub unique_key: Option<&'a str>,
    /// In which project.
    pub project: Option<ProjectId>,
    /// For which app.
    pub app: Option<AppId>,
    /// Who asked for it.
    pub principal: Option<PrincipalId>,
    /// What it shares with others of its kind that may be slow; empty for nothing.
    pub lane: &'a str,
    /// Which come first.
    pub priority: Priority,
    /// Not before.
    pub run_at: DateTime<Utc>,
    /// The trace that it belongs to.
    pub trace_parent: Option<&'a str>,
}

impl<'a> NewJob<'a> {
    /// A job of nobody in particular.
    pub fn new(job: &'a Job, run_at: DateTime<Utc>) -> Self {
        Self {
            job,
            unique_key: None,
            project: None,
            app: None,
            principal: None,
            lane: "",
            priority: Priority::Normal,
            run_at,
            trace_parent: None,
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
    payload: Json<Value>,
    /// Which claim this is, from 1.
    pub attempt: i32,
    /// How many attempts came to nothing.
    pub failures: i32,
    /// After so many it is dead.
    pub max_attempts: i32,
    /// How far an earlier attempt came.
    pub progress: Option<Json<Value>>,
    /// In which project.
    pub project_id: Option<ProjectId>,
    /// For which app.
    pub app_id: Option<AppId>,
    /// Who asked for it.
    pub principal_id: Option<PrincipalId>,
    /// The trace that it belongs to.
    pub trace_parent: Option<String>,
    /// When it was due.
    pub run_at: DateTime<Utc>,
}

impl JobRow {
    /// What to do.
    pub fn job(&self) -> Result<Job, StoreError> {
        Job::from_parts(&self.kind, &self.payload.0).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

/// A job that waits.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DueJob {
    /// Row id.
    pub id: JobId,
    /// What it shares with others of its kind.
    pub lane: String,
}

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

macro_rules! claimed {
    () => {
        " RETURNING id, kind, payload, attempt, failures, max_attempts, progress, project_id, app_id, principal_id,
            trace_parent, run_at"
    };
}

macro_rules! claim {
    ($lock:literal) => {
        concat!(
            "UPDATE job SET state = 'running', attempt = attempt + 1, beat = 0, lease_owner = $2, started_at = $3,
            updated_at = $3
        WHERE id IN (SELECT id FROM job
            WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND state = 'queued' AND run_at <= $3",
            $lock,
            ")",
            claimed!()
        )
    };
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

// The lanes of a kind that have something queued, found by jumping from one to the next in the index.
macro_rules! lanes {
    () => {
        "WITH RECURSIVE lanes (lane) AS (
            SELECT MIN(lane) FROM job WHERE state = 'queued' AND kind = $1
            UNION ALL
            SELECT (SELECT MIN(j.lane) FROM job j WHERE j.state = 'queued' AND j.kind = $1 AND j.lane > l.lane)
            FROM lanes l WHERE l.lane IS NOT NULL) "
    };
}

// With each priority by itself the index says at once where what is due ends, however much waits for its time.
macro_rules! due_in_lane {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM job d WHERE d.state = 'queued' AND d.kind = $1 AND d.lane = l.lane
                AND d.priority = c.priority AND d.run_at <= $2 ORDER BY d.run_at, d.id LIMIT $3"
        )
    };
}

statements! {
    INSERT = "INSERT INTO job (kind, payload, state, priority, run_at, attempt, max_attempts, unique_key, project_id,
            app_id, principal_id, lane, trace_parent, created_at, updated_at)
        VALUES ($1, $2, 'queued', $3, $4, 0, $5, $6, $7, $8, $9, $10, $11, $12, $12)
        ON CONFLICT (unique_key) WHERE state = 'queued' DO NOTHING RETURNING id";
    DUE = concat!(lanes!(), "SELECT q.id, q.lane FROM lanes l CROSS JOIN (SELECT -1 AS priority UNION ALL SELECT 0 UNION ALL SELECT 1) c
        JOIN job q ON q.id IN (", due_in_lane!("d.id"),
        ") WHERE l.lane NOT IN (SELECT value FROM json_each($5)) ORDER BY q.priority, q.run_at, q.id LIMIT $4");
    // There the planner would look at every pair of a lane and a job.
    DUE_POSTGRES = concat!(lanes!(), "SELECT q.id, q.lane FROM lanes l CROSS JOIN (VALUES (-1), (0), (1)) AS c (priority) CROSS JOIN LATERAL (",
        due_in_lane!("d.id, d.lane, d.priority, d.run_at"),
        ") q WHERE l.lane NOT IN (SELECT value FROM json_each($5)) ORDER BY q.priority, q.run_at, q.id LIMIT $4");
    RUNNING_LANES = "SELECT lane, COUNT(*) FROM job WHERE state = 'running' AND kind = $1 GROUP BY lane";
    OWNERS = "SELECT COUNT(DISTINCT lease_owner) FROM job WHERE state = 'running' AND kind = $1";
    CLAIM = claim!("");
    CLAIM_POSTGRES = claim!(" ORDER BY id FOR UPDATE SKIP LOCKED");
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
    TAKE_OVER = "UPDATE job SET lease_owner = NULL, failures = failures + 1, run_at = $4, updated_at = $4,
            error = 'its worker gave no sign of life',
            state = CASE WHEN failures + 1 >= max_attempts THEN 'dead'
                WHEN EXISTS (SELECT 1 FROM job q WHERE q.unique_key = job.unique_key AND q.state = 'queued')
                    THEN 'cancelled'
                ELSE 'queued' END,
            finished_at = CASE WHEN failures + 1 >= max_attempts
                OR EXISTS (SELECT 1 FROM job q WHERE q.unique_key = job.unique_key AND q.state = 'queued')
                    THEN $4 ELSE finished_at END
        WHERE id = $1 AND attempt = $2 AND beat = $3 AND state = 'running' RETURNING state";
    CANCEL = "UPDATE job SET state = 'cancelled', lease_owner = NULL, updated_at = $2, finished_at = $2
        WHERE id = $1 AND state IN ('queued', 'running')";
    REQUEUE = "UPDATE job SET state = 'queued', failures = 0, run_at = $2, updated_at = $2, finished_at = NULL
        WHERE id = $1 AND state IN ('failed', 'dead', 'cancelled')";
    LOG = "INSERT INTO job_log (job_id, attempt, at, line) VALUES ($1, $2, $3, $4)";
}

impl Tx {
    /// Queues a job; `None` if a queued one has the same key.
    pub async fn insert_job(
        &mut self,
        new: &NewJob<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<JobId>, StoreError> {
        let row = fetch_optional!(
            self,
            (JobId,),
            INSERT,
            new.job.kind(),
            Json(new.job.payload()),
            new.priority as i16,
            new.run_at,
            new.job.max_attempts(),
            new.unique_key,
            new.project,
            new.app,
            new.principal,
            new.lane,
            new.trace_parent,
            now
        )?;
        Ok(row.map(|(id,)| id))
    }

    /// The jobs of a kind that are due, best first: at most `per_lane` of each lane but those in `full`, and `limit` in
    /// all.
    pub async fn due_jobs(
        &mut self,
        kind: &str,
        full: &[String],
        per_lane: u32,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<Vec<DueJob>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => DUE,
            Self::Postgres(_) => DUE_POSTGRES,
        };
        let (per_lane, limit) = (i64::from(per_lane), i64::from(limit));
        fetch_all!(self, DueJob, sql, kind, now, per_lane, limit, list(full))
    }

    /// How many jobs of a kind run in each lane.
    pub async fn running_lanes(&mut self, kind: &str) -> Result<Vec<(String, i64)>, StoreError> {
        fetch_all!(self, (String, i64), RUNNING_LANES, kind)
    }

    /// How many processes run jobs of a kind.
    pub async fn job_owners(&mut self, kind: &str) -> Result<u64, StoreError> {
        let (owners,) = fetch_one!(self, (i64,), OWNERS, kind)?;
        Ok(u64::try_from(owners).unwrap_or(0))
    }

    /// Claims those of these jobs that are due and that nobody else has claimed.
    pub async fn claim_jobs(
        &mut self,
        ids: &[JobId],
        owner: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<JobRow>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => CLAIM,
            Self::Postgres(_) => CLAIM_POSTGRES,
        };
        fetch_all!(self, JobRow, sql, list(ids), owner, now)
    }

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
        let row = fetch_optional!(self, (String,), TAKE_OVER, beat.id, beat.attempt, beat.beat, now)?;
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
