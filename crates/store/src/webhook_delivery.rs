//! Deliveries: one event for one webhook each.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::webhook::{Delivery, DeliveryState};
use kkartifact_model::job::Job;
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::{AppId, ProjectId};
use crate::job::NewJob;
use crate::page::{Cursor, PageQuery};
use crate::role_binding::list;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A delivery's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeliveryRow {
    /// Row number.
    pub seq: i64,
    /// Names it outside.
    pub id: Uuid,
    kind: String,
    /// Where it is.
    #[sqlx(try_from = "String")]
    pub state: DeliveryState,
    attempts: i32,
    status: Option<i32>,
    error: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            id: row.id,
            event: row.kind,
            state: row.state,
            attempts: row.attempts,
            status: row.status,
            error: row.error,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A delivery to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewDelivery<'a> {
    /// To which webhook, by its row number.
    pub webhook: i64,
    /// Of which event, by its row id; `None` for test calls.
    pub event: Option<i64>,
    /// What kind of event.
    pub kind: &'a str,
    /// The trace that it belongs to.
    pub trace_parent: Option<&'a str>,
}

/// What a job for a delivery is made of.
#[derive(sqlx::FromRow)]
struct ContextRow {
    seq: i64,
    webhook_seq: i64,
    project_id: Option<ProjectId>,
    app_id: Option<AppId>,
    trace_parent: Option<String>,
}

/// For how long one is still taken for pending that should have ended long ago.
const FORGOTTEN: TimeDelta = TimeDelta::days(7);

macro_rules! columns {
    () => {
        "seq, id, kind, state, attempts, status, error, created_at, updated_at"
    };
}

macro_rules! select {
    () => {
        concat!("SELECT ", columns!(), " FROM webhook_delivery ")
    };
}

macro_rules! contexts {
    () => {
        "SELECT d.seq, d.webhook_seq, w.project_id, w.app_id, e.trace_parent
        FROM webhook_delivery d JOIN webhook w ON w.seq = d.webhook_seq LEFT JOIN event e ON e.id = d.event_id "
    };
}

macro_rules! failed {
    () => {
        concat!(
            contexts!(),
            "WHERE d.webhook_seq = $1 AND d.state = 'failed' AND d.created_at >= $2 AND d.seq > $3
        ORDER BY d.seq LIMIT $4"
        )
    };
}

