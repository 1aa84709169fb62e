//! The audit log: one row per privileged action, written in the transaction of the action.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{AuditId, PrincipalId};
use crate::tx::{Tx, execute, fetch_all, statements};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The principal; `None` for the server itself.
    pub id: Option<PrincipalId>,
    /// `token`, `user`, … or `system`.
    pub kind: String,
    /// What people call them.
    pub name: String,
    /// Where the request came from.
    pub address: Option<String>,
    /// The request.
    pub request_id: Option<String>,
}

impl Actor {
    /// The server itself.
    pub fn system(name: &str) -> Self {
        Self { id: None, kind: "system".into(), name: name.into(), address: None, request_id: None }
    }
}

/// Whether it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was.
    Done,
    /// The caller was not permitted.
    Refused,
}

/// A row to be written.
#[derive(Debug, Clone, Default)]
pub struct NewAudit<'a> {
    /// What was done, such as `version.publish`.
    pub action: &'a str,
    /// To which project.
    pub project: Option<&'a str>,
    /// To which app.
    pub app: Option<&'a str>,
    /// To which version.
    pub version: Option<&'a str>,
    /// By which agent.
    pub agent_id: Option<&'a str>,
    /// On which host.
    pub host: Option<&'a str>,
    /// Anything else. Never a secret.
    pub detail: serde_json::Value,
}

/// A row as it was written.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditRow {
    /// Row id.
    pub id: AuditId,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor_name: String,
    /// What.
    pub action: String,
    /// `done` or `refused`.
    pub outcome: String,
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
}

statements! {
    INSERT = "INSERT INTO audit (at, actor_id, actor_kind, actor_name, action, outcome, times, project, app, version,
            agent_id, host, address, request_id, detail)
        VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $11, $12, $13, $14)";
    LATEST = "SELECT id, at, actor_name, action, outcome, project, app, version, agent_id, host
        FROM audit ORDER BY id DESC LIMIT $1";
}

impl Tx {
    /// Writes an audit row; it counts only if the transaction commits.
    pub async fn audit(
        &mut self,
        actor: &Actor,
        outcome: Outcome,
        row: &NewAudit<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
        };
        let detail = if row.detail.is_null() { serde_json::json!({}) } else { row.detail.clone() };
        execute!(
            self,
            INSERT,
            now,
            actor.id,
            actor.kind.as_str(),
            actor.name.as_str(),
            row.action,
            outcome,
            row.project,
            row.app,
            row.version,
            row.agent_id,
            row.host,
            actor.address.as_deref(),
            actor.request_id.as_deref(),
            Json(&detail),
        )
        .map(drop)
    }

    /// The newest rows.
    pub async fn latest_audit(&mut self, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        fetch_all!(self, AuditRow, LATEST, i64::from(limit))
    }
}
