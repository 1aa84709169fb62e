//! Events, committed with what they tell.

use chrono::{DateTime, Utc};
use kkartifact_model::event::EventKind;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::AppId;
use crate::tx::{Tx, execute, fetch_all, fetch_one, statements};

/// An event to be recorded.
#[derive(Debug)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which app.
    pub app: AppId,
    /// The rest, as receivers get it.
    pub payload: serde_json::Value,
}

/// An event as it was recorded.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventRow {
    /// Its place among the app's events, from 1.
    pub seq: i64,
    /// What happened.
    pub kind: String,
    /// The rest, as receivers get it.
    pub payload: Json<serde_json::Value>,
    /// When.
    pub created_at: DateTime<Utc>,
}

statements! {
    AFTER = "SELECT seq, kind, payload, created_at FROM event WHERE app_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    LAST = "SELECT event_seq FROM app WHERE id = $1";
    INSERT = "INSERT INTO event (app_id, seq, kind, payload, created_at) VALUES ($1, $2, $3, $4, $5)";
}

impl Tx {
    /// Records an event under the app's next sequence, which it returns.
    pub async fn insert_event(&mut self, event: &NewEvent, now: DateTime<Utc>) -> Result<i64, StoreError> {
        let sequence = self.next_event_sequence(event.app).await?;
        execute!(self, INSERT, event.app, sequence, event.kind.as_str(), Json(&event.payload), now)?;
        Ok(sequence)
    }

    /// An app's events behind a sequence, in their order.
    pub async fn events_after(
        &mut self,
        app: AppId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        fetch_all!(self, EventRow, AFTER, app, after, i64::from(limit))
    }

    /// The sequence of an app's last event.
    pub async fn last_event(&mut self, app: AppId) -> Result<i64, StoreError> {
        fetch_one!(self, (i64,), LAST, app).map(|(sequence,)| sequence)
    }
}
