//! Batch queries: the newest versions of many apps, and the lines of answers that are made by a job.

use std::collections::HashMap;

use kkartifact_model::api::batch::{AppRef, BatchFilter};
use kkartifact_model::api::version::Version;
use kkartifact_model::{AppName, ChannelName, ProjectName};

use crate::error::StoreError;
use crate::id::{AppId, JobId, PrincipalId, ProjectId};
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_one, statements};
use crate::version::{VersionRow, version_columns, version_names};
use crate::version_label::{LabelFilter, labelled};

/// A line of an answer.
#[derive(Debug, Clone)]
pub struct NewBatchLine {
    /// Its place in the question, from 0.
    pub ordinal: i32,
    /// The app that it tells of; absent where it tells of none.
    pub app: Option<AppId>,
    /// A `BatchEntry` as JSON; empty as long as it is to be made.
    pub line: String,
}

/// A line that is to be made.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenBatchLine {
    /// Its place in the question.
    pub ordinal: i32,
    /// The app that it is to tell of.
    pub app_id: AppId,
    /// The app's project.
    pub project: String,
    /// The app's name.
    pub app: String,
}

/// A line that was made.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct BatchLineRow {
    /// Its place in the question.
    pub ordinal: i32,
    /// The app that it tells of; absent where it tells of none.
    pub app_id: Option<AppId>,
    /// The app's project.
    pub project_id: Option<ProjectId>,
    /// Whether the app has been deleted since.
    pub gone: bool,
    /// A `BatchEntry` as JSON.
    pub line: String,
}

/// The place of a name in a list, and whose it is.
type Found = (i64, ProjectId, AppId);

// An app's newest versions that the filter lets through.
macro_rules! newest {
    ($app:literal) => {
        concat!(
            "SELECT w.id FROM version w WHERE w.app_id = ",
            $app,
            " AND w.state <> 'deleted' AND w.state <> 'purged'
                AND (CAST($2 AS TEXT) IS NULL OR w.git_commit = $2)
                AND (CAST($3 AS TEXT) IS NULL OR w.id IN (
                    SELECT c.version_id FROM channel c WHERE c.app_id = w.app_id AND c.name = $3))
                AND ",
            labelled!("w.id", "$4", "$5"),
            " ORDER BY w.created_at DESC, w.id DESC LIMIT $6"
        )
    };
}

macro_rules! put {
    ($rows:literal) => {
        concat!(
            "INSERT INTO batch_result (job_id, ordinal, app_id, line) ",
            $rows,
            " ON CONFLICT (job_id, ordinal) DO UPDATE SET line = EXCLUDED.line"
        )
    };
}

