//! Deletes or archives the versions that retention does not keep, app by app.

use kkartifact_model::Code;
use kkartifact_model::api::retention::RetentionAction;
use kkartifact_service::{ApiError, ApiResult, lifecycle};
use kkartifact_store::{Actor, AppId, AppRow, RetentionRule, StoreError, Tx};
use serde_json::{Value, json};

use crate::attempt::{Attempt, Failure, Outcome};

/// How many apps are looked at together.
const APPS: u32 = 500;
/// How many versions are deleted or archived in one transaction.
const BATCH: u32 = 100;
/// How many apps that could not be tidied are told of in the log.
const TOLD: u64 = 20;

/// How far it is, as it stands in the job's progress.
struct Run {
    /// Everything up to this app is done.
    after: AppId,
    deleted: u64,
    archived: u64,
    skipped: u64,
}

impl Run {
    /// Where the last attempt stopped.
    fn resumed(attempt: &Attempt) -> Self {
        let progress = attempt.row.progress.as_ref().map(|json| &json.0);
        let number = |key: &str| progress.and_then(|progress| progress.get(key));
        Self {
            after: AppId(number("after_app").and_then(Value::as_i64).unwrap_or(0)),
            deleted: number("deleted").and_then(Value::as_u64).unwrap_or(0),
            archived: number("archived").and_then(Value::as_u64).unwrap_or(0),
            skipped: number("skipped").and_then(Value::as_u64).unwrap_or(0),
        }
    }

    fn progress(&self) -> Value {
        json!({
            "after_app": self.after.0, "deleted": self.deleted, "archived": self.archived,
            "skipped": self.skipped,
        })
    }
}

pub(crate) async fn run(attempt: &Attempt) -> Outcome {
    let mut tx = attempt.resources.db.read().await?;
    if rule(&mut tx, attempt).await?.is_none() {
        return Ok(Some(json!({ "deleted": 0, "reason": "retention is not set: nothing to do" })));
    }
    drop(tx);
    attempt.check_clock().await?;
    let mut run = Run::resumed(attempt);
    while let Some((until, apps)) = look(attempt, run.after).await? {
        for app in apps {
            tidy(attempt, app, &mut run).await?;
        }
        run.after = until;
        attempt.progress(run.progress()).await?;
    }
    Ok(Some(json!({ "deleted": run.deleted, "archived": run.archived, "skipped": run.skipped })))
}

/// The rule as it is now: whoever takes it back in the middle of a run stops it.
async fn rule(tx: &mut Tx, attempt: &Attempt) -> Result<Option<RetentionRule>, Failure> {
    match tx.retention().await {
        Ok(retention) => Ok(RetentionRule::of(&retention, attempt.now())),
        Err(StoreError::Corrupt(why)) => {
            Err(Failure::Final(format!("the setting can't be read; set it again: {why}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// The last one of the next apps, and those of them of which something may go; `None` at the end.
async fn look(attempt: &Attempt, after: AppId) -> Result<Option<(AppId, Vec<AppId>)>, Failure> {
    let mut tx = attempt.resources.db.read().await?;
    let Some(rule) = rule(&mut tx, attempt).await? else { return Ok(None) };
    let Some(until) = tx.last_of_apps(after, APPS).await? else { return Ok(None) };
    Ok(Some((until, tx.apps_with_expendable(&rule, after, until).await?)))
}

/// Deletes or archives what may go of one app. One that can't be tidied is left to the next run.
async fn tidy(attempt: &Attempt, app: AppId, run: &mut Run) -> Result<(), Failure> {
    loop {
        let mut tx = attempt.begin().await?;
        let taken = take(&mut tx, attempt, app).await;
        match taken {
            Ok((action, taken)) => {
                match action {
                    RetentionAction::Delete => run.deleted += taken,
                    RetentionAction::Archive => run.archived += taken,
                }
                attempt.commit(tx, &run.progress()).await?;
                attempt.resources.jobs_queued.notify_waiters();
                attempt.go_on()?;
                if taken < u64::from(BATCH) {
                    return Ok(());
                }
            }
            Err(error) if error.code == Code::Internal => {
                drop(tx);
                run.skipped += 1;
                if run.skipped <= TOLD {
                    let why = error.cause.unwrap_or(error.message);
                    attempt.note(format!("app {} is skipped: {why}", app.0)).await?;
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Deletes or archives some of what may go of one app, in a transaction that it locks the app in; what it did, to how
/// many.
async fn take(tx: &mut Tx, attempt: &Attempt, app: AppId) -> ApiResult<(RetentionAction, u64)> {
    tx.lock_app(app).await?;
    let now = attempt.now();
    let retention = tx.retention().await?;
    let nothing = (retention.action, 0);
    let Some(rule) = RetentionRule::of(&retention, now) else { return Ok(nothing) };
    let Some(app) = tx.app(app).await?.filter(AppRow::exists) else { return Ok(nothing) };
    let actor = Actor {
        trace_parent: attempt.row.trace_parent.clone(),
        ..Actor::system("retention", attempt.resources.auth.audit_key())
    };
    let why = format!("not among the newest {}", rule.keep);
    // Again: since they were looked for, something may have come to rely on them.
    let old = tx.expendable_of(&rule, app.id, BATCH).await?;
    for version in &old {
        let row = tx.version(version.id).await?.ok_or_else(|| ApiError::internal("a version vanished"))?;
        match retention.action {
            RetentionAction::Delete => lifecycle::delete(tx, &app, &row, &actor, &why, now).await?,
            RetentionAction::Archive => lifecycle::archive(tx, &app, &row, &actor, &why, now).await?,
        }
    }
    Ok((retention.action, old.len() as u64))
}
