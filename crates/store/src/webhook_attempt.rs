//! Attempts to deliver: what is needed for one, and what came of it.

use chrono::{DateTime, Utc};
use kkartifact_model::api::webhook::{DeliveryAttempt, DeliveryDetail, DeliveryState, WebhookFormat};
use serde_json::Value;
use uuid::Uuid;

use crate::error::StoreError;
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_optional, statements};
use crate::webhook_delivery::DeliveryRow;

/// Everything that is needed to send a delivery.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DueDelivery {
    /// Row number.
    pub seq: i64,
    /// Names it outside.
    pub id: Uuid,
    /// What kind of event; `test` for test calls.
    pub kind: String,
    /// Where it is.
    #[sqlx(try_from = "String")]
    pub state: DeliveryState,
    /// When the event happened.
    pub created_at: DateTime<Utc>,
    /// The event's place among the app's events, if it is one of an app.
    pub event_seq: Option<i64>,
    /// What the event says; nothing for test calls.
    #[sqlx(json(nullable))]
    pub payload: Option<Value>,
    /// The trace that it belongs to.
    pub trace_parent: Option<String>,
    /// The event's project.
    pub project: Option<String>,
    /// The event's app.
    pub app: Option<String>,
    /// The webhook's row number.
    pub webhook_seq: i64,
    /// Names the webhook outside.
    pub webhook_id: Uuid,
    /// What people call the webhook.
    pub webhook: String,
    /// Where events are posted to, as far as it is shown.
    pub url: String,
    /// What the receiver gets.
    #[sqlx(try_from = "String")]
    pub format: WebhookFormat,
    /// Headers that are sent along, and the URL if not all of it is shown, encrypted.
    pub headers: Option<Vec<u8>>,
    /// What signs, encrypted.
    pub secrets: Option<Vec<u8>>,
    /// Whether the webhook is enabled.
    pub enabled: bool,
    /// Since when nothing could be delivered to the webhook.
    pub failing_since: Option<DateTime<Utc>>,
}

/// What came of an attempt to deliver.
#[derive(Debug, Clone)]
pub struct DeliveryAttemptRow {
    /// Of which delivery, by its row number.
    pub delivery: i64,
    /// To which webhook, by its row number.
    pub webhook: i64,
    /// Where the delivery is now: `pending` if it is tried again.
    pub state: DeliveryState,
    /// When it began.
    pub at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub latency_ms: i64,
    /// Where to, as far as it is shown.
    pub url: String,
    /// The body that was sent.
    pub request: String,
    /// The answer's status, if there was one.
    pub status: Option<i32>,
    /// The beginning of the answer's body. Without NULs.
    pub response: Option<String>,
    /// Why it came to nothing.
    pub error: Option<String>,
    /// It came to nothing because of us: that says nothing of the receiver.
    pub ours: bool,
}

#[derive(sqlx::FromRow)]
struct AttemptRow {
    attempt: i32,
    at: DateTime<Utc>,
    url: String,
    request: String,
    status: Option<i32>,
    latency_ms: i64,
    response: Option<String>,
    error: Option<String>,
}

macro_rules! failing {
    ($place:literal) => {
        concat!(
            "UPDATE webhook SET failing_since = COALESCE(failing_since, $2),
            failures = CASE WHEN failures < 1000000 THEN failures + 1 ELSE failures END WHERE seq = ",
            $place
        )
    };
}

macro_rules! working {
    ($place:literal) => {
        concat!("UPDATE webhook SET failing_since = NULL, failures = 0 WHERE failures > 0 AND seq = ", $place)
    };
}

