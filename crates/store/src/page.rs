//! Pages of lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use kkartifact_model::api::page::{DEFAULT_LIMIT, MAX_LIMIT, Page};

/// A place in a list that is sorted by creation time, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The creation time of the last item before the place.
    pub at: DateTime<Utc>,
    /// Its row id, where times are equal.
    pub id: i64,
}

impl Cursor {
    /// Before the first item of any list.
    pub const START: Self = Self { at: DateTime::<Utc>::MAX_UTC, id: i64::MAX };

    /// The cursor as callers pass it back.
    pub fn encode(self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}.{}", self.at.timestamp_micros(), self.id))
    }

    /// Reads a cursor that a caller passed back.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (at, id) = std::str::from_utf8(&bytes).ok()?.split_once('.')?;
        Some(Self { at: DateTime::from_timestamp_micros(at.parse().ok()?)?, id: id.parse().ok()? })
    }

    /// The time in a form that both databases can compare: PostgreSQL's times end in the year 294276, SQLite
    /// compares text, in which years have four digits. Nothing is older than the epoch.
    pub(crate) fn time(self) -> DateTime<Utc> {
        let year = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or(self.at);
        self.at.clamp(year(0), year(253_402_300_799))
    }
}

/// Which page of a list. Made from what a caller asked, with every number bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageQuery {
    /// At most this many items, 1 to [`MAX_LIMIT`].
    pub limit: u32,
    /// Skip so many; 0 with a cursor.
    pub offset: u64,
    /// Start behind this place.
    pub after: Cursor,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, offset: 0, after: Cursor::START }
    }
}

impl PageQuery {
    /// The first page of so many items.
    pub fn first(limit: u32) -> Self {
        Self { limit: limit.clamp(1, MAX_LIMIT), ..Self::default() }
    }

    /// One more than the page holds, to see whether more follow.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// The offset for the database.
    pub(crate) fn skip(&self) -> i64 {
        i64::try_from(self.offset).unwrap_or(i64::MAX)
    }

    /// Makes a page of rows fetched with [`Self::fetch`].
    pub fn page<R, T>(
        &self,
        mut rows: Vec<R>,
        total: i64,
        place: impl Fn(&R) -> Cursor,
        item: impl Fn(R) -> T,
    ) -> Page<T> {
        let has_more = rows.len() > self.limit as usize;
        rows.truncate(self.limit as usize);
        let next_cursor = rows.last().filter(|_| has_more).map(|row| place(row).encode());
        Page {
            items: rows.into_iter().map(item).collect(),
            total: u64::try_from(total).unwrap_or(0),
            limit: self.limit,
            offset: self.offset,
            has_more,
            next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_nonsense_is_refused() {
        let cursor = Cursor { at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), id: 42 };
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        for bad in ["", "x", "MTIz", "MS4", "!!!!", &URL_SAFE_NO_PAD.encode("9999999999999999999.1")] {
            assert_eq!(Cursor::decode(bad), None, "{bad}");
        }
    }
}
