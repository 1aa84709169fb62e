//! Principals: everybody and everything that can act.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::id::PrincipalId;
use crate::tx::{Tx, execute, fetch_one, fetch_optional, statements};

/// What kind of principal.
pub mod kind {
    /// An API token.
    pub const TOKEN: &str = "token";
    /// A person.
    pub const USER: &str = "user";
    /// A service account.
    pub const SERVICE_ACCOUNT: &str = "service_account";
    /// Whoever a trust policy lets in.
    pub const WORKLOAD: &str = "workload";
}

/// A principal's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PrincipalRow {
    /// Row id.
    pub id: PrincipalId,
    /// One of [`kind`].
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// What was signed for another generation is void.
    pub generation: i64,
}

statements! {
    INSERT = "INSERT INTO principal (kind, name, created_at) VALUES ($1, $2, $3) RETURNING id";
    FIND = "SELECT id, kind, name, disabled_at, generation FROM principal WHERE id = $1";
    DISABLE = "UPDATE principal SET disabled_at = COALESCE(disabled_at, $2), generation = generation + 1 WHERE id = $1";
    ENABLE = "UPDATE principal SET disabled_at = NULL WHERE id = $1";
    NEXT_GENERATION = "UPDATE principal SET generation = generation + 1 WHERE id = $1";
    LOCK_POSTGRES = "SELECT pg_advisory_xact_lock(4205)";
    // Tokens and people who may do everything now.
    ADMINS = "SELECT COUNT(*) FROM principal p
        LEFT JOIN api_token t ON t.principal_id = p.id LEFT JOIN principal o ON o.id = t.owner_id
        LEFT JOIN user_account u ON u.principal_id = p.id LEFT JOIN user_account ou ON ou.principal_id = o.id
        WHERE p.disabled_at IS NULL AND o.disabled_at IS NULL
            AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $1)
            AND (u.password_temporary_until IS NULL OR u.password_temporary_until > $1)
            AND (u.role = 'admin' OR (p.kind = 'token' AND (o.id IS NULL OR ou.role = 'admin')
                AND EXISTS (SELECT 1 FROM role_binding b
                    WHERE b.principal_id = p.id AND b.project_id IS NULL AND b.permissions >= 16)))";
}

impl Tx {
    /// Makes a principal.
    pub(crate) async fn insert_principal(
        &mut self,
        kind: &str,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let (id,) = fetch_one!(self, (PrincipalId,), INSERT, kind, name, now)?;
        Ok(id)
    }

    /// The principal's row.
    pub async fn find_principal(&mut self, id: PrincipalId) -> Result<Option<PrincipalRow>, StoreError> {
        fetch_optional!(self, PrincipalRow, FIND, id)
    }

    /// Disables a principal, and voids what was signed for it, or enables it again.
    pub async fn set_disabled(
        &mut self,
        id: PrincipalId,
        disabled: bool,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        if disabled {
            execute!(self, DISABLE, id, now).map(drop)
        } else {
            execute!(self, ENABLE, id).map(drop)
        }
    }

    /// Voids everything that was signed for a principal.
    pub async fn next_generation(&mut self, id: PrincipalId) -> Result<(), StoreError> {
        execute!(self, NEXT_GENERATION, id).map(drop)
    }

    /// How many tokens and people may do everything. Holds off others who ask the same until the transaction ends, so
    /// that two admins can't remove each other.
    pub async fn count_admins(&mut self, now: DateTime<Utc>) -> Result<i64, StoreError> {
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK_POSTGRES)?;
        }
        let (count,) = fetch_one!(self, (i64,), ADMINS, now)?;
        Ok(count)
    }
}
