//! Jobs as people see them: lists, one with its log, and what has changed since.

use chrono::{DateTime, Utc};
use kkartifact_model::api::job::{JobDetail, JobInfo, JobLogLine, JobPage, JobState};
use kkartifact_model::{AppName, ProjectName};
use serde_json::Value;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{AppId, JobId, PrincipalId, ProjectId};
use crate::role_binding::{Reach, list};
use crate::tx::{Tx, fetch_all, fetch_one, fetch_optional, statements};

/// A job's row with the names around it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobViewRow {
    /// Row id.
    pub id: JobId,
    kind: String,
    payload: Json<Value>,
    /// Where it is.
    #[sqlx(try_from = "String")]
    pub state: JobState,
    priority: i16,
    run_at: DateTime<Utc>,
    attempt: i32,
    failures: i32,
    max_attempts: i32,
    /// In which project.
    pub project_id: Option<ProjectId>,
    /// For which app.
    pub app_id: Option<AppId>,
    /// Who asked for it.
    pub principal_id: Option<PrincipalId>,
    project: Option<String>,
    app: Option<String>,
    progress: Option<Json<Value>>,
    result: Option<Json<Value>>,
    error: Option<String>,
    trace_parent: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    change: i64,
}

impl JobViewRow {
    /// Its kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its payload.
    pub fn payload(&self) -> &Value {
        &self.payload.0
    }

    /// Its place among the changes.
    pub fn place(&self) -> ChangePlace {
        ChangePlace { change: self.change, id: self.id.0 }
    }
}

impl From<JobViewRow> for JobInfo {
    fn from(row: JobViewRow) -> Self {
        Self {
            id: row.id.0,
            kind: row.kind,
            payload: row.payload.0,
            state: row.state,
            priority: row.priority,
            run_at: row.run_at,
            attempt: row.attempt,
            failures: row.failures,
            max_attempts: row.max_attempts,
            project: row.project.and_then(|name| name.parse().ok()),
            app: row.app.and_then(|name| name.parse().ok()),
            progress: row.progress.map(|json| json.0),
            result: row.result.map(|json| json.0),
            error: row.error,
            trace_parent: row.trace_parent,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

#[derive(sqlx::FromRow)]
struct LogRow {
    attempt: i32,
    at: DateTime<Utc>,
    line: String,
}

/// A place in the stream of changes. Grows with commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangePlace {
    change: i64,
    id: i64,
}

impl std::fmt::Display for ChangePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.change, self.id)
    }
}

impl std::str::FromStr for ChangePlace {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (change, id) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { change: change.parse()?, id: id.parse()? })
    }
}

/// Which jobs somebody may see.
#[derive(Debug, Clone, Default)]
pub struct JobReach {
    /// Where they are admin.
    pub admin: Reach,
    /// Where they may view.
    pub view: Reach,
}

/// Which jobs a list has.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only of this app of the project.
    pub app: Option<AppName>,
    /// Only older ones.
    pub before: Option<JobId>,
}

macro_rules! columns {
    () => {
        "SELECT j.id, j.kind, j.payload, j.state, j.priority, j.run_at, j.attempt, j.failures, j.max_attempts,
            j.project_id, j.app_id, j.principal_id, p.name AS project, a.name AS app, j.progress, j.result, j.error,
            j.trace_parent, j.created_at, j.started_at, j.finished_at, j.change
        FROM job j LEFT JOIN project p ON p.id = j.project_id LEFT JOIN app a ON a.id = j.app_id "
    };
}

// Jobs that may be seen: with $1 to $3 (everything, projects, apps) by who is admin there; with $4 to $6 by others. What
// the server does for itself, and what it sends to whom, is for admins only.
macro_rules! visible {
    () => {
        "($1 OR j.project_id IN (SELECT CAST(value AS BIGINT) FROM json_each($2))
            OR j.app_id IN (SELECT CAST(value AS BIGINT) FROM json_each($3))
            OR (j.project_id IS NOT NULL AND j.kind <> 'deliver_webhook'
                AND ($4 OR j.project_id IN (SELECT CAST(value AS BIGINT) FROM json_each($5))
                    OR j.app_id IN (SELECT CAST(value AS BIGINT) FROM json_each($6)))))"
    };
}
pub(crate) use visible;

