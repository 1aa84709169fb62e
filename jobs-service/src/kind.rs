//! Kinds of jobs: how many at the same time, for how long, and when they are tried again.

use std::time::Duration;

use chrono::TimeDelta;
use kkartifact_service::Config;

/// How jobs of one kind are worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Its name.
    pub(crate) name: &'static str,
    /// How many at the same time in this process.
    pub(crate) workers: usize,
    /// How many of one lane at the same time.
    pub(crate) per_lane: usize,
    /// How long an attempt may take.
    pub(crate) timeout: Duration,
}

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// All kinds.
pub(crate) fn kinds(config: &Config) -> Vec<Kind> {
    let one = |name, timeout| Kind { name, workers: 1, per_lane: 1, timeout };
    let several = |name, timeout| {
        let workers = config.jobs.workers;
        Kind { name, workers, per_lane: workers, timeout }
    };
    let patience = Duration::from_secs(config.webhooks.timeout_seconds.into());
    vec![
        several("version_marker", MINUTE),
        several("query_versions", 10 * MINUTE),
        one("sweep_uploads", 10 * MINUTE),
        one("retain", 6 * HOUR),
        one("collect_garbage", 24 * HOUR),
        one("sweep_history", HOUR),
        one("announce_ends", 10 * MINUTE),
        Kind {
            name: "deliver_webhook",
            workers: config.jobs.deliveries,
            per_lane: config.webhooks.per_receiver,
            // Its own time-out comes first; this is for what it does beside.
            timeout: patience + MINUTE,
        },
    ]
}

/// When a job is tried again that came to nothing so many times: 2, 4, 8, … seconds, at most an hour, and up to a
/// quarter more or less, so that what failed together does not come back together.
pub(crate) fn backoff(failures: i32, jitter: f64) -> TimeDelta {
    let seconds = 2i64.saturating_pow(failures.clamp(1, 12).unsigned_abs()).min(3600);
    let factor = 1.0 + (jitter.clamp(0.0, 1.0) - 0.5) / 2.0;
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "at most an hour")]
    TimeDelta::milliseconds((seconds as f64 * 1000.0 * factor) as i64)
}

/// A number from 0 to 1 that differs from call to call.
pub(crate) fn jitter() -> f64 {
    let random = u32::try_from(uuid::Uuid::new_v4().as_u128() >> 96).unwrap_or_default();
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_job_has_a_queue() {
        use kkartifact_model::job::Job;
        let kinds = kinds(&Config::default());
        let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
        assert_eq!(names.iter().filter(|name| Job::KINDS.contains(name)).count(), Job::KINDS.len());
        assert_eq!(names.len(), Job::KINDS.len());
    }

    #[test]
    fn waits_grow_and_differ_but_never_exceed_an_hour_and_a_quarter() {
        assert_eq!(backoff(1, 0.5), TimeDelta::seconds(2));
        assert_eq!(backoff(3, 0.5), TimeDelta::seconds(8));
        assert_eq!(backoff(3, 0.0), TimeDelta::seconds(6));
        assert_eq!(backoff(40, 1.0), TimeDelta::minutes(75));
        let (a, b) = (jitter(), jitter());
        assert!((0.0..=1.0).contains(&a) && (a - b).abs() > f64::EPSILON);
    }
}
