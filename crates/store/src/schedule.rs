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

/// When a schedule happens.
#[derive(Debug, Clone, Copy)]
pub struct Timing<'a> {
    /// When.
    pub cron: &'a str,
    /// In which time zone.
    pub time_zone: &'a str,
    /// Whether it happens at all.
    pub enabled: bool,
}

statements! {
    // What was due while it was off is not caught up.
    PUT = "INSERT INTO schedule (name, cron, time_zone, enabled, last_tick, updated_at)
        VALUES ($1, $2, $3, $4, $6, $6)
        ON CONFLICT (name) DO UPDATE SET cron = EXCLUDED.cron, time_zone = EXCLUDED.time_zone,
            enabled = EXCLUDED.enabled, changed = FALSE, updated_at = EXCLUDED.updated_at,
            last_tick = CASE WHEN schedule.enabled THEN schedule.last_tick ELSE EXCLUDED.last_tick END
        WHERE ($5 OR NOT schedule.changed)
            AND (schedule.cron <> EXCLUDED.cron OR schedule.time_zone <> EXCLUDED.time_zone
                OR schedule.enabled <> EXCLUDED.enabled)";
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
    /// Makes a schedule, or sets it to happen like this: one that was changed by hand only if it is `declared`. False
    /// if it was so already, or stays as it is.
    pub async fn put_schedule(
        &mut self,
        name: &str,
        timing: Timing<'_>,
        declared: bool,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let Timing { cron, time_zone, enabled } = timing;
        execute!(self, PUT, name, cron, time_zone, enabled, declared, now).map(|rows| rows == 1)
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
