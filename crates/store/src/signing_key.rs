//! Keys that sign tokens.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::tx::{Tx, execute, fetch_all, fetch_optional, statements};

/// A key's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SigningKeyRow {
    /// Its id.
    pub id: String,
    /// DER.
    pub public_key: Vec<u8>,
    /// DER, encrypted.
    pub private_key: Vec<u8>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When everything that it signed has ended; absent for the one that signs.
    pub verifies_until: Option<DateTime<Utc>>,
}

statements! {
    INSERT = "INSERT INTO signing_key (id, public_key, private_key, created_at, verifies_until)
        VALUES ($1, $2, $3, $4, NULL)";
    RETIRE_OTHERS = "UPDATE signing_key SET verifies_until = $2 WHERE id <> $1 AND verifies_until IS NULL";
    // The newest signs, should two have been made at the same moment.
    LIST = "SELECT id, public_key, private_key, created_at, verifies_until FROM signing_key
        WHERE verifies_until IS NULL OR verifies_until > $1
        ORDER BY CASE WHEN verifies_until IS NULL THEN 0 ELSE 1 END, created_at DESC, id LIMIT 100";
    FIND = "SELECT id, public_key, private_key, created_at, verifies_until FROM signing_key
        WHERE id = $1 AND (verifies_until IS NULL OR verifies_until > $2)";
    DELETE = "DELETE FROM signing_key WHERE id = $1";
    SWEEP = "DELETE FROM signing_key WHERE verifies_until < $1";
    LOCK_POSTGRES = "SELECT pg_advisory_xact_lock(4206)";
}

impl Tx {
    /// Holds off others who would change the keys until the transaction ends.
    pub async fn lock_signing_keys(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => execute!(self, LOCK_POSTGRES).map(drop),
        }
    }

    /// Adds the key that signs from now on. The others verify until `others_until`.
    pub async fn insert_signing_key(
        &mut self,
        key: &SigningKeyRow,
        others_until: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (public, private) = (key.public_key.as_slice(), key.private_key.as_slice());
        execute!(self, INSERT, key.id.as_str(), public, private, key.created_at)?;
        execute!(self, RETIRE_OTHERS, key.id.as_str(), others_until).map(drop)
    }

    /// The keys that verify, the one that signs first.
    pub async fn signing_keys(&mut self, now: DateTime<Utc>) -> Result<Vec<SigningKeyRow>, StoreError> {
        fetch_all!(self, SigningKeyRow, LIST, now)
    }

    /// A key that verifies.
    pub async fn find_signing_key(
        &mut self,
        id: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<SigningKeyRow>, StoreError> {
        fetch_optional!(self, SigningKeyRow, FIND, id, now)
    }

    /// Ends a key; whether it was there.
    pub async fn delete_signing_key(&mut self, id: &str) -> Result<bool, StoreError> {
        execute!(self, DELETE, id).map(|rows| rows == 1)
    }

    /// Removes keys whose time is over; how many.
    pub async fn sweep_signing_keys(&mut self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        execute!(self, SWEEP, now)
    }
}
