//! Events, committed with what they tell.

use chrono::{DateTime, Utc};
use kkartifact_model::event::EventKind;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::AppId;
use crate::tx::{Tx, execute, statements};

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

statements! {
    INSERT = "INSERT INTO event (app_id, seq, kind, payload, created_at) VALUES ($1, $2, $3, $4, $5)";
}

impl Tx {
    /// Records an event under the app's next sequence, which it returns.
    pub async fn insert_event(&mut self, event: &NewEvent, now: DateTime<Utc>) -> Result<i64, StoreError> {
        let sequence = self.next_event_sequence(event.app).await?;
        execute!(self, INSERT, event.app, sequence, event.kind.as_str(), Json(&event.payload), now)?;
        Ok(sequence)
    }
}
