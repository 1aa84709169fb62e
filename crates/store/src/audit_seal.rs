//! The hash chain over audit rows.

use chrono::{DateTime, Utc};

use crate::audit::{AuditRow, columns};
use crate::error::StoreError;
use crate::id::AuditId;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SealRow {
    /// Its place, from 1, without gaps.
    pub seq: i64,
    /// The row that it seals.
    pub audit_id: AuditId,
    /// Over the link before and the row.
    pub hash: Vec<u8>,
}

/// Where the chain begins after retention.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StartRow {
    /// The place of the last link that is gone.
    pub seq: i64,
    /// Its hash.
    pub hash: Vec<u8>,
    /// Over both.
    pub signature: Vec<u8>,
}

statements! {
    UNSEALED = concat!(columns!(), "WHERE NOT sealed ORDER BY id LIMIT $1");
    LAST = "SELECT seq, audit_id, hash FROM audit_seal ORDER BY seq DESC LIMIT 1";
    LINKS = "SELECT seq, audit_id, hash FROM audit_seal WHERE seq > $1 ORDER BY seq LIMIT $2";
    TWICE = "SELECT MAX(id) FROM audit WHERE nonce IS NOT NULL GROUP BY nonce HAVING COUNT(*) > 1 LIMIT $1";
    LOCK_POSTGRES = "SELECT pg_advisory_xact_lock(4207)";
    // A second sealer fails here.
    INSERT = "INSERT INTO audit_seal (seq, audit_id, hash) VALUES ($1, $2, $3)";
    SEALED = "UPDATE audit SET sealed = TRUE WHERE id = $1";
    ROWS = concat!(columns!(),
        "WHERE id IN (SELECT audit_id FROM audit_seal WHERE seq > $1 AND seq <= $2)");
    NOT_IN_CHAIN = concat!(columns!(), "WHERE id > $1 AND NOT EXISTS (
        SELECT 1 FROM audit_seal s WHERE s.audit_id = audit.id) ORDER BY id LIMIT $2");
    // The last link whose row, and all before it, are old enough.
    OLD = "SELECT COALESCE(MIN(s.seq), 0) FROM audit_seal s JOIN audit a ON a.id = s.audit_id WHERE a.at >= $1";
    LINK = "SELECT seq, audit_id, hash FROM audit_seal WHERE seq = $1";
    DELETE_ROWS = "DELETE FROM audit WHERE id IN (SELECT audit_id FROM audit_seal WHERE seq <= $1)";
    DELETE_LINKS = "DELETE FROM audit_seal WHERE seq <= $1";
    START = "SELECT seq, hash, signature FROM audit_start ORDER BY seq DESC LIMIT 1";
    DELETE_STARTS = "DELETE FROM audit_start";
    INSERT_START = "INSERT INTO audit_start (seq, hash, signature, created_at) VALUES ($1, $2, $3, $4)";
}

impl Tx {
    /// Holds off other sealers until the transaction ends.
    pub async fn lock_audit_chain(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => execute!(self, LOCK_POSTGRES).map(drop),
        }
    }

    /// Rows that are copies of others.
    pub async fn copied_audit(&mut self, limit: u32) -> Result<Vec<AuditId>, StoreError> {
        let rows = fetch_all!(self, (AuditId,), TWICE, i64::from(limit))?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Rows that no link seals yet, oldest first.
    pub async fn unsealed_audit(&mut self, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        fetch_all!(self, AuditRow, UNSEALED, i64::from(limit))
    }

    /// The last link.
    pub async fn last_seal(&mut self) -> Result<Option<SealRow>, StoreError> {
        fetch_optional!(self, SealRow, LAST)
    }

    /// Adds a link.
    pub async fn insert_seal(&mut self, seal: &SealRow) -> Result<(), StoreError> {
        execute!(self, INSERT, seal.seq, seal.audit_id, seal.hash.as_slice())?;
        execute!(self, SEALED, seal.audit_id).map(drop)
    }

    /// Links behind a place, in their order.
    pub async fn seals(&mut self, after: i64, limit: u32) -> Result<Vec<SealRow>, StoreError> {
        fetch_all!(self, SealRow, LINKS, after, i64::from(limit))
    }

    /// The rows that links behind `after` up to `last` seal, in no order.
    pub async fn sealed_rows(&mut self, after: i64, last: i64) -> Result<Vec<AuditRow>, StoreError> {
        fetch_all!(self, AuditRow, ROWS, after, last)
    }

    /// Rows behind an id that are in no link.
    pub async fn rows_outside_chain(
        &mut self,
        after: AuditId,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        fetch_all!(self, AuditRow, NOT_IN_CHAIN, after, i64::from(limit))
    }

    /// The last link before the first one whose row is from `time` or later; `None` if that is the first.
    pub async fn seal_before(&mut self, time: DateTime<Utc>) -> Result<Option<SealRow>, StoreError> {
        let (first,) = fetch_one!(self, (i64,), OLD, time)?;
        if first > 0 {
            return fetch_optional!(self, SealRow, LINK, first - 1);
        }
        self.last_seal().await
    }

    /// Removes links up to a place, with their rows, and notes where the chain begins now; how many rows.
    pub async fn cut_audit(&mut self, start: &StartRow, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let rows = execute!(self, DELETE_ROWS, start.seq)?;
        execute!(self, DELETE_LINKS, start.seq)?;
        execute!(self, DELETE_STARTS)?;
        execute!(self, INSERT_START, start.seq, start.hash.as_slice(), start.signature.as_slice(), now)?;
        Ok(rows)
    }

    /// Where the chain begins, if not at its first link.
    pub async fn audit_start(&mut self) -> Result<Option<StartRow>, StoreError> {
        fetch_optional!(self, StartRow, START)
    }
}
