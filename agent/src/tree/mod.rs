//! Directory trees through handles: nothing is opened by a path that somebody could bend meanwhile.

mod dirs;
mod ignore_rules;
mod stat;
mod walk;

pub use dirs::{DirStack, open_dir, open_root};
pub use ignore_rules::IgnoreRules;
pub use stat::{FileStat, Found, Kind, list};
pub use walk::{Problems, Walked, walk};
