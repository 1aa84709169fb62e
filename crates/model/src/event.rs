//! Events: what happened, numbered per app when it was committed.

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
        /// A version was archived: nobody reads it until it is restored, and its bytes stay.
        Archive = "archive",
        /// A deleted or archived version came back.
        Restore = "restore",
        /// A version was quarantined: nobody reads it until it is released.
        Quarantine = "quarantine",
        /// A quarantined version was released.
        Release = "release",
        /// A credential is about to end.
        Expire = "expire",
        /// A job has failed for good.
        JobFailed = "job_failed",
        /// A webhook was disabled because nothing could be delivered for too long.
        WebhookDisabled = "webhook_disabled",
    }
}
