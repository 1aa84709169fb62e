//! Events: what happened to an app, numbered per app when it was committed.

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A version was published.
    Push,
    /// A host applied a version.
    Pull,
    /// A channel was moved to a version.
    Promote,
    /// A channel was moved back.
    Rollback,
    /// A version was deleted (tombstoned).
    Delete,
    /// A deleted version came back.
    Restore,
}

impl EventKind {
    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Delete => "delete",
            Self::Restore => "restore",
        }
    }
}
