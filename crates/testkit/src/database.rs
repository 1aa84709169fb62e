//! A database of a test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kkartifact_store::{Database, DatabaseConfig};
use sqlx::Connection as _;
use tempfile::TempDir;
use uuid::Uuid;

/// Where the test script's PostgreSQL listens: `postgres://user@host:port`.
const POSTGRES: &str = "KKARTIFACT_TEST_POSTGRES";

/// A database of a test's own: a file, or a database of the PostgreSQL server that the test script started.
#[derive(Debug)]
pub struct TestDatabase {
    config: DatabaseConfig,
    _dir: Option<TempDir>,
}

impl TestDatabase {
    /// An empty SQLite file.
    #[expect(clippy::unused_async, reason = "called like its sibling")]
    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = DatabaseConfig::Sqlite { path: dir.path().join("test.db") };
        Self { config, _dir: Some(dir) }
    }

    /// An empty PostgreSQL database. Fails, and does not skip, if there is no server.
    pub async fn postgres() -> Self {
        let server = std::env::var(POSTGRES).unwrap_or_else(|_| {
            panic!("{POSTGRES} is not set; 'make test' starts a PostgreSQL, or see scripts/with-postgres.sh")
        });
        Self::on(&server).await
    }

    /// An empty database of a PostgreSQL server: `postgres://user@host:port`.
    pub async fn on(server: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut admin = sqlx::PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        Self {
            config: DatabaseConfig::Postgres { url: format!("{server}/{name}"), max_connections: 8 },
            _dir: None,
        }
    }

    /// The SQLite file that a server keeps here.
    pub fn at(path: &Path) -> Self {
        Self { config: DatabaseConfig::Sqlite { path: path.to_owned() }, _dir: None }
    }

    /// Runs statements, behind everybody's back.
    pub async fn execute(&self, sql: &str) {
        execute(&self.config, sql).await;
    }

    /// How to connect.
    pub fn config(&self) -> &DatabaseConfig {
        &self.config
    }

    /// A connection with the schema in place.
    pub async fn open(&self) -> Database {
        let database = Database::connect(&self.config).await.unwrap();
        database.migrate().await.unwrap();
        database
    }

    /// The URL for a server's configuration; `None` for SQLite.
    pub fn url(&self) -> Option<String> {
        match &self.config {
            DatabaseConfig::Postgres { url, .. } => Some(url.clone()),
            DatabaseConfig::Sqlite { .. } => None,
        }
    }

    /// The file, for SQLite.
    pub fn file(&self) -> Option<PathBuf> {
        match &self.config {
            DatabaseConfig::Sqlite { path } => Some(path.clone()),
            DatabaseConfig::Postgres { .. } => None,
        }
    }
}

/// A transaction on PostgreSQL that holds what its statements have locked, until it is committed or dropped.
#[derive(Debug)]
pub struct Held(sqlx::PgConnection);

impl Held {
    pub(crate) async fn begin(config: &DatabaseConfig, sql: &str) -> Self {
        let DatabaseConfig::Postgres { url, .. } = config else {
            panic!("SQLite locks nothing but everything")
        };
        let mut held = Self(sqlx::PgConnection::connect(url).await.unwrap());
        held.run(&format!("BEGIN; {sql}")).await;
        held
    }

    async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut self.0).await.unwrap();
    }

    /// Waits until so many others wait for locks on tables of the database.
    pub async fn waited_for_by(&mut self, count: usize) {
        let sql = "SELECT COUNT(DISTINCT l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE NOT l.granted AND l.locktype = 'relation' AND d.datname = current_database()";
        let wait = async {
            loop {
                let (waiting,): (i64,) = sqlx::query_as(sql).fetch_one(&mut self.0).await.unwrap();
                if usize::try_from(waiting).unwrap() >= count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    /// Runs more statements in it, and commits.
    pub async fn commit(mut self, sql: &str) {
        self.run(&format!("{sql}; COMMIT")).await;
    }
}

/// Runs statements on a database, behind everybody's back.
pub(crate) async fn execute(config: &DatabaseConfig, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    match config {
        DatabaseConfig::Sqlite { path } => {
            let url = format!("sqlite://{}", path.display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
        DatabaseConfig::Postgres { url, .. } => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
    }
}
