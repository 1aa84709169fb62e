//! What can go wrong with the database.

/// A database failure, told apart as far as callers act on it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row of this name or key exists.
    #[error("a row of this name exists")]
    Conflict,
    /// The database is away, full of work or shutting down: the same call may succeed later.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The disk under the database is full.
    #[error("the database's disk is full: {0}")]
    Full(#[source] sqlx::Error),
    /// A value that the database can't keep: a text with a NUL, a time out of its range, a key that is too long.
    #[error("a value can't be kept: {0}")]
    Unstorable(#[source] sqlx::Error),
    /// A stored value that this release can't read.
    #[error("a stored value is invalid: {0}")]
    Corrupt(String),
    /// The schema could not be brought up to date.
    #[error("migration failed: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Anything else: a fault of ours.
    #[error("the database refused: {0}")]
    Other(#[source] sqlx::Error),
}

/// SQLite's `SQLITE_FULL`, PostgreSQL's `disk_full`.
const FULL: [&str; 2] = ["13", "53100"];
/// SQLite's `SQLITE_BUSY`; PostgreSQL's too many connections, shutdowns, serialization failure and deadlock.
const LATER: [&str; 8] = ["5", "261", "53300", "57P01", "57P02", "57P03", "40001", "40P01"];
/// PostgreSQL's ways to say that a value is not one it can keep.
const UNSTORABLE: [&str; 4] = ["22021", "22P05", "22008", "54000"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::Unavailable(error)
            }
            E::Database(database) if database.is_unique_violation() => Self::Conflict,
            E::Database(database) => match database.code().as_deref() {
                Some(code) if FULL.contains(&code) => Self::Full(error),
                Some(code) if LATER.contains(&code) => Self::Unavailable(error),
                Some(code) if UNSTORABLE.contains(&code) => Self::Unstorable(error),
                _ => Self::Other(error),
            },
            E::ColumnDecode { .. } | E::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Other(error),
        }
    }
}