statements! {
    FIND_POSTGRES = "SELECT q.place - 1 AS place, a.project_id, a.id
        FROM UNNEST($1::TEXT[], $2::TEXT[]) WITH ORDINALITY AS q (project, app, place)
        JOIN project p ON p.name = q.project JOIN app a ON a.project_id = p.id AND a.name = q.app
        WHERE p.state <> 'deleted' AND a.state <> 'deleted'";
    NEWEST = concat!("SELECT ", version_columns!(), "FROM json_each($1) q CROSS JOIN version v ", version_names!(),
        "WHERE v.id IN (", newest!("CAST(q.value AS BIGINT)"), ") ORDER BY v.app_id, v.created_at DESC, v.id DESC");
    // There the planner would look at every pair of an app and a version.
    NEWEST_POSTGRES = concat!("SELECT ", version_columns!(), "FROM json_each($1) q CROSS JOIN LATERAL (",
        newest!("CAST(q.value AS BIGINT)"), ") n JOIN version v ON v.id = n.id ", version_names!(),
        "ORDER BY v.app_id, v.created_at DESC, v.id DESC");
    PUT_POSTGRES =
        put!("SELECT $1, u.ordinal, u.app_id, u.line
            FROM UNNEST($2::INTEGER[], $3::BIGINT[], $4::TEXT[]) AS u (ordinal, app_id, line)");
    OPEN = "SELECT r.ordinal, r.app_id, p.name AS project, a.name AS app
        FROM batch_result r JOIN app a ON a.id = r.app_id JOIN project p ON p.id = a.project_id
        WHERE r.job_id = $1 AND r.ordinal > $2 AND r.line = '' ORDER BY r.ordinal LIMIT $3";
    LINES = "SELECT r.ordinal, r.app_id, a.project_id,
            COALESCE(a.state = 'deleted' OR p.state = 'deleted', FALSE) AS gone, r.line
        FROM batch_result r LEFT JOIN app a ON a.id = r.app_id LEFT JOIN project p ON p.id = a.project_id
        WHERE r.job_id = $1 AND r.ordinal > $2 ORDER BY r.ordinal LIMIT $3";
    COUNT = "SELECT COUNT(*) FROM batch_result WHERE job_id = $1";
    LOCK_POSTGRES = "SELECT id FROM principal WHERE id = $1 FOR NO KEY UPDATE";
    QUERIES = "SELECT COUNT(*) FROM job WHERE state IN ('queued', 'running') AND kind = 'query_versions' AND lane = $1";
    // SQLite numbers changes from the greatest one there is: its row stays.
    FORGET = "DELETE FROM job WHERE state NOT IN ('queued', 'running') AND id IN (SELECT MIN(o.id) FROM (
        SELECT j.id FROM job j WHERE j.state IN ('succeeded', 'failed', 'dead', 'cancelled')
            AND j.kind = 'query_versions' AND j.lane = $1 AND j.change < (SELECT MAX(change) FROM job)
        ORDER BY j.id DESC LIMIT 1000 OFFSET $2) o)";
}

/// The lane of the batch queries that somebody asks: they are found by it, and don't take all the workers.
pub fn batch_lane(principal: PrincipalId) -> String {
    principal.0.to_string()
}

// Pairs as one parameter: PostgreSQL's JSON functions have other names.
const FIND_SQLITE: &str = "SELECT q.key AS place, a.project_id, a.id
    FROM json_each(?1) q CROSS JOIN project p ON p.name = json_extract(q.value, '$[0]')
    JOIN app a ON a.project_id = p.id AND a.name = json_extract(q.value, '$[1]')
    WHERE p.state <> 'deleted' AND a.state <> 'deleted'";
// Without WHERE, SQLite would take ON for a join's.
const PUT_SQLITE: &str = put!(
    "SELECT ?1, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]') FROM json_each(?2) WHERE TRUE"
);

impl Tx {
    /// The apps of these names, in the same order; `None` for one that is not there or whose name breaks the rules.
    /// Callers bound the number of names.
    pub async fn find_apps(
        &mut self,
        names: &[AppRef],
    ) -> Result<Vec<Option<(ProjectId, AppId)>>, StoreError> {
        let is_valid = |name: &AppRef| {
            name.project.parse::<ProjectName>().is_ok() && name.app.parse::<AppName>().is_ok()
        };
        let asked: Vec<(usize, &AppRef)> =
            names.iter().enumerate().filter(|(_, name)| is_valid(name)).collect();
        let rows = match self {
            Self::Sqlite(tx) => {
                let pairs: Vec<_> = asked.iter().map(|(_, name)| (&name.project, &name.app)).collect();
                sqlx::query_as::<_, Found>(FIND_SQLITE).bind(list(&pairs)).fetch_all(&mut **tx).await?
            }
            Self::Postgres(tx) => {
                let projects: Vec<_> = asked.iter().map(|(_, name)| name.project.as_str()).collect();
                let apps: Vec<_> = asked.iter().map(|(_, name)| name.app.as_str()).collect();
                sqlx::query_as::<_, Found>(FIND_POSTGRES)
                    .bind(projects)
                    .bind(apps)
                    .fetch_all(&mut **tx)
                    .await?
            }
        };
        let mut found = vec![None; names.len()];
        for (place, project, app) in rows {
            if let Some((place, _)) = usize::try_from(place).ok().and_then(|place| asked.get(place))
                && let Some(slot) = found.get_mut(*place)
            {
                *slot = Some((project, app));
            }
        }
        Ok(found)
    }

