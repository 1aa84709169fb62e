//! Versions that can't be restored any more let go of their chunks: deleted ones, and all that a deleted app or project
//! has.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kkartifact_model::failpoint;
use kkartifact_service::{ApiError, ApiResult, lifecycle};
use kkartifact_store::{Actor, AppId, NewAudit, Outcome, Purge, PurgeableVersion, Tx, VersionId};

use super::{PAGE, Run, bad_row};
use crate::attempt::{Attempt, Failure};

/// How often a version is tried whose packs pushes rely on at that moment. The next run finds it again.
const TRIES: u32 = 3;
/// How long to wait in between: pushes hold packs for one transaction.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(run: &mut Run<'_>) -> Result<(), Failure> {
    let cutoff = run.minutes_ago(run.gc().grace_minutes);
    deleted(run, cutoff).await?;
    of_deleted_apps(run, cutoff).await
}

async fn deleted(run: &mut Run<'_>, cutoff: DateTime<Utc>) -> Result<(), Failure> {
    let mut after = (DateTime::UNIX_EPOCH, VersionId(0));
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.purgeable_versions(cutoff, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = (last.deleted_at, last.id);
        all(run, &page, cutoff).await?;
    }
}

async fn of_deleted_apps(run: &mut Run<'_>, cutoff: DateTime<Utc>) -> Result<(), Failure> {
    let mut after = (AppId(0), VersionId(0));
    loop {
        let mut tx = run.attempt.resources.db.read().await?;
        let page = tx.versions_of_deleted_apps(cutoff, after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = (last.app_id, last.id);
        all(run, &page, cutoff).await?;
    }
}

async fn all(run: &mut Run<'_>, versions: &[PurgeableVersion], cutoff: DateTime<Utc>) -> Result<(), Failure> {
    for version in versions {
        for _ in 0..TRIES {
            if one(run, version, cutoff).await? != Purge::Busy {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    run.progress("purge").await
}

async fn one(run: &mut Run<'_>, version: &PurgeableVersion, cutoff: DateTime<Utc>) -> Result<Purge, Failure> {
    let mut tx = run.attempt.begin().await?;
    let purged = purge(&mut tx, run.attempt, version, cutoff).await;
    match purged {
        Ok(Purge::Done) => {
            run.counts.purged += 1;
            run.commit(tx, "purge").await?;
            failpoint::reach("gc.purged");
            run.attempt.resources.jobs_queued.notify_waiters();
            Ok(Purge::Done)
        }
        Ok(other) => Ok(other),
        Err(error) => {
            drop(tx);
            let why = bad_row(error)?;
            run.skip(format!("version {} is skipped: {why}", version.id.0)).await?;
            Ok(Purge::Kept)
        }
    }
}

async fn purge(
    tx: &mut Tx,
    attempt: &Attempt,
    version: &PurgeableVersion,
    cutoff: DateTime<Utc>,
) -> ApiResult<Purge> {
    tx.lock_app(version.app_id).await?;
    let app = tx.app(version.app_id).await?;
    let app = app.ok_or_else(|| ApiError::internal("the version's app has no row"))?;
    let purged = tx.purge_version(version.id, cutoff).await?;
    if purged != Purge::Done {
        return Ok(purged);
    }
    let now = attempt.now();
    let actor = Actor {
        trace_parent: attempt.row.trace_parent.clone(),
        ..Actor::system("garbage collection", attempt.resources.auth.audit_key())
    };
    let audit = NewAudit {
        action: "version.purge",
        project: Some(app.project.as_str()),
        app: Some(app.name.as_str()),
        version: Some(version.name.as_str()),
        ..NewAudit::default()
    };
    tx.audit(&actor, Outcome::Done, &audit, now).await?;
    lifecycle::queue_marker(tx, &app, version.id, &actor, now).await?;
    Ok(purged)
}
