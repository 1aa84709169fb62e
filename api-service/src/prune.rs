//! Deleting the oldest versions of one app.

use axum::extract::State;
use kkartifact_model::Permission;
use kkartifact_model::api::version::{Prune, Pruned};
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources, lifecycle};
use kkartifact_store::RetentionRule;

/// How many versions one call deletes at the most; a later call goes on.
const MOST: u32 = 1000;

/// Tombstones what lies behind the newest `keep` and nothing relies on, whatever its age and whatever retention does:
/// whoever calls has decided.
/// Looking needs push, deleting admin.
pub(crate) async fn prune(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    Json(prune): Json<Prune>,
) -> ApiResult<Json<Pruned>> {
    if prune.keep == 0 {
        return Err(ApiError::invalid("keep is 0; it must be at least 1"));
    }
    let now = resources.clock.now();
    let rule = RetentionRule::newest(prune.keep);
    let mut tx = if prune.dry_run { resources.db.read().await? } else { resources.db.begin().await? };
    if !prune.dry_run {
        AuthorizedApp::load(&mut tx, &caller, Permission::Admin, &app.project, &app.name).await?;
        tx.lock_app(app.id).await?;
    }
    let old = tx.expendable_of(&rule, app.id, MOST).await?;
    let protected = tx.protected_of(&rule, app.id, MOST).await?;
    if !prune.dry_run {
        let why = format!("pruned to the newest {}", prune.keep);
        for version in &old {
            let row = tx.version(version.id).await?;
            let row = row.ok_or_else(|| ApiError::internal("the version vanished"))?;
            lifecycle::delete(&mut tx, &app, &row, &caller.actor(), &why, now).await?;
        }
        tx.commit().await?;
        resources.jobs_queued.notify_waiters();
    }
    let deleted = old.into_iter().map(|version| version.name).collect();
    Ok(Json(Pruned { deleted, protected, dry_run: prune.dry_run }))
}