    /// The newest versions of apps that a filter lets through, newest first; apps without any are absent. Callers
    /// bound the number of apps times the filter's limit.
    pub async fn newest_versions(
        &mut self,
        apps: &[AppId],
        filter: &BatchFilter,
    ) -> Result<HashMap<AppId, Vec<Version>>, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => NEWEST,
            Self::Postgres(_) => NEWEST_POSTGRES,
        };
        let mut apps = apps.to_vec();
        apps.sort_unstable();
        apps.dedup();
        let label = filter.label.as_deref().map(LabelFilter::from);
        let rows = fetch_all!(
            self,
            VersionRow,
            sql,
            list(&apps),
            filter.git_commit.as_deref(),
            filter.channel.as_ref().map(ChannelName::as_str),
            label.as_ref().map(|label| label.key.as_str()),
            label.as_ref().and_then(|label| label.value.as_deref()),
            i64::from(filter.limit)
        )?;
        let owners: Vec<_> = rows.iter().map(|row| row.app_id).collect();
        let mut found: HashMap<AppId, Vec<Version>> = HashMap::new();
        for (app, version) in owners.into_iter().zip(self.describe_versions(rows).await?) {
            found.entry(app).or_default().push(version);
        }
        Ok(found)
    }

    /// Writes lines of the answer that a job makes; those that are there are replaced. Callers bound their number.
    pub async fn put_batch_lines(&mut self, job: JobId, lines: &[NewBatchLine]) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(tx) => {
                let rows: Vec<_> = lines.iter().map(|l| (l.ordinal, l.app, l.line.as_str())).collect();
                sqlx::query(PUT_SQLITE).bind(job).bind(list(&rows)).execute(&mut **tx).await?;
            }
            Self::Postgres(tx) => {
                sqlx::query(PUT_POSTGRES)
                    .bind(job)
                    .bind(lines.iter().map(|l| l.ordinal).collect::<Vec<_>>())
                    .bind(lines.iter().map(|l| l.app.map(|app| app.0)).collect::<Vec<_>>())
                    .bind(lines.iter().map(|l| l.line.as_str()).collect::<Vec<_>>())
                    .execute(&mut **tx)
                    .await?;
            }
        }
        Ok(())
    }

    /// Lines behind a place that are to be made, in their order.
    pub async fn open_batch_lines(
        &mut self,
        job: JobId,
        after: i32,
        limit: u32,
    ) -> Result<Vec<OpenBatchLine>, StoreError> {
        fetch_all!(self, OpenBatchLine, OPEN, job, after, i64::from(limit))
    }

    /// Lines behind a place, in their order.
    pub async fn batch_lines(
        &mut self,
        job: JobId,
        after: i32,
        limit: u32,
    ) -> Result<Vec<BatchLineRow>, StoreError> {
        fetch_all!(self, BatchLineRow, LINES, job, after, i64::from(limit))
    }

    /// How many lines the answer of a job has.
    pub async fn count_batch_lines(&mut self, job: JobId) -> Result<u64, StoreError> {
        let (count,) = fetch_one!(self, (i64,), COUNT, job)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many batch queries of a principal are queued or running. Holds off others who ask the same until the
    /// transaction ends, so that each counts what the one before has queued.
    pub async fn count_batch_queries(&mut self, principal: PrincipalId) -> Result<u64, StoreError> {
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK_POSTGRES, principal)?;
        }
        let (count,) = fetch_one!(self, (i64,), QUERIES, batch_lane(principal))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Removes the oldest batch query of a principal that is over, with its answer, if there are more than `keep` of
    /// them; whether it did. One at a time waits for nobody in a circle.
    pub async fn forget_batch_query(
        &mut self,
        principal: PrincipalId,
        keep: u32,
    ) -> Result<bool, StoreError> {
        execute!(self, FORGET, batch_lane(principal), i64::from(keep)).map(|rows| rows == 1)
    }
}
