//! The job table: the truth about background work. Queues only carry ids.
//!
//! An attempt owns its job while `attempt` is its own and the state is `running`. Whatever it writes, it writes in a
//! transaction that has checked this ([`Tx::holds_job`]), so that one that was taken over changes nothing.

use chrono::{DateTime, Utc};
use kkartifact_model::job::Job;
use serde_json::Value;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{AppId, JobId, PrincipalId, ProjectId};
use crate::role_binding::list;
use crate::tx::{Tx, fetch_all, fetch_one, fetch_optional, statements};

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
pub(crate) use lanes;

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
}