macro_rules! changes {
    ($complete:literal) => {
        concat!(
            columns!(),
            "WHERE ",
            visible!(),
            " AND (j.change, j.id) > ($7, $8)",
            $complete,
            " ORDER BY j.change, j.id LIMIT $9"
        )
    };
}

statements! {
    GET = concat!(columns!(), "WHERE j.id = $1");
    LIST = concat!(columns!(), "WHERE ", visible!(), " AND j.id < $7
        AND (CAST($8 AS TEXT) IS NULL OR j.kind = $8) AND (CAST($9 AS TEXT) IS NULL OR j.state = $9)
        AND (CAST($10 AS TEXT) IS NULL OR p.name = $10) AND (CAST($11 AS TEXT) IS NULL OR a.name = $11)
        ORDER BY j.id DESC LIMIT $12");
    LOG = "SELECT attempt, at, line FROM (SELECT id, attempt, at, line FROM job_log WHERE job_id = $1
        ORDER BY id DESC LIMIT $2) newest ORDER BY id";
    CHANGES = changes!("");
    // What is below the oldest transaction in progress is complete: nothing can appear before it any more.
    CHANGES_POSTGRES =
        changes!(" AND j.change < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)");
    LAST_CHANGE = "SELECT COALESCE(MAX(change), 0) FROM job";
    LAST_CHANGE_POSTGRES = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) - 1";
}

/// How many lines of a job's log are shown.
const LINES: i64 = 500;

impl Tx {
    /// A job.
    pub async fn find_job(&mut self, id: JobId) -> Result<Option<JobViewRow>, StoreError> {
        fetch_optional!(self, JobViewRow, GET, id)
    }

    /// A job with its log.
    pub async fn describe_job(&mut self, row: JobViewRow) -> Result<JobDetail, StoreError> {
        let lines = fetch_all!(self, LogRow, LOG, row.id, LINES)?;
        let line = |row: LogRow| JobLogLine { attempt: row.attempt, at: row.at, line: row.line };
        Ok(JobDetail { job: row.into(), log: lines.into_iter().map(line).collect() })
    }

    /// The jobs within a reach that a filter lets through, newest first.
    pub async fn list_jobs(
        &mut self,
        reach: &JobReach,
        filter: &JobFilter,
        limit: u32,
    ) -> Result<JobPage, StoreError> {
        let rows = fetch_all!(
            self,
            JobViewRow,
            LIST,
            reach.admin.everything,
            list(&reach.admin.projects),
            list(&reach.admin.apps),
            reach.view.everything,
            list(&reach.view.projects),
            list(&reach.view.apps),
            filter.before.map_or(i64::MAX, |id| id.0),
            filter.kind.as_deref(),
            filter.state.map(JobState::as_str),
            filter.project.as_ref().map(ProjectName::as_str),
            filter.app.as_ref().map(AppName::as_str),
            i64::from(limit) + 1
        )?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<JobInfo> = rows.into_iter().take(limit as usize).map(JobInfo::from).collect();
        let next_cursor = items.last().filter(|_| has_more).map(|job| job.id.to_string());
        Ok(JobPage { items, limit, has_more, next_cursor })
    }

    /// The jobs within a reach that have changed behind a place, in the order of commits. Of several changes of one
    /// job only the last is there.
    pub async fn job_changes(
        &mut self,
        reach: &JobReach,
        after: ChangePlace,
        limit: u32,
    ) -> Result<Vec<JobViewRow>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => CHANGES,
            Self::Postgres(_) => CHANGES_POSTGRES,
        };
        let JobReach { admin, view } = reach;
        fetch_all!(
            self,
            JobViewRow,
            sql,
            admin.everything,
            list(&admin.projects),
            list(&admin.apps),
            view.everything,
            list(&view.projects),
            list(&view.apps),
            after.change,
            after.id,
            i64::from(limit)
        )
    }

    /// The place behind everything that has changed so far.
    pub async fn last_job_change(&mut self) -> Result<ChangePlace, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => LAST_CHANGE,
            Self::Postgres(_) => LAST_CHANGE_POSTGRES,
        };
        let (change,) = fetch_one!(self, (i64,), sql)?;
        Ok(ChangePlace { change, id: i64::MAX })
    }
}
