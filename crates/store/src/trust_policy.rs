//! Trust policies.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::trust_policy::TrustPolicy;
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::PrincipalId;
use crate::page::{Cursor, PageQuery};
use crate::principal::kind;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A trust policy's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TrustPolicyRow {
    /// Row id of the principal.
    pub principal_id: PrincipalId,
    /// Its name.
    pub name: String,
    /// The `iss` of the tokens.
    pub issuer: String,
    /// What must be among their `aud`.
    pub audience: String,
    /// Claim → pattern.
    pub claims: Json<BTreeMap<String, String>>,
    /// How long our token lasts, at most.
    pub max_minutes: i32,
    /// What was signed for another generation is void.
    pub generation: i64,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl From<TrustPolicyRow> for TrustPolicy {
    fn from(row: TrustPolicyRow) -> Self {
        Self {
            name: row.name,
            issuer: row.issuer,
            audience: row.audience,
            claims: row.claims.0,
            max_minutes: u32::try_from(row.max_minutes).unwrap_or(0),
            disabled_at: row.disabled_at,
            created_at: row.created_at,
        }
    }
}

/// A trust policy to be made.
#[derive(Debug)]
pub struct NewTrustPolicyRow<'a> {
    /// Its name.
    pub name: &'a str,
    /// The `iss` of the tokens.
    pub issuer: &'a str,
    /// What must be among their `aud`.
    pub audience: &'a str,
    /// Claim → pattern.
    pub claims: &'a BTreeMap<String, String>,
    /// How long our token lasts, at most.
    pub max_minutes: u32,
}

macro_rules! columns {
    () => {
        "SELECT t.principal_id, t.name, t.issuer, t.audience, t.claims, t.max_minutes, p.generation,
            p.disabled_at, p.created_at
        FROM trust_policy t JOIN principal p ON p.id = t.principal_id "
    };
}

statements! {
    INSERT = "INSERT INTO trust_policy (principal_id, name, issuer, audience, claims, max_minutes)
        VALUES ($1, $2, $3, $4, $5, $6)";
    FIND = concat!(columns!(), "WHERE t.name = $1");
    OF_ISSUER = concat!(columns!(), "WHERE t.issuer = $1 AND p.disabled_at IS NULL ORDER BY t.name LIMIT 1000");
    LIST = concat!(columns!(), "WHERE (p.created_at, p.id) < ($1, $2)
        ORDER BY p.created_at DESC, p.id DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM trust_policy";
}

impl Tx {
    /// Makes a trust policy.
    pub async fn insert_trust_policy(
        &mut self,
        new: &NewTrustPolicyRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let id = self.insert_principal(kind::WORKLOAD, new.name, now).await?;
        let minutes = i32::try_from(new.max_minutes).unwrap_or(i32::MAX);
        let claims = Json(new.claims);
        execute!(self, INSERT, id, new.name, new.issuer, new.audience, claims, minutes)?;
        Ok(id)
    }

    /// The trust policy of this name.
    pub async fn find_trust_policy(&mut self, name: &str) -> Result<Option<TrustPolicyRow>, StoreError> {
        fetch_optional!(self, TrustPolicyRow, FIND, name)
    }

    /// The policies for an issuer that are not disabled.
    pub async fn trust_policies_of(&mut self, issuer: &str) -> Result<Vec<TrustPolicyRow>, StoreError> {
        fetch_all!(self, TrustPolicyRow, OF_ISSUER, issuer)
    }

    /// All trust policies, newest first.
    pub async fn list_trust_policies(&mut self, page: PageQuery) -> Result<Page<TrustPolicy>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(self, TrustPolicyRow, LIST, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT)?;
        let place = |row: &TrustPolicyRow| Cursor { at: row.created_at, id: row.principal_id.0 };
        Ok(page.page(rows, total, place, TrustPolicy::from))
    }
}
