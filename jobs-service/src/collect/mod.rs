//! Frees the storage that no version needs.
//!
//! Versions whose time is over let go of their chunks; packs that nothing needs are claimed, those of which too much is
//! dead and those that are too small are copied into new ones; what was claimed long enough ago is removed, the object
//! first and then its row. Rows tell what is still to do, so a run that was interrupted anywhere goes on with the next
//! one: a copy without rows is adopted like every pack that a crash left without them, found to be needed by nothing,
//! and claimed.
//!
//! Every change is a short transaction about one version, one pack or one group of packs that are compacted together.
//! The counts commit with it, so that a run that was killed has counted what it did.
//! A row that can't be dealt with is told of and counted, and the rest goes on.

mod claim;
mod compact;
mod copy;
mod count;
mod purge;
mod remove;
mod selection;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::Code;
use kkartifact_service::config::Gc;
use kkartifact_service::{ApiError, recovery};
use kkartifact_store::{PackId, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::attempt::{Attempt, Failure, Outcome};

/// How many rows are looked at together.
const PAGE: u32 = 256;
/// How many rows that are skipped are told of in the log.
const TOLD: u64 = 100;
/// Packs that were recorded or begun later may belong to a push in progress.
const SETTLED_MINUTES: u32 = 60;

pub(crate) async fn run(attempt: &Attempt) -> Outcome {
    if !attempt.resources.config.gc.enabled {
        return Ok(Some(json!({ "enabled": false })));
    }
    attempt.check_clock().await?;
    describe_metrics();
    let mut run = Run::resumed(attempt);
    purge::run(&mut run).await?;
    claim::run(&mut run).await?;
    count::run(&mut run).await?;
    compact::run(&mut run).await?;
    remove::run(&mut run).await?;
    adopt(&mut run).await?;
    Ok(Some(json!(run.counts)))
}

fn describe_metrics() {
    let unit = metrics::Unit::Bytes;
    metrics::describe_counter!("kkartifact_gc_freed_bytes_total", unit, "Bytes of objects that were removed");
    metrics::describe_counter!("kkartifact_gc_packs_total", "Packs that were dealt with, by outcome");
}

/// What has been done, as it stands in the job's progress and in its result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    /// Versions that have let go of their chunks.
    purged: u64,
    /// Packs that nothing needed.
    claimed: u64,
    /// Packs that only uploads rely on.
    refused_by_pin: u64,
    /// Packs whose needed chunks were copied.
    compacted: u64,
    /// Packs that are gone.
    removed: u64,
    /// Bytes of objects that are gone.
    freed_bytes: u64,
    /// Versions and packs that could not be dealt with.
    skipped: u64,
}

/// One run.
struct Run<'a> {
    attempt: &'a Attempt,
    counts: Counts,
}

impl<'a> Run<'a> {
    /// Goes on with what the last attempt has counted.
    fn resumed(attempt: &'a Attempt) -> Self {
        let counts = attempt.row.progress.as_ref().and_then(|progress| Counts::deserialize(&progress.0).ok());
        Self { attempt, counts: counts.unwrap_or_default() }
    }

    fn gc(&self) -> &'a Gc {
        &self.attempt.resources.config.gc
    }

    fn minutes_ago(&self, minutes: u32) -> DateTime<Utc> {
        (self.attempt.now() - TimeDelta::minutes(minutes.into())).max(DateTime::UNIX_EPOCH)
    }

    /// What was recorded until then belongs to no push in progress that has not pinned it.
    fn settled(&self) -> DateTime<Utc> {
        self.minutes_ago(self.gc().delay_minutes.min(SETTLED_MINUTES))
    }

    fn told(&self, step: &str) -> Value {
        let mut progress = json!(self.counts);
        progress["step"] = step.into();
        progress
    }

    async fn progress(&self, step: &str) -> Result<(), Failure> {
        self.attempt.progress(self.told(step)).await
    }

    /// Commits what was done and has been counted, together with the counts.
    async fn commit(&self, tx: Tx, step: &str) -> Result<(), Failure> {
        self.attempt.commit(tx, &self.told(step)).await
    }

    async fn skip(&mut self, line: String) -> Result<(), Failure> {
        self.counts.skipped += 1;
        if self.counts.skipped > TOLD { Ok(()) } else { self.attempt.note(line).await }
    }

    async fn skip_pack(&mut self, pack: PackId, why: &str) -> Result<(), Failure> {
        count_packs("skipped", 1);
        self.skip(format!("pack {} is skipped: {why}", pack.0)).await
    }
}

fn count_packs(outcome: &'static str, packs: u64) {
    metrics::counter!("kkartifact_gc_packs_total", "outcome" => outcome).increment(packs);
}

/// Why one row can't be dealt with; an error if none can.
fn bad_row(error: impl Into<ApiError>) -> Result<String, Failure> {
    let error = error.into();
    match error.code {
        Code::Unavailable | Code::StorageFull => Err(error.into()),
        _ => Ok(error.cause.unwrap_or(error.message)),
    }
}

/// Records packs that a crash has left without rows: only what has a row can be found to be needed by nothing.
async fn adopt(run: &mut Run<'_>) -> Result<(), Failure> {
    let min_age = Duration::from_mins(SETTLED_MINUTES.into());
    for part in 0..=u8::MAX {
        recovery::adopt_part(&run.attempt.resources, part, min_age).await?;
        if part % 32 == 31 {
            run.progress("adopt").await?;
        }
    }
    Ok(())
}
