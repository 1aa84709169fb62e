//! The audit log: one row per privileged action, written in the transaction of the action.

use std::fmt;

use chrono::{DateTime, Utc};
use kkartifact_model::api::audit::{AuditEntry, AuditPage};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AuditId, PrincipalId};
use crate::page::Cursor;
use crate::tx::{Tx, execute, fetch_all, statements};

/// What rows are authenticated under: who can write to the database can't write rows.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditKey([u8; 32]);

impl AuditKey {
    /// Derives the key from the server's secret key.
    pub fn derive(secret_key: &[u8]) -> Self {
        Self(blake3::derive_key("kkArtifact 2026 audit row", secret_key))
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The principal; `None` for the server itself, and for who has no valid credential.
    pub id: Option<PrincipalId>,
    /// A kind of principal, `anonymous` or `system`.
    pub kind: String,
    /// What people call them.
    pub name: String,
    /// Where the request came from.
    pub address: Option<String>,
    /// The request.
    pub request_id: Option<String>,
    /// The trace that the request belongs to, as W3C `traceparent`: what follows from it belongs there too.
    pub trace_parent: Option<String>,
    /// What their deeds are written down under.
    pub key: AuditKey,
}

impl Actor {
    /// The server itself.
    pub fn system(name: &str, key: &AuditKey) -> Self {
        let (kind, name, key) = ("system".into(), name.into(), key.clone());
        Self { id: None, kind, name, address: None, request_id: None, trace_parent: None, key }
    }
}

/// Whether it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was.
    Done,
    /// The caller was not permitted.
    Refused,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// A row to be written.
#[derive(Debug, Clone)]
pub struct NewAudit<'a> {
    /// What was done, such as `version.publish`.
    pub action: &'a str,
    /// How many times, for aggregated rows.
    pub times: u32,
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
    /// Anything else: an object of texts and integers. Never a secret.
    pub detail: serde_json::Value,
}

impl Default for NewAudit<'_> {
    fn default() -> Self {
        Self {
            action: "",
            times: 1,
            project: None,
            app: None,
            version: None,
            agent_id: None,
            host: None,
            detail: serde_json::Value::Null,
        }
    }
}

/// A row as it was written.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditRow {
    /// Row id.
    pub id: AuditId,
    /// When.
    pub at: DateTime<Utc>,
    actor_id: Option<i64>,
    /// What kind of actor.
    pub actor_kind: String,
    /// Who.
    pub actor_name: String,
    /// What.
    pub action: String,
    /// `done` or `refused`.
    pub outcome: String,
    /// How many times.
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
    pub detail: Json<serde_json::Value>,
    nonce: Option<Uuid>,
    mac: Option<Vec<u8>>,
    /// Whether it is said to be in the chain.
    pub sealed: bool,
}

impl AuditRow {
    /// Everything that the row says, in one form for both databases.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::json!([
            self.nonce,
            self.at.timestamp_micros(),
            self.actor_id,
            self.actor_kind,
            self.actor_name,
            self.action,
            self.outcome,
            self.times,
            self.project,
            self.app,
            self.version,
            self.agent_id,
            self.host,
            self.address,
            self.request_id,
            self.detail.0,
        ])
        .to_string()
        .into_bytes()
    }

    /// Whether the server wrote the row as it is.
    pub fn is_authentic(&self, key: &AuditKey) -> bool {
        let right = blake3::keyed_hash(&key.0, &self.canonical());
        self.mac.as_deref().is_some_and(|mac| mac == right.as_bytes())
    }

    /// Whether the row is from before rows were authenticated, or pretends to be.
    pub fn is_unsigned(&self) -> bool {
        self.mac.is_none() && self.nonce.is_none()
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id.0,
            at: row.at,
            actor_kind: row.actor_kind,
            actor: row.actor_name,
            action: row.action,
            outcome: row.outcome,
            times: row.times,
            project: row.project,
            app: row.app,
            version: row.version,
            agent_id: row.agent_id,
            host: row.host,
            address: row.address,
            request_id: row.request_id,
            detail: row.detail.0,
        }
    }
}

/// Which rows. What is absent does not restrict.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this project.
    pub project: Option<String>,
    /// Of this app.
    pub app: Option<String>,
    /// Of this version.
    pub version: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// This action; with `*` at its end, all that begin so.
    pub action: Option<String>,
    /// `done` or `refused`.
    pub outcome: Option<String>,
    /// From this address.
    pub address: Option<String>,
    /// In this request.
    pub request_id: Option<String>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// With a smaller id: where the next page starts.
    pub before: Option<i64>,
}

macro_rules! columns {
    () => {
        "SELECT id, at, actor_id, actor_kind, actor_name, action, outcome, times, project, app, version, agent_id,
            host, address, request_id, detail, nonce, mac, sealed FROM audit "
    };
}
pub(crate) use columns;

