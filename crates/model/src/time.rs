//! Where times come from and how they are written.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::manifest::Mtime;

/// The clock that is passed in instead of asking the system, so that tests own the time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that moves only when it is told to.
    Manual(Arc<Mutex<DateTime<Utc>>>),
}

impl Clock {
    /// A clock that stands at `now`.
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(Mutex::new(now)))
    }

    /// The time, to the microsecond: what both databases can store.
    pub fn now(&self) -> DateTime<Utc> {
        let now = match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
            Self::System => Utc::now(),
            Self::Manual(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
        };
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// Moves a manual clock forward; the system's is not moved.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(now) = self {
            *now.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}

/// RFC 3339 with as many fraction digits as needed; out-of-range times as seconds.
pub fn format_mtime(mtime: Mtime) -> String {
    DateTime::from_timestamp(mtime.secs, mtime.nanos)
        .map_or_else(|| mtime.secs.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Reads RFC 3339 as a modification time.
pub fn parse_mtime(text: &str) -> Option<Mtime> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(Mtime { secs: time.timestamp(), nanos: time.timestamp_subsec_nanos().min(999_999_999) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_when_told() {
        let start = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        let clock = Clock::manual(start);
        assert_eq!(clock.now().timestamp_subsec_nanos(), 123_456_000);
        clock.advance(TimeDelta::minutes(5));
        assert_eq!((clock.now() - start).num_seconds(), 299);
    }

    #[test]
    fn times_round_trip() {
        for text in ["2025-12-26T17:30:00Z", "1969-12-31T23:59:59.999999999Z"] {
            assert_eq!(format_mtime(parse_mtime(text).unwrap()), text);
        }
        assert!(parse_mtime("yesterday").is_none());
    }
}
