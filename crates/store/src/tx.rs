//! A transaction on either database, and the macros that run one statement text on both.

use chrono::{DateTime, Utc};

use crate::error::StoreError;

/// A transaction. Dropped without [`Tx::commit`], it never happened.
#[derive(Debug)]
pub enum Tx {
    /// On SQLite.
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    /// On PostgreSQL.
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Tx {
    /// Makes everything done in it durable and visible, at once.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&mut self) -> Result<(), StoreError> {
        execute!(self, "SELECT 1").map(drop)
    }

    /// What the database's clock says; `None` if that is the clock of this host.
    pub async fn clock(&mut self) -> Result<Option<DateTime<Utc>>, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(tx) => {
                let ask = sqlx::query_as::<_, (DateTime<Utc>,)>("SELECT clock_timestamp()");
                let (now,) = ask.fetch_one(&mut **tx).await?;
                Ok(Some(now))
            }
        }
    }
}

/// Runs a statement; the number of rows that it changed.
macro_rules! execute {
    ($tx:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $tx {
            $crate::tx::Tx::Sqlite(tx) => sqlx::query($sql)$(.bind($bind))*.execute(&mut **tx).await
                .map(|done| done.rows_affected()),
            $crate::tx::Tx::Postgres(tx) => sqlx::query($sql)$(.bind($bind))*.execute(&mut **tx).await
                .map(|done| done.rows_affected()),
        }
        .map_err($crate::error::StoreError::from)
    };
}

/// Runs a query with one of sqlx's `fetch_…` methods.
macro_rules! fetch {
    ($method:ident, $tx:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $tx {
            $crate::tx::Tx::Sqlite(tx) => {
                sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.$method(&mut **tx).await
            }
            $crate::tx::Tx::Postgres(tx) => {
                sqlx::query_as::<_, $row>($sql)$(.bind($bind))*.$method(&mut **tx).await
            }
        }
        .map_err($crate::error::StoreError::from)
    };
}

/// The one row of a query.
macro_rules! fetch_one {
    ($($args:tt)*) => { $crate::tx::fetch!(fetch_one, $($args)*) };
}

/// The one row of a query, if there is any.
macro_rules! fetch_optional {
    ($($args:tt)*) => { $crate::tx::fetch!(fetch_optional, $($args)*) };
}

/// All rows of a query; the statement bounds them.
macro_rules! fetch_all {
    ($($args:tt)*) => { $crate::tx::fetch!(fetch_all, $($args)*) };
}

/// Names statements, and lists them for the test that prepares every one on both databases.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* const $name: &str = $sql;)*

        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

pub(crate) use {execute, fetch, fetch_all, fetch_one, fetch_optional, statements};
