//! Versions.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::version::{PullReport, Version, VersionState};
use kkartifact_model::event::EventKind;
use kkartifact_model::{Code, TreeDigest, VersionRef};
use kkartifact_service::http::extract::{AnyVersion, Json, NamedVersion, Paging, Query};
use kkartifact_service::lifecycle::{self, Happened};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{LabelFilter, Tx, VersionFilter, VersionRow};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct ListParams {
    /// Deleted and archived versions instead of those that are there.
    #[serde(default)]
    deleted: bool,
    git_commit: Option<String>,
    tree_digest: Option<TreeDigest>,
    /// `key` or `key=value`.
    label: Option<String>,
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    Query(params): Query<ListParams>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<Version>>> {
    if params.label.as_ref().is_some_and(|label| label.is_empty() || label.starts_with('=')) {
        return Err(ApiError::invalid("label is key or key=value"));
    }
    let filter = VersionFilter {
        deleted: params.deleted,
        git_commit: params.git_commit,
        tree_digest: params.tree_digest,
        label: params.label.as_deref().map(LabelFilter::from),
    };
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_versions(&app, &filter, page).await?))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    AnyVersion(version): AnyVersion,
) -> ApiResult<Json<Version>> {
    let mut tx = resources.db.read().await?;
    let row = lifecycle::visible(&mut tx, &app, &version).await?;
    Ok(Json(tx.describe_version(row).await?))
}

/// Refuses to take a version out of use that a channel points to, since whoever follows the channel would be left
/// without, or that is under legal hold.
async fn check_unused(tx: &mut Tx, row: &VersionRow) -> ApiResult<()> {
    if row.legal_hold {
        let message = format!("version {} is under legal hold; an admin has to lift it first", row.name);
        return Err(ApiError::new(Code::InUse, message));
    }
    let described = tx.describe_version(row.clone()).await?;
    if let Some(channel) = described.channels.first() {
        let message =
            format!("version {} is what channel {channel} points to; move the channel first", row.name);
        return Err(ApiError::new(Code::InUse, message));
    }
    Ok(())
}

/// Tombstones a version, also one that is archived.
pub(crate) async fn delete(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
) -> ApiResult<Json<Version>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(name)).await?;
    if !matches!(row.state, VersionState::Deleted | VersionState::Purged) {
        check_unused(&mut tx, &row).await?;
        lifecycle::delete(&mut tx, &app, &row, &caller.actor(), "deleted by hand", now).await?;
    }
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(row.name)).await?;
    let version = tx.describe_version(row).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(version))
}

/// Archives a version: nobody reads it until somebody restores it, and its bytes stay. Where it is archived already,
/// nothing changes.
pub(crate) async fn archive(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
) -> ApiResult<Json<Version>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(name)).await?;
    match row.state {
        VersionState::Published | VersionState::Quarantined => {
            check_unused(&mut tx, &row).await?;
            lifecycle::archive(&mut tx, &app, &row, &caller.actor(), "archived by hand", now).await?;
        }
        VersionState::Archived => {}
        VersionState::Deleted | VersionState::Purged => {
            let message = format!("version {} was deleted; restore it before it is archived", row.name);
            return Err(ApiError::new(Code::VersionDeleted, message));
        }
    }
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(row.name)).await?;
    let version = tx.describe_version(row).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(version))
}

/// Brings a tombstoned or archived version back, as long as its bytes are there.
pub(crate) async fn restore(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
) -> ApiResult<Json<Version>> {
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(name)).await?;
    match row.state {
        VersionState::Deleted | VersionState::Archived => {
            lifecycle::restore(&mut tx, &app, &row, &caller.actor(), resources.clock.now()).await?;
        }
        VersionState::Purged => {
            let message =
                format!("the bytes of {} have been collected; push the same content again", row.name);
            return Err(ApiError::new(Code::VersionDeleted, message));
        }
        VersionState::Published | VersionState::Quarantined => {}
    }
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(row.name)).await?;
    let version = tx.describe_version(row).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(version))
}

/// A host says that it has applied the version: that report is the pull.
pub(crate) async fn pulled(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
    Json(report): Json<PullReport>,
) -> ApiResult<StatusCode> {
    let (agent, target) = (&report.agent, &report.target);
    if agent.id.is_empty() || agent.id.len() > 64 || agent.host.len() > 255 || target.len() > 4095 {
        return Err(ApiError::invalid("agent.id has 1 to 64 bytes, agent.host at most 255, target 4095"));
    }
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    // Also of one that was deleted meanwhile: the host runs it.
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(name)).await?;
    tx.record_deployment(&agent.id, &agent.host, app.id, target, row.id, now).await?;
    let happened = Happened {
        app: &app,
        version: (row.id, row.name.as_str()),
        kind: EventKind::Pull,
        action: if report.rollback { "version.rollback-on-host" } else { "version.pull" },
        agent: Some((&agent.id, &agent.host)),
        detail: serde_json::json!({
            "agent": agent, "target": target, "previous": report.previous, "rollback": report.rollback,
            "bytes_received": report.bytes_received, "duration_ms": report.duration_ms,
        }),
    };
    happened.record(&mut tx, &caller.actor(), now).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(StatusCode::NO_CONTENT)
}
