//! Deleting the oldest versions of one app.

use axum::extract::State;
use kkartifact_model::api::version::{Prune, Pruned};
use kkartifact_model::{Permission, VersionRef};
use kkartifact_service::http::extract::Json;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources, lifecycle};

/// How many versions one call deletes at the most; a later call goes on.
const MOST: u32 = 1000;

/// Tombstones what lies behind the newest `keep`. Looking needs push, deleting admin.
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
    let mut tx = resources.db.begin().await?;
    if !prune.dry_run {
        AuthorizedApp::load(&mut tx, &caller, Permission::Admin, &app.project, &app.name).await?;
    }
    tx.lock_app(app.id).await?;
    let mut candidates = tx.versions_beyond(app.id, prune.keep, MOST).await?;
    candidates.reverse();
    let (protected, old): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|version| version.protected);
    if !prune.dry_run {
        for version in &old {
            let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(version.name.clone())).await?;
            let why = format!("pruned to the newest {}", prune.keep);
            lifecycle::delete(&mut tx, &app, &row, &caller.actor(), &why, now).await?;
        }
        tx.commit().await?;
        resources.jobs_queued.notify_waiters();
    }
    let names = |list: Vec<kkartifact_store::PruneCandidate>| list.into_iter().map(|v| v.name).collect();
    Ok(Json(Pruned { deleted: names(old), protected: names(protected), dry_run: prune.dry_run }))
}