macro_rules! call_off {
    ($lock:literal) => {
        concat!(
            "UPDATE webhook_delivery SET state = 'cancelled', error = 'the webhook is disabled', updated_at = $2
        WHERE seq IN (SELECT d.seq FROM webhook_delivery d WHERE d.webhook_seq = $1 AND d.state = 'pending'
            AND NOT EXISTS (SELECT 1 FROM webhook w WHERE w.seq = $1 AND w.enabled) ORDER BY d.seq LIMIT $3",
            $lock,
            ")"
        )
    };
}

macro_rules! remove {
    ($lock:literal) => {
        concat!(
            "DELETE FROM webhook_delivery WHERE seq IN (
        SELECT seq FROM webhook_delivery WHERE webhook_seq = $1 ORDER BY seq LIMIT $2",
            $lock,
            ")"
        )
    };
}

macro_rules! sweep {
    ($lock:literal) => {
        concat!(
            "DELETE FROM webhook_delivery WHERE seq IN (SELECT seq FROM webhook_delivery
        WHERE created_at < $1 AND (state <> 'pending' OR created_at < $2) ORDER BY created_at LIMIT $3",
            $lock,
            ")"
        )
    };
}

statements! {
    INSERT = concat!("INSERT INTO webhook_delivery (id, webhook_seq, event_id, kind, state, attempts, created_at,
            updated_at)
        VALUES ($1, $2, $3, $4, 'pending', 0, $5, $5) RETURNING ", columns!());
    // The job belongs where the webhook does, not the event: whoever may not know of the one learns nothing of the other.
    PLACE = "SELECT project_id, app_id FROM webhook WHERE seq = $1";
    FIND = concat!(select!(), "WHERE webhook_seq = $1 AND id = $2");
    LIST = concat!(select!(), "WHERE webhook_seq = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3 OFFSET $4");
    LIST_IN = concat!(select!(), "WHERE webhook_seq = $1 AND seq < $2 AND state = $5
        ORDER BY seq DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM webhook_delivery WHERE webhook_seq = $1";
    COUNT_IN = "SELECT COUNT(*) FROM webhook_delivery WHERE webhook_seq = $1 AND state = $2";
    CLOSE = "UPDATE webhook_delivery SET state = $2, error = $3, updated_at = $4 WHERE seq = $1 AND state = 'pending'";
    REOPEN = "UPDATE webhook_delivery SET state = 'pending', updated_at = $2 WHERE seq = $1";
    CONTEXT = concat!(contexts!(), "WHERE d.seq = $1");
    FAILED = failed!();
    FAILED_POSTGRES = concat!(failed!(), " FOR UPDATE OF d SKIP LOCKED");
    REOPEN_FAILED = "UPDATE webhook_delivery SET state = 'pending', updated_at = $2 WHERE state = 'failed'
            AND seq IN (SELECT CAST(value AS BIGINT) FROM json_each($1))";
    CALL_OFF = call_off!("");
    CALL_OFF_POSTGRES = call_off!(" FOR UPDATE OF d SKIP LOCKED");
    REMOVE = remove!("");
    // Those whose attempts are just being recorded are left for the next time.
    REMOVE_POSTGRES = remove!(" FOR UPDATE SKIP LOCKED");
    SWEEP = sweep!("");
    SWEEP_POSTGRES = sweep!(" FOR UPDATE SKIP LOCKED");
}

impl Tx {
    /// Makes a delivery and queues its job.
    pub async fn insert_delivery(
        &mut self,
        new: &NewDelivery<'_>,
        now: DateTime<Utc>,
    ) -> Result<DeliveryRow, StoreError> {
        let id = Uuid::new_v4();
        let row = fetch_one!(self, DeliveryRow, INSERT, id, new.webhook, new.event, new.kind, now)?;
        let place = fetch_one!(self, (Option<ProjectId>, Option<AppId>), PLACE, new.webhook)?;
        self.queue_delivery(row.seq, new.webhook, place, new.trace_parent, now).await?;
        Ok(row)
    }

    async fn queue_delivery(
        &mut self,
        seq: i64,
        webhook: i64,
        (project, app): (Option<ProjectId>, Option<AppId>),
        trace_parent: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        // Receivers share the workers: each has a lane of its own.
        let (job, lane) = (Job::DeliverWebhook { delivery: seq }, webhook.to_string());
        let new = NewJob { project, app, lane: &lane, trace_parent, ..NewJob::new(&job, now) };
        self.insert_job(&new, now).await.map(drop)
    }

    /// A webhook's delivery by its id.
    pub async fn find_delivery(&mut self, webhook: i64, id: Uuid) -> Result<Option<DeliveryRow>, StoreError> {
        fetch_optional!(self, DeliveryRow, FIND, webhook, id)
    }

    /// A webhook's deliveries, newest first; only those in a state, if one is given.
    pub async fn list_deliveries(
        &mut self,
        webhook: i64,
        state: Option<DeliveryState>,
        page: PageQuery,
    ) -> Result<Page<Delivery>, StoreError> {
        let (after, fetch, skip) = (page.after.id, page.fetch(), page.skip());
        let (rows, (total,)) = if let Some(state) = state.map(DeliveryState::as_str) {
            (
                fetch_all!(self, DeliveryRow, LIST_IN, webhook, after, fetch, skip, state)?,
                fetch_one!(self, (i64,), COUNT_IN, webhook, state)?,
            )
        } else {
            (
                fetch_all!(self, DeliveryRow, LIST, webhook, after, fetch, skip)?,
                fetch_one!(self, (i64,), COUNT, webhook)?,
            )
        };
        // They are numbered in the order in which they were made, so the number alone is the place.
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.seq }, Delivery::from))
    }

    /// Ends a delivery that is pending, for a reason; false if it was not.
    pub async fn close_delivery(
        &mut self,
        seq: i64,
        state: DeliveryState,
        why: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, CLOSE, seq, state.as_str(), why, now).map(|rows| rows == 1)
    }

    /// Calls a delivery off whose job was cancelled; false if it was not pending.
    pub async fn cancel_delivery(&mut self, seq: i64, now: DateTime<Utc>) -> Result<bool, StoreError> {
        self.close_delivery(seq, DeliveryState::Cancelled, "its job was cancelled", now).await
    }

    /// Makes a delivery pending again, whose job the caller queues; false if there is none.
    pub async fn reopen_delivery(&mut self, seq: i64, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, REOPEN, seq, now).map(|rows| rows == 1)
    }

    /// Delivers again, whatever came of it before.
    pub async fn replay_delivery(&mut self, seq: i64, now: DateTime<Utc>) -> Result<(), StoreError> {
        if !self.reopen_delivery(seq, now).await? {
            return Ok(());
        }
        let context = fetch_one!(self, ContextRow, CONTEXT, seq)?;
        self.queue_again(&context, now).await
    }

    async fn queue_again(&mut self, of: &ContextRow, now: DateTime<Utc>) -> Result<(), StoreError> {
        let place = (of.project_id, of.app_id);
        self.queue_delivery(of.seq, of.webhook_seq, place, of.trace_parent.as_deref(), now).await
    }

    /// Delivers again what has failed of events since a time, behind a row number: at most `limit`. How many, and the
    /// last one's row number.
    pub async fn replay_failed(
        &mut self,
        webhook: i64,
        since: DateTime<Utc>,
        after: i64,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<(u64, i64), StoreError> {
        let sql = match self {
            Self::Sqlite(_) => FAILED,
            Self::Postgres(_) => FAILED_POSTGRES,
        };
        let since = Cursor { at: since, id: 0 }.time();
        let found = fetch_all!(self, ContextRow, sql, webhook, since, after, i64::from(limit))?;
        let ids: Vec<_> = found.iter().map(|context| context.seq).collect();
        execute!(self, REOPEN_FAILED, list(&ids), now)?;
        for context in &found {
            self.queue_again(context, now).await?;
        }
        Ok((found.len() as u64, ids.last().copied().unwrap_or(after)))
    }

    /// Calls off what is pending of a webhook that is disabled, at most `limit`; how many. Those that are just being
    /// ended are left out.
    pub async fn call_off_deliveries(
        &mut self,
        webhook: i64,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => CALL_OFF,
            Self::Postgres(_) => CALL_OFF_POSTGRES,
        };
        execute!(self, sql, webhook, now, i64::from(limit))
    }

    /// Removes deliveries of a webhook that is about to go, at most `limit`; how many. Some may be left for
    /// [`Self::delete_webhook`].
    pub async fn remove_deliveries(&mut self, webhook: i64, limit: u32) -> Result<u64, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => REMOVE,
            Self::Postgres(_) => REMOVE_POSTGRES,
        };
        execute!(self, sql, webhook, i64::from(limit))
    }

    /// Removes deliveries of events before a time, at most `limit`; how many. Those that are pending get another week.
    pub async fn delete_old_deliveries(
        &mut self,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let sql = match self {
            Self::Sqlite(_) => SWEEP,
            Self::Postgres(_) => SWEEP_POSTGRES,
        };
        execute!(self, sql, before, before - FORGOTTEN, i64::from(limit))
    }
}
