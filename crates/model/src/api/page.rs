//! Lists.

use serde::{Deserialize, Serialize};

/// How many items a page has unless asked otherwise.
pub const DEFAULT_LIMIT: u32 = 50;
/// The most items of a page.
pub const MAX_LIMIT: u32 = 500;

/// One page of a list, newest first unless the list says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many items the whole list has.
    pub total: u64,
    /// The most items that this page could have had.
    pub limit: u32,
    /// How many items were skipped; 0 with a cursor.
    pub offset: u64,
    /// Whether more follow.
    pub has_more: bool,
    /// Where the next page starts: pass it as `cursor`. Unlike an offset it skips nothing when the list changes.
    pub next_cursor: Option<String>,
}
