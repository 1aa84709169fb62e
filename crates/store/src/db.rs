//! Connections, and bringing the schema up to date.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::error::StoreError;
use crate::tx::Tx;

/// Which database, and how many connections.
#[derive(Debug, Clone)]
pub enum DatabaseConfig {
    /// A file on this machine. One process at a time.
    Sqlite {
        /// The file; created if missing.
        path: PathBuf,
    },
    /// A server.
    Postgres {
        /// `postgres://user:password@host/database`
        url: String,
        /// The most connections of this process.
        max_connections: u32,
    },
}

/// The database.
#[derive(Debug, Clone)]
pub enum Database {
    /// SQLite: one connection writes, several read.
    Sqlite {
        /// The one connection that writes: SQLite has a single writer, so writers queue here instead of failing.
        write: SqlitePool,
        /// Connections that read.
        read: SqlitePool,
    },
    /// PostgreSQL.
    Postgres(PgPool),
}

/// How long to wait for a connection before saying that the database is unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const SQLITE_READERS: u32 = 4;
/// How long a transaction may stand still on PostgreSQL.
const HANGS: &str = "5min";

static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/postgres");

impl Database {
    /// Connects, without touching the schema.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        match config {
            DatabaseConfig::Sqlite { path } => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // A commit that was answered survives a power cut.
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(ACQUIRE_TIMEOUT);
                let pool = || SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
                let write = pool().max_connections(1).connect_with(options.clone()).await?;
                let read =
                    pool().max_connections(SQLITE_READERS).connect_with(options.read_only(true)).await?;
                Ok(Self::Sqlite { write, read })
            }
            DatabaseConfig::Postgres { url, max_connections } => {
                let options: PgConnectOptions = url.parse()?;
                // A process that hangs in the middle of a transaction does not hold its locks for ever. Statements are
                // short: compiling them costs more than it saves.
                let options =
                    options.options([("idle_in_transaction_session_timeout", HANGS), ("jit", "off")]);
                let pool = PgPoolOptions::new()
                    .max_connections(*max_connections)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .connect_with(options)
                    .await?;
                Ok(Self::Postgres(pool))
            }
        }
    }

    /// Brings the schema up to date. On PostgreSQL under a lock; on SQLite the caller holds the data directory.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { write, .. } => SQLITE_MIGRATIONS.run(write).await?,
            Self::Postgres(pool) => POSTGRES_MIGRATIONS.run(pool).await?,
        }
        Ok(())
    }

    /// Begins a transaction that may write. Nothing is kept unless it is committed.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            // Immediate: taking the write lock later could fail half-way.
            Self::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Tx::Postgres(begin(pool, "BEGIN").await?),
        })
    }

    /// Begins a transaction that only reads.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Sqlite { read, .. } => Tx::Sqlite(read.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(begin(pool, "BEGIN READ ONLY").await?),
        })
    }

    /// Begins a transaction that only reads, and sees everything as it was when it began.
    pub async fn snapshot(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Sqlite { read, .. } => Tx::Sqlite(read.begin().await?),
            Self::Postgres(pool) => {
                Tx::Postgres(begin(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
        })
    }

    /// What the database is called in logs and health answers.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Closes all connections; SQLite folds its write-ahead log into the file.
    pub async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Begins a transaction to the end, also if nobody waits for it any more: cut in the middle, `BEGIN` would be known to
/// the server and not to the connection, and the next user would find themselves in somebody else's transaction.
async fn begin(
    pool: &PgPool,
    statement: &'static str,
) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    Ok(begun.map_err(|_| sqlx::Error::WorkerCrashed)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let list = |migrator: &sqlx::migrate::Migrator| -> Vec<(i64, String)> {
            migrator.iter().map(|m| (m.version, m.description.to_string())).collect()
        };
        assert_eq!(list(&SQLITE_MIGRATIONS), list(&POSTGRES_MIGRATIONS));
        assert!(!list(&SQLITE_MIGRATIONS).is_empty());
    }
}
