//! Events: what happened to an app, numbered per app when it was committed.

use crate::text::text_enum;

text_enum! {
    /// What happened.
    EventKind {
        /// A version was published.
        Push = "push",
        /// A host applied a version.
        Pull = "pull",
        /// A channel was moved to a version.
        Promote = "promote",
        /// A channel was moved back.
        Rollback = "rollback",
        /// A version was deleted (tombstoned).
        Delete = "delete",
        /// A deleted version came back.
        Restore = "restore",
    }
}
