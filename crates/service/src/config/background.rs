//! The sections of background work, and their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Redis, which carries the queue between processes. Losing it loses nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://…`; the queue stays in the process if absent.
    pub url: Option<String>,
}

/// Background work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// A worker that shows no sign of life for so long is taken for dead, in seconds.
    pub lease_seconds: u32,
    /// How many webhook deliveries are under way at the same time.
    pub deliveries: usize,
    /// How many other jobs of one kind are under way at the same time.
    pub workers: usize,
    /// How many batch queries of one caller may be queued or running at the same time.
    pub batch_queries: u32,
    /// For how many days jobs that are over are kept; those that came to nothing four times as long.
    pub keep_days: u32,
    /// For how many days events are kept.
    pub event_days: u32,
    /// The time zone of schedules, such as `Europe/Berlin`.
    pub time_zone: String,
    /// Schedules that stand in the configuration, by name.
    pub schedules: BTreeMap<String, DeclaredSchedule>,
}

/// A schedule that stands in the configuration. What is absent is as by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredSchedule {
    /// When.
    #[serde(default)]
    pub cron: Option<String>,
    /// In which time zone; `jobs.time_zone` if absent.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Whether it happens at all.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// Webhooks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// How long a receiver may take to answer, in seconds.
    pub timeout_seconds: u32,
    /// How many deliveries one receiver gets at the same time.
    pub per_receiver: usize,
    /// After how many hours of nothing but failures a webhook is disabled; 0 for never.
    pub disable_after_hours: u32,
    /// For how many days deliveries are kept.
    pub keep_days: u32,
    /// The most webhooks of the server.
    pub most: u32,
    /// Webhooks that stand in the configuration.
    pub declared: Vec<DeclaredWebhook>,
}

/// A webhook that stands in the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredWebhook {
    /// What people call it.
    pub name: String,
    /// Kinds of events, or `*`.
    pub events: Vec<String>,
    /// Where events are posted to.
    pub url: String,
    /// `standard` if absent.
    #[serde(default)]
    pub format: Option<String>,
    /// Headers that are sent along.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The file with the secret that signs.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Only events of this project…
    #[serde(default)]
    pub project: Option<String>,
    /// … and app.
    #[serde(default)]
    pub app: Option<String>,
}

/// What becomes of deleted versions and their bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// Whether bytes are removed at all. Off after a restore, until an operator has looked.
    pub enabled: bool,
    /// For how long a deleted version can be restored, in minutes.
    pub grace_minutes: u32,
    /// For how long bytes stay that nothing needs any more, in minutes: no shorter than the age of the newest backup.
    pub delay_minutes: u32,
    /// At most so many percent of the stored bytes may be ones that nothing needs; above, packs are compacted.
    pub dead_percent: u32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            lease_seconds: 30,
            deliveries: 256,
            workers: 4,
            batch_queries: 20,
            keep_days: 7,
            event_days: 400,
            time_zone: "UTC".into(),
            schedules: BTreeMap::new(),
        }
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            timeout_seconds: 10,
            per_receiver: 32,
            disable_after_hours: 72,
            keep_days: 30,
            most: 1000,
            declared: Vec::new(),
        }
    }
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, grace_minutes: 7 * 1440, delay_minutes: 1440, dead_percent: 10 }
    }
}