// A filter that is absent is NULL, and so is what it is compared with.
macro_rules! filtered {
    () => {
        "AND (CAST($3 AS TEXT) IS NULL OR app = $3) AND (CAST($4 AS TEXT) IS NULL OR version = $4)
        AND (CAST($5 AS TEXT) IS NULL OR actor_name = $5) AND (CAST($6 AS TEXT) IS NULL OR action = $6)
        AND (CAST($7 AS TEXT) IS NULL OR substr(action, 1, length($7)) = $7)
        AND (CAST($8 AS TEXT) IS NULL OR outcome = $8) AND (CAST($9 AS TEXT) IS NULL OR address = $9)
        AND (CAST($10 AS TEXT) IS NULL OR request_id = $10) AND at >= $11 AND at < $12
        ORDER BY id DESC LIMIT $13"
    };
}

statements! {
    INSERT = "INSERT INTO audit (at, actor_id, actor_kind, actor_name, action, outcome, times, project, app, version,
            agent_id, host, address, request_id, detail, nonce, mac)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    LATEST = concat!(columns!(), "ORDER BY id DESC LIMIT $1");
    LIST = concat!(columns!(), "WHERE id < $1 AND CAST($2 AS TEXT) IS NULL ", filtered!());
    LIST_OF_PROJECT = concat!(columns!(), "WHERE id < $1 AND project = $2 ", filtered!());
}

impl Tx {
    /// Writes an audit row; it counts only if the transaction commits.
    pub async fn audit(
        &mut self,
        actor: &Actor,
        outcome: Outcome,
        new: &NewAudit<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let row = AuditRow {
            id: AuditId(0),
            at: now,
            actor_id: actor.id.map(|id| id.0),
            actor_kind: actor.kind.clone(),
            actor_name: actor.name.clone(),
            action: new.action.to_owned(),
            outcome: outcome.as_str().to_owned(),
            times: i32::try_from(new.times).unwrap_or(i32::MAX),
            project: owned(new.project),
            app: owned(new.app),
            version: owned(new.version),
            agent_id: owned(new.agent_id),
            host: owned(new.host),
            address: actor.address.clone(),
            request_id: actor.request_id.clone(),
            detail: Json(if new.detail.is_null() { serde_json::json!({}) } else { new.detail.clone() }),
            // A copy of an authentic row is none.
            nonce: Some(Uuid::new_v4()),
            mac: None,
            sealed: false,
        };
        let mac = blake3::keyed_hash(&actor.key.0, &row.canonical());
        execute!(
            self,
            INSERT,
            row.at,
            row.actor_id,
            row.actor_kind.as_str(),
            row.actor_name.as_str(),
            row.action.as_str(),
            row.outcome.as_str(),
            row.times,
            row.project.as_deref(),
            row.app.as_deref(),
            row.version.as_deref(),
            row.agent_id.as_deref(),
            row.host.as_deref(),
            row.address.as_deref(),
            row.request_id.as_deref(),
            &row.detail,
            row.nonce,
            mac.as_bytes().as_slice(),
        )
        .map(drop)
    }

    /// The newest rows.
    pub async fn latest_audit(&mut self, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        fetch_all!(self, AuditRow, LATEST, i64::from(limit))
    }

    /// Rows that a filter lets through, newest first.
    pub async fn list_audit(&mut self, filter: &AuditFilter, limit: u32) -> Result<AuditPage, StoreError> {
        let (action, start) = match filter.action.as_deref().map(|action| (action, action.strip_suffix('*')))
        {
            None => (None, None),
            Some((action, None)) => (Some(action), None),
            Some((_, Some(start))) => (None, Some(start)),
        };
        let cursor = |time: Option<DateTime<Utc>>, open: DateTime<Utc>| {
            Cursor { at: time.unwrap_or(open), id: 0 }.time()
        };
        // A statement of its own: the index is of use to it only so.
        let statement = if filter.project.is_some() { LIST_OF_PROJECT } else { LIST };
        let rows = fetch_all!(
            self,
            AuditRow,
            statement,
            filter.before.unwrap_or(i64::MAX),
            filter.project.as_deref(),
            filter.app.as_deref(),
            filter.version.as_deref(),
            filter.actor.as_deref(),
            action,
            start,
            filter.outcome.as_deref(),
            filter.address.as_deref(),
            filter.request_id.as_deref(),
            cursor(filter.from, DateTime::UNIX_EPOCH),
            cursor(filter.to, DateTime::<Utc>::MAX_UTC),
            i64::from(limit) + 1,
        )?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<AuditEntry> = rows.into_iter().take(limit as usize).map(AuditEntry::from).collect();
        let next_cursor = items.last().filter(|_| has_more).map(|row| row.id.to_string());
        Ok(AuditPage { items, limit, has_more, next_cursor })
    }
}