statements! {
    ATTEMPTS = "SELECT attempt, at, url, request, status, latency_ms, response, error FROM webhook_attempt
        WHERE delivery_seq = $1 ORDER BY attempt DESC LIMIT $2";
    DUE = "SELECT d.seq, d.id, d.kind, d.state, d.created_at, e.seq AS event_seq, e.payload, e.trace_parent,
            p.name AS project, a.name AS app, w.seq AS webhook_seq, w.id AS webhook_id, w.name AS webhook, w.url,
            w.format, w.headers, w.secrets, w.enabled, w.failing_since
        FROM webhook_delivery d JOIN webhook w ON w.seq = d.webhook_seq LEFT JOIN event e ON e.id = d.event_id
            LEFT JOIN project p ON p.id = COALESCE(e.project_id, w.project_id)
            LEFT JOIN app a ON a.id = COALESCE(e.app_id, w.app_id)
        WHERE d.seq = $1";
    // What was delivered stays so, and what was called off is not tried again because one attempt wanted to.
    TRIED = "UPDATE webhook_delivery SET attempts = attempts + 1, status = $3, error = $4, updated_at = $5,
            state = CASE WHEN CAST($2 AS TEXT) = 'delivered' OR (CAST($2 AS TEXT) = 'failed' AND state <> 'delivered')
                THEN CAST($2 AS TEXT) ELSE state END
        WHERE seq = $1 RETURNING attempts";
    INSERT_ATTEMPT = "INSERT INTO webhook_attempt (delivery_seq, attempt, at, url, request, status, latency_ms, response,
            error)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    FAILING = failing!("$1");
    // Where somebody else has the row in hand nothing is said of it, so that nobody waits, neither in line nor in a
    // circle. The next failure says the same; a success is said again after the commit.
    FAILING_POSTGRES = failing!("(SELECT seq FROM webhook WHERE seq = $1 FOR NO KEY UPDATE SKIP LOCKED)");
    WORKING = working!("$1");
    WORKING_POSTGRES = working!("(SELECT seq FROM webhook WHERE seq = $1 AND failures > 0
        FOR NO KEY UPDATE SKIP LOCKED)");
    SAID_TO_FAIL = "SELECT seq FROM webhook WHERE failures > 0
        AND seq IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) ORDER BY seq";
}

impl Tx {
    /// A delivery with its newest attempts, oldest first.
    pub async fn describe_delivery(
        &mut self,
        row: DeliveryRow,
        most: u32,
    ) -> Result<DeliveryDetail, StoreError> {
        let rows = fetch_all!(self, AttemptRow, ATTEMPTS, row.seq, i64::from(most))?;
        let log = rows.into_iter().rev().map(|row| DeliveryAttempt {
            attempt: row.attempt,
            at: row.at,
            url: row.url,
            request: row.request,
            status: row.status,
            latency_ms: row.latency_ms,
            response: row.response,
            error: row.error,
        });
        Ok(DeliveryDetail { log: log.collect(), delivery: row.into() })
    }

    /// A delivery with everything that is needed to send it; `None` if its webhook is gone.
    pub async fn due_delivery(&mut self, seq: i64) -> Result<Option<DueDelivery>, StoreError> {
        fetch_optional!(self, DueDelivery, DUE, seq)
    }

    /// Records what came of an attempt, and what that says of the webhook. Nothing if the webhook is gone. Once it is
    /// committed that something was delivered, ask for [`Self::failing_webhooks`].
    pub async fn record_delivery_attempt(&mut self, row: &DeliveryAttemptRow) -> Result<(), StoreError> {
        let (delivery, error) = (row.delivery, row.error.as_deref());
        let state = row.state.as_str();
        let tried = fetch_optional!(self, (i32,), TRIED, delivery, state, row.status, error, row.at)?;
        let Some((attempt,)) = tried else { return Ok(()) };
        execute!(
            self,
            INSERT_ATTEMPT,
            delivery,
            attempt,
            row.at,
            row.url.as_str(),
            row.request.as_str(),
            row.status,
            row.latency_ms,
            row.response.as_deref(),
            error
        )?;
        let postgres = matches!(self, Self::Postgres(_));
        if row.ours {
            Ok(())
        } else if row.state == DeliveryState::Delivered {
            let sql = if postgres { WORKING_POSTGRES } else { WORKING };
            execute!(self, sql, row.webhook).map(drop)
        } else {
            let sql = if postgres { FAILING_POSTGRES } else { FAILING };
            execute!(self, sql, row.webhook, row.at).map(drop)
        }
    }

    /// Which of these webhooks, by their row numbers, are said to fail. Of those to which something has just been
    /// delivered [`Self::webhook_works`] takes that back: somebody else had the row in hand, or was about to say so.
    pub async fn failing_webhooks(&mut self, among: &[i64]) -> Result<Vec<i64>, StoreError> {
        let rows = fetch_all!(self, (i64,), SAID_TO_FAIL, list(among))?;
        Ok(rows.into_iter().map(|(seq,)| seq).collect())
    }

    /// Says of a webhook that it works. Waits for whoever has its row in hand, so it is alone in its transaction: then
    /// nobody waits for it in turn.
    pub async fn webhook_works(&mut self, webhook: i64) -> Result<(), StoreError> {
        execute!(self, WORKING, webhook).map(drop)
    }
}
