//! Schedules: what happens again and again.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::id::JobId;
use crate::tx::{Tx, execute, fetch_all, fetch_optional, statements};

/// A schedule's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// When.
    pub cron: String,
    /// In which time zone.
    pub time_zone: String,
    /// Whether it happens at all.
    pub enabled: bool,
    /// The last time that it was due.
    pub last_tick: Option<DateTime<Utc>>,
    /// The job of the last time.
    pub last_job_id: Option<i64>,
}

statements! {
    // What was changed by hand stays as it is.
    PUT = "INSERT INTO schedule (name, cron, time_zone, enabled, last_tick, updated_at)
        VALUES ($1, $2, $3, TRUE, $4, $4)
        ON CONFLICT (name) DO UPDATE SET cron = EXCLUDED.cron, time_zone = EXCLUDED.time_zone,
            updated_at = EXCLUDED.updated_at
        WHERE NOT schedule.changed
            AND (schedule.cron <> EXCLUDED.cron OR schedule.time_zone <> EXCLUDED.time_zone)";
    LIST = "SELECT name, cron, time_zone, enabled, last_tick, last_job_id FROM schedule ORDER BY name";
    FIND = "SELECT name, cron, time_zone, enabled, last_tick, last_job_id FROM schedule WHERE name = $1";
    CHANGE = "UPDATE schedule SET cron = $2, time_zone = $3, enabled = $4, last_tick = $5, changed = TRUE,
            updated_at = $5
        WHERE name = $1";
    // Of all that come to a tick at once, one finds it not yet taken.
    // A last one that lies far ahead was taken by somebody whose clock was wrong.
    TICK = "UPDATE schedule SET last_tick = $2 WHERE name = $1 AND enabled
            AND (last_tick IS NULL OR last_tick < $2 OR last_tick > $3)";
    RAN = "UPDATE schedule SET last_job_id = $2 WHERE name = $1";
}

impl Tx {
    /// Makes a schedule unless it is there, and gives it new defaults unless it was changed by hand.
    pub async fn put_schedule(
        &mut self,
        name: &str,
        cron: &str,
        time_zone: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute!(self, PUT, name, cron, time_zone, now).map(drop)
    }

    /// All schedules by name; they are a handful.
    pub async fn list_schedules(&mut self) -> Result<Vec<ScheduleRow>, StoreError> {
        fetch_all!(self, ScheduleRow, LIST)
    }

    /// A schedule.
    pub async fn find_schedule(&mut self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        fetch_optional!(self, ScheduleRow, FIND, name)
    }

    /// Changes a schedule. What it would have done so far is not caught up.
    pub async fn change_schedule(&mut self, row: &ScheduleRow, now: DateTime<Utc>) -> Result<(), StoreError> {
        let (name, cron, zone) = (row.name.as_str(), row.cron.as_str(), row.time_zone.as_str());
        execute!(self, CHANGE, name, cron, zone, row.enabled, now).map(drop)
    }

    /// Takes a tick; false if somebody else has, or it is off.
    pub async fn take_tick(
        &mut self,
        name: &str,
        tick: DateTime<Utc>,
        ahead: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        execute!(self, TICK, name, tick, ahead).map(|rows| rows == 1)
    }

    /// Notes the job of a schedule's last time.
    pub async fn note_schedule_job(&mut self, name: &str, job: JobId) -> Result<(), StoreError> {
        execute!(self, RAN, name, job).map(drop)
    }
}
