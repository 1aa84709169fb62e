//! Batch queries: the versions of many apps in one call. Few apps are answered at once; many become a job, whose lines
//! its maker fetches.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use kkartifact_model::api::batch::{
    AT_ONCE, AppRef, BatchAnswer, BatchEntry, BatchFilter, BatchQuery, BatchQueued, MOST,
};
use kkartifact_model::api::job::JobState;
use kkartifact_model::api::version::Version;
use kkartifact_model::job::Job;
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, Caller, Object, Resources};
use kkartifact_store::{
    AppId, BatchLineRow, JobId, NewBatchLine, NewJob, OpenBatchLine, StoreError, Tx, batch_lane,
};
use serde_json::json;

use crate::attempt::{Attempt, Failure, Outcome};
use crate::job::NamedJob;

/// The most versions of each app.
const VERSIONS: u32 = 100;
/// How many versions the job reads together.
const TOGETHER: u32 = 5000;
/// How many answers of one caller are kept, beside those that are being made.
const KEPT: u32 = 100;
/// How many lines are read together.
const LINES: u32 = 50;
/// How many apps that could not be read are told of in the log.
const TOLD: usize = 20;

/// Answers at once, or queues the job that does.
pub(crate) async fn versions(
    State(resources): State<Resources>,
    caller: Caller,
    Json(query): Json<BatchQuery>,
) -> ApiResult<Response> {
    check(&query)?;
    let filter = query.filter();
    if query.apps.len() > AT_ONCE {
        let queued = queue(&resources, &caller, &query.apps, filter).await?;
        return Ok((StatusCode::ACCEPTED, Json(queued)).into_response());
    }
    let mut tx = resources.db.snapshot().await?;
    let apps = readable(&mut tx, &caller, &query.apps).await?;
    let ids: Vec<_> = apps.iter().flatten().copied().collect();
    let found = tx.newest_versions(&ids, &filter).await?;
    let answer = |(asked, app): (AppRef, Option<AppId>)| match app {
        Some(app) => entry(asked, found.get(&app).cloned().unwrap_or_default()),
        None => nothing(asked, Code::NotFound),
    };
    let items = query.apps.into_iter().zip(apps).map(answer).collect();
    Ok(Json(BatchAnswer { items }).into_response())
}

/// The most versions of an answer.
const MOST_VERSIONS: usize = 100_000;

fn check(query: &BatchQuery) -> ApiResult<()> {
    if query.apps.is_empty() {
        return Err(ApiError::invalid("apps is empty; name at least one"));
    }
    if query.apps.len() > MOST {
        let message = format!("the query names {} apps; it can name at most {MOST}", query.apps.len());
        return Err(ApiError::new(Code::TooLarge, message));
    }
    if !(1..=VERSIONS).contains(&query.limit) {
        return Err(ApiError::invalid(format!("limit is {}; it must be 1 to {VERSIONS}", query.limit)));
    }
    let versions = query.apps.len() * query.limit as usize;
    if versions > MOST_VERSIONS {
        let message =
            format!("the answer could have {versions} versions; it can have {MOST_VERSIONS}: lower limit");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    let is_bad = |text: &Option<String>, most: usize| {
        text.as_ref()
            .is_some_and(|text| text.is_empty() || text.len() > most || text.chars().any(char::is_control))
    };
    let no_key = query.label.as_ref().is_some_and(|label| label.starts_with('='));
    if no_key || is_bad(&query.label, 400) || is_bad(&query.git_commit, 64) {
        return Err(ApiError::invalid(
            "label is key or key=value of 1 to 400 bytes, git_commit 1 to 64, without control characters",
        ));
    }
    Ok(())
}

/// The apps of these names that the caller may see, in the same order.
async fn readable(tx: &mut Tx, caller: &Caller, asked: &[AppRef]) -> ApiResult<Vec<Option<AppId>>> {
    let grants = caller.grants();
    let sees = |(project, app): (_, AppId)| {
        grants.permissions(Object::App(project, app)).contains(Permission::View).then_some(app)
    };
    Ok(tx.find_apps(asked).await?.into_iter().map(|found| found.and_then(sees)).collect())
}

fn entry(asked: AppRef, versions: Vec<Version>) -> BatchEntry {
    BatchEntry { project: asked.project, app: asked.app, versions, error: None }
}

fn nothing(asked: AppRef, code: Code) -> BatchEntry {
    BatchEntry { error: Some(code.as_str().to_owned()), ..entry(asked, Vec::new()) }
}

fn line(entry: &BatchEntry) -> ApiResult<String> {
    serde_json::to_string(entry).map_err(ApiError::internal)
}

/// Queues the job with its lines. What the caller may not see is answered now: the job has no credential to ask with.
async fn queue(
    resources: &Resources,
    caller: &Caller,
    apps: &[AppRef],
    filter: BatchFilter,
) -> ApiResult<BatchQueued> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    // As they are now: the body may have taken its time.
    let caller = resources.auth.again(&mut tx, caller, now).await?;
    let most = resources.config.jobs.batch_queries;
    if tx.count_batch_queries(caller.principal).await? >= u64::from(most) {
        let message =
            format!("{most} of your batch queries are queued or running; wait until one of them is done");
        return Err(ApiError::new(Code::TooManyRequests, message));
    }
    tx.forget_batch_query(caller.principal, KEPT).await?;
    let (actor, job) = (caller.actor(), Job::QueryVersions(filter));
    let new = NewJob {
        principal: Some(caller.principal),
        lane: &batch_lane(caller.principal),
        trace_parent: actor.trace_parent.as_deref(),
        ..NewJob::new(&job, now)
    };
    let id = tx.insert_job(&new, now).await?.ok_or_else(|| ApiError::internal("the job was not queued"))?;
    let mut ordinals = 0..;
    for asked in apps.chunks(AT_ONCE) {
        let mut lines = Vec::with_capacity(asked.len());
        let found = readable(&mut tx, &caller, asked).await?;
        for ((asked, app), ordinal) in asked.iter().zip(found).zip(ordinals.by_ref()) {
            let line = match app {
                Some(_) => String::new(),
                None => line(&nothing(asked.clone(), Code::NotFound))?,
            };
            lines.push(NewBatchLine { ordinal, app, line });
        }
        tx.put_batch_lines(id, &lines).await?;
    }
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(BatchQueued { job_id: id.0, result: format!("/api/v1/batch/{}", id.0) })
}

