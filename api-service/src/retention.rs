//! Retention: how many versions of each app stay. A job deletes or archives the others.

use axum::extract::State;
use kkartifact_model::api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use kkartifact_model::api::retention::{Expendable, MOST_DAYS, Retention, RetentionPreview, SETTING};
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, Query};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{ExpendablePlace, ExpendableRow, NewAudit, Outcome, RetentionRule, Tx};
use serde::Deserialize;

/// How many apps are looked at together.
const APPS: u32 = 500;
/// How many times: a page of a preview comes to an end also where nothing is found.
const LOOKS: usize = 100;

/// The rule for every app.
pub(crate) async fn get(State(resources): State<Resources>) -> ApiResult<Json<Retention>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.retention().await?))
}

/// Replaces the rule for every app. Nothing happens before the job's next run.
pub(crate) async fn set(
    State(resources): State<Resources>,
    caller: Caller,
    Json(retention): Json<Retention>,
) -> ApiResult<Json<Retention>> {
    check_keep(retention.keep)?;
    if retention.keep_days > MOST_DAYS {
        let days = retention.keep_days;
        return Err(ApiError::invalid(format!("keep_days is {days}; it must be at most {MOST_DAYS}")));
    }
    if resources.config.retention.is_some() {
        let why = "retention stands in the configuration: change it there";
        return Err(ApiError::new(Code::InUse, why));
    }
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    // As they are now: the body may have taken its time.
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    caller.require_global(Permission::Admin)?;
    let detail = serde_json::to_value(retention).map_err(ApiError::internal)?;
    tx.put_setting(SETTING, &detail, now).await?;
    let row = NewAudit { action: "retention.set", detail, ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &row, now).await?;
    tx.commit().await?;
    Ok(Json(retention))
}

fn check_keep(keep: Option<u32>) -> ApiResult<()> {
    if keep == Some(0) {
        return Err(ApiError::invalid("keep is 0; it must be at least 1, or absent to keep all"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewParams {
    /// Another number than the one that is set.
    keep: Option<u32>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What a run would delete or archive now, by app and age. A page may have fewer items than its limit though more
/// follow.
pub(crate) async fn preview(
    State(resources): State<Resources>,
    Query(params): Query<PreviewParams>,
) -> ApiResult<Json<RetentionPreview>> {
    check_keep(params.keep)?;
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MAX_LIMIT}")));
    }
    let after = params.cursor.as_deref().map_or(Some(ExpendablePlace::START), ExpendablePlace::decode);
    let after = after.ok_or_else(|| ApiError::invalid("cursor is not one that a list has answered"))?;
    let mut tx = resources.db.read().await?;
    let set = tx.retention().await?;
    let retention = Retention { keep: params.keep.or(set.keep), ..set };
    let (rows, next) = match RetentionRule::of(&retention, resources.clock.now()) {
        Some(rule) => find(&mut tx, &rule, after, limit as usize).await?,
        None => (Vec::new(), None),
    };
    Ok(Json(RetentionPreview {
        retention,
        items: rows.into_iter().map(Expendable::from).collect(),
        has_more: next.is_some(),
        next_cursor: next.map(ExpendablePlace::encode),
    }))
}

/// At most `limit` versions behind a place, and the place where it goes on.
async fn find(
    tx: &mut Tx,
    rule: &RetentionRule,
    mut after: ExpendablePlace,
    limit: usize,
) -> ApiResult<(Vec<ExpendableRow>, Option<ExpendablePlace>)> {
    let mut rows: Vec<ExpendableRow> = Vec::new();
    for _ in 0..LOOKS {
        let Some(until) = tx.last_of_apps(after.app_before(), APPS).await? else { return Ok((rows, None)) };
        // One more than the page holds, to see whether more follow.
        let wanted = u32::try_from(limit + 1 - rows.len()).unwrap_or(MAX_LIMIT);
        rows.extend(tx.expendable(rule, &after, until, wanted).await?);
        if rows.len() > limit {
            rows.truncate(limit);
            let last = rows.last().map(ExpendableRow::place);
            return Ok((rows, last));
        }
        after = ExpendablePlace::behind(until);
    }
    Ok((rows, Some(after)))
}
