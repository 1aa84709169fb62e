//! Events, committed with what they tell.

use chrono::{DateTime, Utc};
use kkartifact_model::event::EventKind;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::{AppId, ProjectId};
use crate::tx::{Tx, fetch_all, fetch_one, statements};
use crate::webhook_delivery::NewDelivery;

/// An event to be recorded.
#[derive(Debug)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which app, and in which project that is.
    pub app: Option<(ProjectId, AppId)>,
    /// In which project, if it is about none of its apps.
    pub project: Option<ProjectId>,
    /// The rest, as receivers get it: an object. Receivers of the format `generic` don't get its keys `id`, `kind`,
    /// `seq` and `at`, which are the event's own there.
    pub payload: serde_json::Value,
    /// The trace that it belongs to.
    pub trace_parent: Option<String>,
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
    INSERT = "INSERT INTO event (app_id, project_id, seq, kind, payload, trace_parent, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id";
}

impl Tx {
    /// Records an event, and queues it for every webhook that wants it. An app's event gets the app's next sequence,
    /// which is returned.
    pub async fn insert_event(
        &mut self,
        event: &NewEvent,
        now: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let (project, app, sequence) = match event.app {
            Some((project, app)) => (Some(project), Some(app), Some(self.next_event_sequence(app).await?)),
            None => (event.project, None, None),
        };
        let (kind, trace_parent) = (event.kind.as_str(), event.trace_parent.as_deref());
        let payload = Json(&event.payload);
        let (id,) =
            fetch_one!(self, (i64,), INSERT, app, project, sequence, kind, payload, trace_parent, now)?;
        for webhook in self.wanting_webhooks(kind, project, app).await? {
            let new = NewDelivery { webhook, event: Some(id), kind, trace_parent };
            self.insert_delivery(&new, now).await?;
        }
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
