//! Hosts and what they run, as their reports say.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::id::{AppId, VersionId};
use crate::tx::{Tx, execute, fetch_one, statements};

statements! {
    SEEN = "INSERT INTO host (agent_id, name, last_seen_at) VALUES ($1, $2, $3)
        ON CONFLICT (agent_id) DO UPDATE SET name = EXCLUDED.name, last_seen_at = EXCLUDED.last_seen_at
        RETURNING id";
    DEPLOYED = "INSERT INTO deployment (host_id, app_id, target, version_id, previous_version_id, applied_at)
        VALUES ($1, $2, $3, $4, NULL, $5)
        ON CONFLICT (host_id, app_id, target) DO UPDATE SET previous_version_id = deployment.version_id,
            version_id = EXCLUDED.version_id, applied_at = EXCLUDED.applied_at";
}

impl Tx {
    /// Records that a host runs a version in a directory.
    pub async fn record_deployment(
        &mut self,
        agent_id: &str,
        host: &str,
        app: AppId,
        target: &str,
        version: VersionId,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (host,) = fetch_one!(self, (i64,), SEEN, agent_id, host, now)?;
        execute!(self, DEPLOYED, host, app, target, version, now).map(drop)
    }
}
