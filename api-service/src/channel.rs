//! Channels: promoting, rolling back, history.

use axum::extract::State;
use kkartifact_model::api::channel::{Channel, ChannelMove, MoveAction, Promote, Rollback};
use kkartifact_model::event::EventKind;
use kkartifact_model::{ChannelName, Code, Permission, VersionRef};
use kkartifact_service::http::extract::{Json, NamedChannel, Query};
use kkartifact_service::lifecycle::{self, Happened};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{Tx, VersionRow};
use serde::Deserialize;

/// The most channels of an app that are listed, and the most moves of a page.
const MOST: u32 = 500;

/// Points a channel to a version. Pointing it to where it points already changes nothing.
pub(crate) async fn promote(
    State(resources): State<Resources>,
    caller: Caller,
    Json(promote): Json<Promote>,
) -> ApiResult<Json<Channel>> {
    if promote.channel.as_str() == "latest" {
        let message = "a channel can't be called latest: @latest is the newest version";
        return Err(ApiError::new(Code::InvalidName, message));
    }
    let mut tx = resources.db.begin().await?;
    let app = load(&mut tx, &caller, &promote.project, &promote.app).await?;
    let row = lifecycle::readable(&mut tx, &app, &VersionRef::Name(promote.version)).await?;
    if let Some(current) = tx.find_channel(app.id, &promote.channel).await?
        && current.version_id == row.id
    {
        return Ok(Json(current.into()));
    }
    let channel =
        move_to(&mut tx, &resources, &caller, &app, &promote.channel, &row, MoveAction::Promote).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(channel))
}

/// Moves a channel back: to the version named, or to the one before the current one.
pub(crate) async fn rollback(
    State(resources): State<Resources>,
    caller: Caller,
    Json(rollback): Json<Rollback>,
) -> ApiResult<Json<Channel>> {
    let mut tx = resources.db.begin().await?;
    let app = load(&mut tx, &caller, &rollback.project, &rollback.app).await?;
    let current = tx.find_channel(app.id, &rollback.channel).await?;
    let current = current.ok_or_else(|| ApiError::not_found(&format!("channel {}", rollback.channel)))?;
    let row = if let Some(name) = rollback.to {
        lifecycle::readable(&mut tx, &app, &VersionRef::Name(name)).await?
    } else {
        let nothing = || {
            let message = format!("channel {} has no earlier version that is still there", rollback.channel);
            ApiError::new(Code::NothingToRollBack, message)
        };
        let id = tx.rollback_target(&current).await?.ok_or_else(nothing)?;
        tx.version(id).await?.ok_or_else(nothing)?
    };
    if row.id == current.version_id {
        return Ok(Json(current.into()));
    }
    let channel =
        move_to(&mut tx, &resources, &caller, &app, &rollback.channel, &row, MoveAction::Rollback).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(channel))
}

/// The app, where the caller may promote; locked.
async fn load(
    tx: &mut Tx,
    caller: &Caller,
    project: &kkartifact_model::ProjectName,
    app: &kkartifact_model::AppName,
) -> ApiResult<AuthorizedApp> {
    let app = AuthorizedApp::load(tx, caller, Permission::Promote, project, app).await?;
    tx.lock_app(app.id).await?;
    Ok(app)
}

async fn move_to(
    tx: &mut Tx,
    resources: &Resources,
    caller: &Caller,
    app: &AuthorizedApp,
    channel: &ChannelName,
    version: &VersionRow,
    action: MoveAction,
) -> ApiResult<Channel> {
    let now = resources.clock.now();
    let actor = caller.actor();
    let moved: Channel = tx.move_channel(app.id, channel, version.id, action, &actor, now).await?.into();
    let (kind, name) = match action {
        MoveAction::Promote => (EventKind::Promote, "channel.promote"),
        MoveAction::Rollback => (EventKind::Rollback, "channel.rollback"),
    };
    let happened = Happened {
        app,
        version: (version.id, version.name.as_str()),
        kind,
        action: name,
        agent: None,
        detail: serde_json::json!({
            "channel": channel, "previous": moved.previous, "revision": moved.revision,
        }),
    };
    happened.record(tx, &actor, now).await?;
    Ok(moved)
}

pub(crate) async fn list(
    State(resources): State<Resources>,
    app: AuthorizedApp,
) -> ApiResult<Json<Vec<Channel>>> {
    let mut tx = resources.db.read().await?;
    let rows = tx.list_channels(app.id, MOST).await?;
    Ok(Json(rows.into_iter().map(Channel::from).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryParams {
    /// Only moves before this revision: the last one of the page before.
    before: Option<i64>,
    limit: Option<u32>,
}

pub(crate) async fn history(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    NamedChannel(name): NamedChannel,
    Query(params): Query<HistoryParams>,
) -> ApiResult<Json<Vec<ChannelMove>>> {
    let limit = params.limit.unwrap_or(kkartifact_model::api::page::DEFAULT_LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {MOST}")));
    }
    let mut tx = resources.db.read().await?;
    let channel = tx.find_channel(app.id, &name).await?;
    let channel = channel.ok_or_else(|| ApiError::not_found(&format!("channel {name}")))?;
    Ok(Json(tx.channel_moves(channel.id, params.before.unwrap_or(i64::MAX), limit).await?))
}
