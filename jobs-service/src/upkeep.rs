//! What has to be done now and then, by whichever process comes to it: each step is safe to be done by two at once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_service::{ApiResult, Resources, Shutdown, audit};

/// How often new audit rows are chained.
const SEAL: Duration = Duration::from_secs(10);
/// How often the rest is done.
const REST: TimeDelta = TimeDelta::hours(1);
/// For how long sessions that have ended are still listed.
const ENDED: TimeDelta = TimeDelta::days(7);

/// Goes on until it is time to stop, and seals once more then.
pub(crate) async fn run(resources: Resources, shutdown: Shutdown) {
    let mut rested = DateTime::<Utc>::MIN_UTC;
    loop {
        let over = tokio::time::timeout(SEAL, shutdown.begun()).await.is_ok();
        if let Err(error) = audit::seal(&resources).await {
            tracing::warn!(%error, cause = error.cause, "the audit log could not be sealed; trying again");
        }
        if over {
            return;
        }
        let now = resources.clock.now();
        if now - rested >= REST {
            match rest(&resources, now).await {
                Ok(()) => rested = now,
                Err(error) => tracing::warn!(%error, cause = error.cause, "upkeep failed; trying again"),
            }
        }
    }
}

async fn rest(resources: &Resources, now: DateTime<Utc>) -> ApiResult<()> {
    if resources.auth.keys().rotate_if_old(&resources.db, now).await? {
        tracing::info!("a new key signs from now on");
    }
    let mut tx = resources.db.begin().await?;
    tx.sweep_sessions(now - ENDED).await?;
    tx.sweep_signing_keys(now).await?;
    tx.commit().await?;
    let removed = audit::retain(resources).await?;
    if removed > 0 {
        tracing::info!(removed, "removed old audit rows");
    }
    Ok(())
}
