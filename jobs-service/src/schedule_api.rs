//! The API of schedules.

use axum::extract::{FromRequestParts, State};
use http::StatusCode;
use http::request::Parts;
use kkartifact_model::api::job::{QueuedJob, Schedule, ScheduleChange};
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, path_param};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{NewAudit, Outcome, ScheduleRow, Tx};
use serde::Serialize;
use serde_json::json;

use crate::schedule::{PLANS, describe, parse, queue};

/// `{schedule}`
pub(crate) struct NamedSchedule(String);

impl<S: Send + Sync> FromRequestParts<S> for NamedSchedule {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        path_param(parts, "schedule").await.map(Self)
    }
}

/// All schedules.
#[derive(Serialize)]
pub(crate) struct Schedules {
    items: Vec<Schedule>,
}

pub(crate) async fn list(State(resources): State<Resources>) -> ApiResult<Json<Schedules>> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let items = tx
        .list_schedules()
        .await?
        .into_iter()
        .map(|row| describe(row, &resources.config.jobs, now))
        .collect();
    Ok(Json(Schedules { items }))
}

async fn find(tx: &mut Tx, name: &str) -> ApiResult<ScheduleRow> {
    tx.find_schedule(name).await?.ok_or_else(|| ApiError::not_found(&format!("schedule {name}")))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    NamedSchedule(name): NamedSchedule,
) -> ApiResult<Json<Schedule>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(describe(find(&mut tx, &name).await?, &resources.config.jobs, resources.clock.now())))
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    NamedSchedule(name): NamedSchedule,
    Json(change): Json<ScheduleChange>,
) -> ApiResult<Json<Schedule>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    caller.require_global(Permission::Admin)?;
    let mut row = find(&mut tx, &name).await?;
    if resources.config.jobs.schedules.contains_key(&name) {
        let why = format!("schedule {name} stands in the configuration: change it there");
        return Err(ApiError::new(Code::InUse, why));
    }
    row.cron = change.cron.unwrap_or(row.cron);
    row.time_zone = change.time_zone.unwrap_or(row.time_zone);
    row.enabled = change.enabled.unwrap_or(row.enabled);
    parse(&row.cron, &row.time_zone, now)?;
    tx.change_schedule(&row, now).await?;
    let detail =
        json!({ "name": name, "cron": row.cron, "time_zone": row.time_zone, "enabled": row.enabled });
    let audit = NewAudit { action: "schedule.update", detail, ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    let row = find(&mut tx, &name).await?;
    tx.commit().await?;
    Ok(Json(describe(row, &resources.config.jobs, now)))
}

/// Does now what a schedule is for, whether or not it is enabled.
pub(crate) async fn run(
    State(resources): State<Resources>,
    caller: Caller,
    NamedSchedule(name): NamedSchedule,
) -> ApiResult<(StatusCode, Json<QueuedJob>)> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    caller.require_global(Permission::Admin)?;
    find(&mut tx, &name).await?;
    let plan = PLANS.iter().find(|plan| plan.name == name);
    let plan = plan.ok_or_else(|| ApiError::not_found(&format!("schedule {name}")))?;
    let queued = queue(&mut tx, plan, now).await?;
    let job = queued.ok_or_else(|| ApiError::new(Code::InUse, format!("{name} is queued already")))?;
    let detail = json!({ "name": name, "job": job.0 });
    let audit = NewAudit { action: "schedule.run", detail, ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok((StatusCode::ACCEPTED, Json(QueuedJob { job_id: job.0 })))
}
