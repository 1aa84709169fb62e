//! Service accounts.

use chrono::{DateTime, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::service_account::ServiceAccount;

use crate::error::StoreError;
use crate::id::PrincipalId;
use crate::page::{Cursor, PageQuery};
use crate::principal::kind;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A service account's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ServiceAccountRow {
    /// Row id of the principal.
    pub principal_id: PrincipalId,
    /// `sa_<name>_<random>`
    pub client_id: String,
    /// What people call it.
    pub name: String,
    /// bcrypt of the secret.
    pub secret_hash: String,
    /// When the secret ends.
    pub secret_expires_at: Option<DateTime<Utc>>,
    /// What was signed for another generation is void.
    pub generation: i64,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl ServiceAccountRow {
    /// Whether its secret may be exchanged at `now`.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.disabled_at.is_none() && self.secret_expires_at.is_none_or(|end| now < end)
    }
}

impl From<ServiceAccountRow> for ServiceAccount {
    fn from(row: ServiceAccountRow) -> Self {
        Self {
            client_id: row.client_id,
            name: row.name,
            secret_expires_at: row.secret_expires_at,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
        }
    }
}

macro_rules! columns {
    () => {
        "SELECT c.principal_id, c.client_id, p.name, c.secret_hash, c.secret_expires_at, p.generation,
            p.disabled_at, p.created_at
        FROM service_account c JOIN principal p ON p.id = c.principal_id "
    };
}

statements! {
    INSERT = "INSERT INTO service_account (principal_id, client_id, secret_hash, secret_expires_at)
        VALUES ($1, $2, $3, $4)";
    FIND = concat!(columns!(), "WHERE c.client_id = $1");
    LIST = concat!(columns!(), "WHERE (p.created_at, p.id) < ($1, $2)
        ORDER BY p.created_at DESC, p.id DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM service_account";
    SET_SECRET = "UPDATE service_account SET secret_hash = $2, secret_expires_at = $3, end_announced = FALSE
        WHERE principal_id = $1";
}

impl Tx {
    /// Makes a service account.
    pub async fn insert_service_account(
        &mut self,
        name: &str,
        client_id: &str,
        secret_hash: &str,
        secret_expires_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let id = self.insert_principal(kind::SERVICE_ACCOUNT, name, now).await?;
        execute!(self, INSERT, id, client_id, secret_hash, secret_expires_at)?;
        Ok(id)
    }

    /// The service account of this client id.
    pub async fn find_service_account(
        &mut self,
        client_id: &str,
    ) -> Result<Option<ServiceAccountRow>, StoreError> {
        fetch_optional!(self, ServiceAccountRow, FIND, client_id)
    }

    /// All service accounts, newest first.
    pub async fn list_service_accounts(
        &mut self,
        page: PageQuery,
    ) -> Result<Page<ServiceAccount>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(self, ServiceAccountRow, LIST, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT)?;
        let place = |row: &ServiceAccountRow| Cursor { at: row.created_at, id: row.principal_id.0 };
        Ok(page.page(rows, total, place, ServiceAccount::from))
    }

    /// Changes a secret.
    pub async fn set_client_secret(
        &mut self,
        id: PrincipalId,
        hash: &str,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        execute!(self, SET_SECRET, id, hash, expires_at).map(drop)
    }
}
