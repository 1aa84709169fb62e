//! Jobs and schedules.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::text_enum;
use crate::{AppName, ProjectName};

text_enum! {
    /// Where a job is.
    JobState {
        /// Waits for its time and a worker.
        Queued = "queued",
        /// A worker has claimed it.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// Gave up by its own decision: trying again would not help.
        Failed = "failed",
        /// Gave up after its last attempt.
        Dead = "dead",
        /// Called off.
        Cancelled = "cancelled",
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Names it.
    pub id: i64,
    /// What it does.
    pub kind: String,
    /// What it does it to.
    pub payload: Value,
    /// Where it is.
    pub state: JobState,
    /// Lower ones first.
    pub priority: i16,
    /// Not before.
    pub run_at: DateTime<Utc>,
    /// How often it was claimed.
    pub attempt: i32,
    /// How many attempts came to nothing.
    pub failures: i32,
    /// After so many it is dead.
    pub max_attempts: i32,
    /// In which project, if in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// For which app, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Value>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why the last attempt came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The trace that it belongs to, as W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    /// When it was queued.
    pub created_at: DateTime<Utc>,
    /// When the last attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job with what its attempts noted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: JobInfo,
    /// What its attempts noted, oldest first; the newest 500 lines.
    pub log: Vec<JobLogLine>,
}

/// A line that an attempt noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLogLine {
    /// Which attempt.
    pub attempt: i32,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub line: String,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobPage {
    /// The jobs.
    pub items: Vec<JobInfo>,
    /// The most items that this page could have had.
    pub limit: u32,
    /// Whether more follow.
    pub has_more: bool,
    /// Where the next page starts: pass it as `cursor`.
    pub next_cursor: Option<String>,
}

/// How many jobs are in which state: of each at most [`JobCounts::MOST`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    /// Waiting, also for their time.
    pub queued: u64,
    /// Claimed.
    pub running: u64,
    /// Done.
    pub succeeded: u64,
    /// Given up by their own decision.
    pub failed: u64,
    /// Given up after their last attempt.
    pub dead: u64,
    /// Called off.
    pub cancelled: u64,
    /// The states that have more jobs than were counted.
    pub capped: Vec<JobState>,
}

impl JobCounts {
    /// So many jobs of a state are counted.
    pub const MOST: u64 = 10_000;
}

/// What happens again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When: minute, hour, day of month, month, day of week; seconds may stand in front.
    pub cron: String,
    /// In which time zone, such as `Europe/Berlin`.
    pub time_zone: String,
    /// Whether it happens at all.
    pub enabled: bool,
    /// It stands in the configuration, which is the only place to change it.
    pub declared: bool,
    /// The last time that it was due.
    pub last_tick: Option<DateTime<Utc>>,
    /// The job of the last time.
    pub last_job_id: Option<i64>,
    /// The next times, while it is enabled.
    pub next: Vec<DateTime<Utc>>,
}

/// Changes a schedule. What is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleChange {
    /// When.
    #[serde(default)]
    pub cron: Option<String>,
    /// In which time zone.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Whether it happens at all.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// A job that was queued by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedJob {
    /// Its id.
    pub job_id: i64,
}
