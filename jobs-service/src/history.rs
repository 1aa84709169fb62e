//! Removes rows that are older than they are kept: jobs, deliveries, events, closed uploads.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_service::Config;
use kkartifact_store::{OldJobs, StoreError, Tx};
use serde_json::{Map, Value};

use crate::attempt::{Attempt, Outcome};

/// For so many times as long as others, jobs are kept that came to nothing.
const FAILED: u32 = 4;
/// For how many days closed uploads are kept: so long a `finish` that is sent again gets its answer.
const UPLOAD_DAYS: u32 = 30;

/// What gets old.
#[derive(Clone, Copy)]
enum Old {
    /// Before events, which stay as long as a delivery tells of them.
    Deliveries,
    Events,
    /// Before batch queries, which are few: with the others gone, they are not looked for among them.
    Jobs,
    /// Batch queries, with their answers.
    Queries,
    Uploads,
}

impl Old {
    const ALL: [Self; 5] = [Self::Deliveries, Self::Events, Self::Jobs, Self::Queries, Self::Uploads];

    const fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Events => "events",
            Self::Queries => "queries",
            Self::Jobs => "jobs",
            Self::Uploads => "uploads",
        }
    }

    /// How many go in one transaction.
    const fn batch(self) -> u32 {
        match self {
            // With up to 10,000 lines each.
            Self::Queries => 20,
            _ => 1000,
        }
    }

    /// Removes a batch; how many.
    async fn remove(self, tx: &mut Tx, config: &Config, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let jobs = |queries| OldJobs {
            done_before: ago(now, config.jobs.keep_days),
            failed_before: ago(now, config.jobs.keep_days.saturating_mul(FAILED)),
            queries,
        };
        let most = self.batch();
        match self {
            Self::Deliveries => tx.delete_old_deliveries(ago(now, config.webhooks.keep_days), most).await,
            Self::Events => tx.delete_old_events(ago(now, config.jobs.event_days), most).await,
            Self::Queries => tx.delete_old_jobs(jobs(true), most).await,
            Self::Jobs => tx.delete_old_jobs(jobs(false), most).await,
            Self::Uploads => tx.delete_closed_uploads(ago(now, UPLOAD_DAYS), most).await,
        }
    }
}

/// So many days before, but not before 1970: both databases can compare what comes out.
fn ago(now: DateTime<Utc>, days: u32) -> DateTime<Utc> {
    let then = now.checked_sub_signed(TimeDelta::days(days.into()));
    then.unwrap_or(DateTime::UNIX_EPOCH).max(DateTime::UNIX_EPOCH)
}

pub(crate) async fn run(attempt: &Attempt) -> Outcome {
    let mut removed: Map<String, Value> = Map::new();
    for old in Old::ALL {
        let mut count = 0u64;
        loop {
            let mut tx = attempt.begin().await?;
            let batch = old.remove(&mut tx, &attempt.resources.config, attempt.now()).await?;
            tx.commit().await?;
            count += batch;
            removed.insert(old.name().to_owned(), count.into());
            if batch < u64::from(old.batch()) {
                break;
            }
            attempt.progress(Value::Object(removed.clone())).await?;
        }
    }
    Ok(Some(Value::Object(removed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_ago_stay_within_what_databases_can_compare() {
        let now: DateTime<Utc> = "2026-01-31T03:04:05Z".parse().unwrap();
        assert_eq!(ago(now, 30).to_rfc3339(), "2026-01-01T03:04:05+00:00");
        assert_eq!(ago(now, 100_000), DateTime::UNIX_EPOCH);
        assert_eq!(ago(now, u32::MAX), DateTime::UNIX_EPOCH);
    }
}
