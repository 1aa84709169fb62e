//! Announces credentials that are about to end, so that somebody makes new ones in time. Each end is announced once.

use chrono::TimeDelta;
use kkartifact_model::event::EventKind;
use kkartifact_store::{EndingKind, EndingRow, NewEvent, PrincipalId};
use serde_json::json;

use crate::attempt::{Attempt, Failure, Outcome};

/// How long before.
const SOON: TimeDelta = TimeDelta::days(7);
/// How many are announced in one transaction.
const BATCH: u32 = 100;

pub(crate) async fn run(attempt: &Attempt) -> Outcome {
    let mut announced = 0u64;
    for kind in [EndingKind::Token, EndingKind::ServiceAccount] {
        let mut after = PrincipalId(0);
        while let Some((last, count)) = batch(attempt, kind, after).await? {
            after = last;
            announced += count;
            attempt.progress(json!({ "announced": announced })).await?;
        }
    }
    Ok(Some(json!({ "announced": announced })))
}

/// Announces the next ends behind a principal: the last principal of them, and how many; `None` if none is left.
async fn batch(
    attempt: &Attempt,
    kind: EndingKind,
    after: PrincipalId,
) -> Result<Option<(PrincipalId, u64)>, Failure> {
    let now = attempt.now();
    let mut tx = attempt.begin().await?;
    let rows = tx.endings(kind, now, now + SOON, after, BATCH).await?;
    let Some(last) = rows.last().map(|row| row.principal_id) else { return Ok(None) };
    let mut count = 0u64;
    for row in &rows {
        // Not if somebody has just put it off.
        if tx.announce_ending(kind, row).await? {
            tx.insert_event(&event(attempt, kind, row), now).await?;
            count += 1;
        }
    }
    tx.commit().await?;
    attempt.resources.jobs_queued.notify_waiters();
    Ok(Some((last, count)))
}

fn event(attempt: &Attempt, kind: EndingKind, row: &EndingRow) -> NewEvent {
    NewEvent {
        kind: EventKind::Expire,
        app: None,
        project: row.project_id,
        payload: json!({
            "credential": kind.as_str(), "credential_id": row.id, "name": row.name, "expires_at": row.expires_at,
        }),
        trace_parent: attempt.row.trace_parent.clone(),
    }
}
