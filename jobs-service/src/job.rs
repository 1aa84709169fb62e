//! The job API: lists, one with its log, retry and cancel.

use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use kkartifact_model::api::job::{JobCounts, JobDetail, JobInfo, JobPage, JobState};
use kkartifact_model::api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use kkartifact_model::{AppName, Code, Permission, ProjectName};
use kkartifact_service::http::extract::{Json, Query, path_param};
use kkartifact_service::{ApiError, ApiResult, Caller, Object, Resources};
use kkartifact_store::{JobFilter, JobId, JobReach, JobViewRow, NewAudit, Outcome, StoreError, Tx};
use serde::Deserialize;
use serde_json::json;

/// `{job}`
pub(crate) struct NamedJob(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for NamedJob {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        path_param::<i64>(parts, "job").await.map(|id| Self(JobId(id)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    kind: Option<String>,
    state: Option<JobState>,
    project: Option<ProjectName>,
    app: Option<AppName>,
    limit: Option<u32>,
    cursor: Option<i64>,
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    caller: Caller,
    Query(params): Query<ListParams>,
) -> ApiResult<Json<JobPage>> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MAX_LIMIT}")));
    }
    let filter = JobFilter {
        kind: params.kind,
        state: params.state,
        project: params.project,
        app: params.app,
        before: params.cursor.map(JobId),
    };
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_jobs(&visible(&caller), &filter, limit).await?))
}

pub(crate) async fn counts(State(resources): State<Resources>, caller: Caller) -> ApiResult<Json<JobCounts>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.count_jobs(&visible(&caller)).await?))
}

/// What is sent to whom is nobody's business but that of who may see the webhook.
const DELIVERY: &str = "deliver_webhook";

/// The jobs that a caller may see. What the server does for itself is for those who run it.
pub(crate) fn visible(caller: &Caller) -> JobReach {
    let grants = caller.grants();
    JobReach { admin: grants.reach(Permission::Admin), view: grants.reach(Permission::View) }
}

/// A job that the caller may see.
async fn find(tx: &mut Tx, caller: &Caller, id: JobId) -> ApiResult<JobViewRow> {
    let hidden = || ApiError::not_found(&format!("job {}", id.0));
    let row = tx.find_job(id).await?.ok_or_else(hidden)?;
    let object = Object::of(row.project_id, row.app_id);
    let inner = row.project_id.is_none() || row.kind() == DELIVERY;
    let needed = if inner { Permission::Admin } else { Permission::View };
    if caller.grants().permissions(object).contains(needed) { Ok(row) } else { Err(hidden().as_refusal()) }
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    caller: Caller,
    NamedJob(id): NamedJob,
) -> ApiResult<Json<JobDetail>> {
    let mut tx = resources.db.snapshot().await?;
    let row = find(&mut tx, &caller, id).await?;
    Ok(Json(tx.describe_job(row).await?))
}

/// A job that the caller may change.
async fn find_managed(tx: &mut Tx, caller: &Caller, id: JobId) -> ApiResult<JobViewRow> {
    let row = find(tx, caller, id).await?;
    let object = Object::of(row.project_id, row.app_id);
    if caller.grants().permissions(object).contains(Permission::Admin) {
        return Ok(row);
    }
    let message = "your credential lacks the permission 'admin' where the job belongs";
    Err(ApiError::new(Code::Forbidden, message).as_refusal())
}

/// Queues a job again that came to nothing.
pub(crate) async fn retry(
    State(resources): State<Resources>,
    caller: Caller,
    NamedJob(id): NamedJob,
) -> ApiResult<Json<JobInfo>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let row = find_managed(&mut tx, &caller, id).await?;
    let queued = tx.requeue_job(id, now).await.map_err(|error| match error {
        StoreError::Conflict => ApiError::new(Code::InUse, "another job does the same and is queued already"),
        other => other.into(),
    })?;
    if !queued {
        let message =
            format!("job {} is {}; what failed, died or was cancelled can be retried", id.0, row.state);
        return Err(ApiError::new(Code::InUse, message));
    }
    if let Some(delivery) = delivery_of(&row) {
        tx.reopen_delivery(delivery, now).await?;
    }
    let info = changed(&mut tx, &caller, &row, "job.retry", now).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(info))
}

/// Calls a job off. What an attempt in progress does from now on has no effect.
pub(crate) async fn cancel(
    State(resources): State<Resources>,
    caller: Caller,
    NamedJob(id): NamedJob,
) -> ApiResult<Json<JobInfo>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let row = find_managed(&mut tx, &caller, id).await?;
    if !tx.cancel_job(id, now).await? {
        return Err(ApiError::new(Code::InUse, format!("job {} is over: it is {}", id.0, row.state)));
    }
    if let Some(delivery) = delivery_of(&row) {
        tx.cancel_delivery(delivery, now).await?;
    }
    let info = changed(&mut tx, &caller, &row, "job.cancel", now).await?;
    tx.commit().await?;
    Ok(Json(info))
}

fn delivery_of(row: &JobViewRow) -> Option<i64> {
    if row.kind() == DELIVERY { row.payload()["delivery"].as_i64() } else { None }
}

async fn changed(
    tx: &mut Tx,
    caller: &Caller,
    row: &JobViewRow,
    action: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> ApiResult<JobInfo> {
    let row = tx.find_job(row.id).await?.ok_or_else(|| ApiError::internal("a job vanished"))?;
    let info = JobInfo::from(row);
    let audit = NewAudit {
        action,
        project: info.project.as_ref().map(ProjectName::as_str),
        app: info.app.as_ref().map(AppName::as_str),
        detail: json!({ "job": info.id, "kind": info.kind }),
        ..NewAudit::default()
    };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    Ok(info)
}
