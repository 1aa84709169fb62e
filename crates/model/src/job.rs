//! Background jobs and their payloads. A job's row commits with the change that needs it.

use serde::{Deserialize, Serialize};

use crate::api::batch::BatchFilter;

/// A kind of job with its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "payload", rename_all = "snake_case")]
pub enum Job {
    /// Write the marker that says in storage that the version is published or deleted, so that the registry
    /// can be rebuilt from storage alone.
    VersionMarker {
        /// The version's row.
        version_id: i64,
    },
    /// Close uploads that have expired and let go of what they held.
    SweepUploads {},
    /// Send an event to a webhook.
    DeliverWebhook {
        /// The delivery's row.
        delivery: i64,
    },
    /// Delete the versions that retention does not keep.
    Retain {},
    /// Free the storage that no version needs.
    CollectGarbage {},
    /// Answer a batch query that is too large to be answered at once. The apps are in `batch_result`.
    QueryVersions(BatchFilter),
    /// Remove the rows of jobs, deliveries and events that are older than they are kept.
    SweepHistory {},
    /// Announce credentials that are about to end.
    AnnounceEnds {},
}

impl Job {
    /// The names of all kinds.
    pub const KINDS: &[&str] = &[
        "version_marker",
        "sweep_uploads",
        "deliver_webhook",
        "retain",
        "collect_garbage",
        "query_versions",
        "sweep_history",
        "announce_ends",
    ];

    /// The kind's name: the queue that the job goes to.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::VersionMarker { .. } => "version_marker",
            Self::SweepUploads {} => "sweep_uploads",
            Self::DeliverWebhook { .. } => "deliver_webhook",
            Self::Retain {} => "retain",
            Self::CollectGarbage {} => "collect_garbage",
            Self::QueryVersions(_) => "query_versions",
            Self::SweepHistory {} => "sweep_history",
            Self::AnnounceEnds {} => "announce_ends",
        }
    }

    /// After so many attempts that came to nothing a job of this kind is dead.
    pub const fn max_attempts(&self) -> i32 {
        match self {
            // Over about a day.
            Self::DeliverWebhook { .. } => 12,
            _ => 10,
        }
    }

    /// The payload alone, as the database stores it.
    pub fn payload(&self) -> serde_json::Value {
        serde_json::to_value(self)
            .ok()
            .and_then(|mut value| value.get_mut("payload").map(serde_json::Value::take))
            .unwrap_or_default()
    }

    /// Puts kind and payload together again.
    pub fn from_parts(kind: &str, payload: &serde_json::Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(serde_json::json!({ "kind": kind, "payload": payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_back_from_their_parts() {
        let filter = BatchFilter { limit: 1, channel: None, label: Some("a=b".into()), git_commit: None };
        for job in [
            Job::VersionMarker { version_id: 7 },
            Job::SweepUploads {},
            Job::DeliverWebhook { delivery: 1 },
            Job::QueryVersions(filter),
        ] {
            assert_eq!(Job::from_parts(job.kind(), &job.payload()).unwrap(), job);
        }
        assert!(Job::from_parts("unknown", &serde_json::json!({})).is_err());
    }
}
