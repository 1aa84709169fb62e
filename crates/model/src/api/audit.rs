//! The audit log as it is read.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Grows; not without gaps.
    pub id: i64,
    /// When; aggregated rows are written a few seconds after the first time.
    pub at: DateTime<Utc>,
    /// `token`, `user`, `service_account`, `workload`, `anonymous` or `system`.
    pub actor_kind: String,
    /// Who.
    pub actor: String,
    /// What, such as `version.publish`.
    pub action: String,
    /// `done` or `refused`.
    pub outcome: String,
    /// How many times, for aggregated rows.
    pub times: i32,
    /// To which project.
    pub project: Option<String>,
    /// To which app.
    pub app: Option<String>,
    /// To which version.
    pub version: Option<String>,
    /// By which agent.
    pub agent_id: Option<String>,
    /// On which host.
    pub host: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
    /// Anything else.
    pub detail: serde_json::Value,
}

/// Rows, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The rows.
    pub items: Vec<AuditEntry>,
    /// The most rows that this page could have had.
    pub limit: u32,
    /// Whether more follow.
    pub has_more: bool,
    /// Where the next page starts: pass it as `cursor`.
    pub next_cursor: Option<String>,
}
