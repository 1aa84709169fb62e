//! Both databases have the same schema, take the same statements and protect what is published.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use kkartifact_store::Database;
use kkartifact_testkit::{TestDatabase, on_both_databases};
use sqlx::Row as _;

/// Table → columns.
async fn columns(database: &Database) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let rows: Vec<(String, String)> = match database {
        Database::Sqlite { read, .. } => {
            let sql = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
            sqlx::query(sql)
                .fetch_all(read)
                .await
                .unwrap()
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect()
        }
        Database::Postgres(pool) => {
            let sql = "SELECT table_name::TEXT, column_name::TEXT FROM information_schema.columns WHERE table_schema = 'public'";
            sqlx::query(sql)
                .fetch_all(pool)
                .await
                .unwrap()
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect()
        }
    };
    for (table, column) in rows {
        if table != "_sqlx_migrations" && !table.starts_with("sqlite_") {
            tables.entry(table).or_default().push(column);
        }
    }
    for columns in tables.values_mut() {
        columns.sort();
    }
    tables
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let sqlite = columns(&TestDatabase::sqlite().await.open().await).await;
    let postgres = columns(&TestDatabase::postgres().await.open().await).await;
    assert_eq!(sqlite, postgres);
    assert!(sqlite.len() > 30, "{}", sqlite.len());
}

async fn every_statement_is_understood(database: TestDatabase) {
    let database = database.open().await;
    for (module, name, sql) in kkartifact_store::statements() {
        let only_postgres = name.ends_with("POSTGRES");
        let prepared = match &database {
            Database::Sqlite { .. } if only_postgres => continue,
            Database::Sqlite { write, .. } => prepare(write, sql).await,
            Database::Postgres(pool) => prepare(pool, sql).await,
        };
        prepared.unwrap_or_else(|error| panic!("{module}::{name}: {error}"));
    }
}

async fn prepare<'e, E: sqlx::Executor<'e>>(executor: E, sql: &'static str) -> Result<(), sqlx::Error> {
    executor.prepare(sqlx::SqlSafeStr::into_sql_str(sql)).await.map(drop)
}

/// Runs raw statements: what somebody with a database shell could do.
async fn raw(database: &Database, sql: &'static str) -> Result<u64, String> {
    match database {
        Database::Sqlite { write, .. } => {
            sqlx::raw_sql(sql).execute(write).await.map(|done| done.rows_affected())
        }
        Database::Postgres(pool) => sqlx::raw_sql(sql).execute(pool).await.map(|done| done.rows_affected()),
    }
    .map_err(|error| error.to_string())
}

async fn with_a_version(database: &Database) {
    let digest = match database {
        Database::Sqlite { .. } => "x'00'",
        Database::Postgres(_) => "'\\x00'::BYTEA",
    };
    let sql = format!(
        "INSERT INTO principal (kind, name, created_at) VALUES ('token', 't', '2026-01-01T00:00:00+00:00');
        INSERT INTO project (name, description, state, created_at) VALUES ('p', '', 'active', '2026-01-01T00:00:00+00:00');
        INSERT INTO app (project_id, name, description, state, event_seq, created_at)
            VALUES (1, 'a', '', 'active', 0, '2026-01-01T00:00:00+00:00');
        INSERT INTO version (app_id, name, state, revision, tree_digest, manifest_digest, manifest_root, meta_digest,
            entry_count, file_count, bytes, notes, created_at, created_by, created_by_name, legal_hold, pinned)
            VALUES (1, 'v1', 'published', 1, {digest}, {digest}, {digest}, {digest}, 1, 1, 1, '',
                '2026-01-01T00:00:00+00:00', 1, 't', FALSE, FALSE);"
    );
    raw(database, sql.leak()).await.unwrap();
}

async fn a_published_version_is_immutable_even_for_the_database_owner(database: TestDatabase) {
    let database = database.open().await;
    with_a_version(&database).await;
    for sql in [
        "UPDATE version SET name = 'v2'",
        "UPDATE version SET tree_digest = manifest_digest || tree_digest",
        "UPDATE version SET manifest_root = manifest_root || manifest_root",
        "UPDATE version SET manifest_digest = manifest_digest || manifest_digest",
        "UPDATE version SET meta_digest = meta_digest || meta_digest",
        "UPDATE version SET bytes = 2",
        "UPDATE version SET entry_count = 2",
        "UPDATE version SET git_commit = 'f00'",
        "UPDATE version SET builder = 'somebody'",
        "UPDATE version SET created_by = 2",
        "UPDATE version SET revision = 0",
        "DELETE FROM version",
    ] {
        let error = raw(&database, sql).await.unwrap_err();
        assert!(error.contains("immutable") || error.contains("never deleted"), "{sql}: {error}");
    }
    // What belongs to its life, not to its identity, changes.
    for sql in [
        "UPDATE version SET notes = 'good', pinned = TRUE, legal_hold = TRUE",
        "UPDATE version SET state = 'deleted', revision = 2",
        "UPDATE version SET state = 'purged', revision = 3",
        // Collected content may come back with another manifest of the same tree.
        "UPDATE version SET state = 'published', revision = 4, manifest_root = manifest_root || manifest_root",
    ] {
        assert_eq!(raw(&database, sql).await, Ok(1), "{sql}");
    }
}

/// How a database finds what a statement wants, given a state, a time, a flag and a number.
async fn plan(database: &Database, sql: &str) -> String {
    let before: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    match database {
        Database::Sqlite { write, .. } => {
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let query = sqlx::query(sql).bind("dead").bind(before).bind(false).bind(10_i64);
            let rows = query.fetch_all(write).await.unwrap();
            rows.iter().map(|row| row.get::<String, _>(3)).collect::<Vec<_>>().join("\n")
        }
        Database::Postgres(pool) => {
            let mut tx = pool.begin().await.unwrap();
            // Tables of tests are so small that to read all of them costs less.
            sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *tx).await.unwrap();
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN {sql}"));
            let query = sqlx::query(sql).bind("dead").bind(before).bind(false).bind(10_i64);
            let rows = query.fetch_all(&mut *tx).await.unwrap();
            rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
        }
    }
}

async fn old_jobs_are_found_by_their_state_and_end(database: TestDatabase) {
    let database = database.open().await;
    let statements = kkartifact_store::statements();
    let (_, _, sql) =
        statements.iter().find(|(module, name, _)| (*module, *name) == ("history", "JOBS")).unwrap();
    let plan = plan(&database, sql).await;
    let by = match &database {
        Database::Sqlite { .. } => ["job_by_end", "state=? AND finished_at<?"],
        Database::Postgres(_) => ["Index Cond: ((state = 'dead'::text)", "AND (finished_at < '"],
    };
    assert!(plan.lines().any(|line| by.iter().all(|part| line.contains(part))), "{plan}");
    assert!(plan.contains("job_by_end"), "{plan}");
}

async fn migrating_twice_changes_nothing(database: TestDatabase) {
    let first = columns(&database.open().await).await;
    assert_eq!(columns(&database.open().await).await, first);
}

on_both_databases! {
    every_statement_is_understood,
    a_published_version_is_immutable_even_for_the_database_owner,
    old_jobs_are_found_by_their_state_and_end,
    migrating_twice_changes_nothing,
}