/// Makes the lines that are to be made.
pub(crate) async fn run(attempt: &Attempt, filter: &BatchFilter) -> Outcome {
    let size = (TOGETHER / filter.limit.max(1)).clamp(1, 500);
    let (mut after, mut answered, mut skipped) = (-1, 0, 0);
    loop {
        // Looking takes time, so it is not done where others wait to write.
        let mut tx = attempt.resources.db.read().await?;
        let open = tx.open_batch_lines(attempt.row.id, after, size).await?;
        let Some(last) = open.last() else { break };
        after = last.ordinal;
        answered += open.len();
        let (found, bad) = find(&mut tx, &open, filter).await?;
        tx.commit().await?;
        let mut tx = attempt.begin().await?;
        tx.put_batch_lines(attempt.row.id, &lines(open, &found, &bad)?).await?;
        tx.commit().await?;
        for (app, why) in bad.iter().take(TOLD.saturating_sub(skipped)) {
            attempt.note(format!("app {} can't be read: {why}", app.0)).await?;
        }
        skipped += bad.len();
        attempt.progress(json!({ "answered": answered, "skipped": skipped })).await?;
    }
    Ok(Some(json!({ "answered": answered, "skipped": skipped })))
}

/// The versions of apps, and why those of some can't be read.
async fn find(
    tx: &mut Tx,
    open: &[OpenBatchLine],
    filter: &BatchFilter,
) -> Result<(HashMap<AppId, Vec<Version>>, HashMap<AppId, String>), Failure> {
    let apps: Vec<_> = open.iter().map(|line| line.app_id).collect();
    match tx.newest_versions(&apps, filter).await {
        Err(StoreError::Corrupt(_)) => {}
        found => return Ok((found?, HashMap::new())),
    }
    // One by one, to find out whose row it is.
    let (mut found, mut bad) = (HashMap::new(), HashMap::new());
    for app in apps {
        match tx.newest_versions(&[app], filter).await {
            Ok(versions) => found.extend(versions),
            Err(StoreError::Corrupt(why)) => drop(bad.insert(app, why)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((found, bad))
}

fn lines(
    open: Vec<OpenBatchLine>,
    found: &HashMap<AppId, Vec<Version>>,
    bad: &HashMap<AppId, String>,
) -> ApiResult<Vec<NewBatchLine>> {
    let make = |open: OpenBatchLine| {
        let (ordinal, app) = (open.ordinal, open.app_id);
        let asked = AppRef { project: open.project, app: open.app };
        let entry = if bad.contains_key(&app) {
            nothing(asked, Code::Internal)
        } else {
            entry(asked, found.get(&app).cloned().unwrap_or_default())
        };
        Ok(NewBatchLine { ordinal, app: Some(app), line: line(&entry)? })
    };
    open.into_iter().map(make).collect()
}

/// The answer as JSON lines, for whoever has asked: what they may see now of what they could see then.
pub(crate) async fn result(
    State(resources): State<Resources>,
    caller: Caller,
    NamedJob(id): NamedJob,
) -> ApiResult<Response> {
    let hidden = || ApiError::not_found(&format!("batch {}", id.0));
    let mut tx = resources.db.read().await?;
    let job = tx.find_job(id).await?.filter(|job| job.kind() == "query_versions").ok_or_else(hidden)?;
    if job.principal_id != Some(caller.principal) {
        return Err(hidden().as_refusal());
    }
    match job.state {
        JobState::Succeeded => {}
        JobState::Queued | JobState::Running => {
            let message = format!("batch {} is {}; ask again soon", id.0, job.state);
            return Err(ApiError::new(Code::NotReady, message));
        }
        JobState::Failed | JobState::Dead | JobState::Cancelled => {
            let message = format!("batch {} is {} and has no result; send the query again", id.0, job.state);
            return Err(ApiError::new(Code::NotFound, message));
        }
    }
    let left = tx.count_batch_lines(id).await?;
    tx.commit().await?;
    let mut reading = Reading { resources, caller, id, after: -1, left };
    // The first lines before the head of the answer: a database that is away is an error, not half an answer.
    let first = reading.page().await?;
    let pages = stream::unfold((Some(first), reading), |(first, mut reading)| async move {
        if let Some(page) = first {
            return Some((Ok(page), (None, reading)));
        }
        if reading.left == 0 {
            return None;
        }
        let page = reading.page().await.map_err(|error| {
            // A cut answer must not pass for a whole one.
            reading.left = 0;
            std::io::Error::other(error)
        });
        Some((page, (None, reading)))
    });
    let mut response = Body::from_stream(pages).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// An answer that is being read.
struct Reading {
    resources: Resources,
    caller: Caller,
    id: JobId,
    /// The last line that was read.
    after: i32,
    /// How many lines follow.
    left: u64,
}

impl Reading {
    /// The next lines, as text.
    async fn page(&mut self) -> ApiResult<Bytes> {
        let mut tx = self.resources.db.read().await?;
        let caller = self.resources.auth.again(&mut tx, &self.caller, self.resources.clock.now()).await?;
        let rows = tx.batch_lines(self.id, self.after, LINES).await?;
        let Some(last) = rows.last() else {
            return Err(ApiError::internal(format!("lines of batch {} are gone", self.id.0)));
        };
        self.after = last.ordinal;
        self.left = self.left.saturating_sub(rows.len() as u64);
        let mut text = String::new();
        for row in rows {
            text.push_str(&show(row, &caller)?);
            text.push('\n');
        }
        Ok(text.into())
    }
}

/// A line, if the caller may still see the app that it tells of.
fn show(row: BatchLineRow, caller: &Caller) -> ApiResult<String> {
    let is_visible = match (row.app_id, row.project_id) {
        (Some(app), Some(project)) => {
            let permissions = caller.grants().permissions(Object::App(project, app));
            !row.gone && permissions.contains(Permission::View)
        }
        (None, _) => true,
        (Some(_), None) => false,
    };
    if is_visible {
        return Ok(row.line);
    }
    let BatchEntry { project, app, .. } = serde_json::from_str(&row.line).map_err(ApiError::internal)?;
    line(&nothing(AppRef { project, app }, Code::NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(apps: usize) -> BatchQuery {
        let app = AppRef { project: "shop".into(), app: "web".into() };
        BatchQuery { apps: vec![app; apps], limit: 1, channel: None, label: None, git_commit: None }
    }

    #[test]
    fn queries_are_bounded() {
        assert!(check(&query(1)).is_ok() && check(&query(MOST)).is_ok());
        assert_eq!(check(&query(0)).unwrap_err().code, Code::InvalidRequest);
        assert_eq!(check(&query(MOST + 1)).unwrap_err().code, Code::TooLarge);
        for limit in [0, VERSIONS + 1] {
            assert!(check(&BatchQuery { limit, ..query(1) }).is_err(), "{limit}");
        }
        for label in ["", "a\0b"] {
            assert!(check(&BatchQuery { label: Some(label.into()), ..query(1) }).is_err(), "{label:?}");
        }
        assert!(check(&BatchQuery { git_commit: Some("c".repeat(65)), ..query(1) }).is_err());
    }

    #[test]
    fn an_app_that_is_not_there_is_an_entry_with_an_error() {
        let asked = AppRef { project: "a/b".into(), app: "\0".into() };
        let text = line(&nothing(asked, Code::NotFound)).unwrap();
        let expected = r#"{"project":"a/b","app":"\u0000","versions":[],"error":"not_found"}"#;
        assert_eq!(text, expected);
    }
}
