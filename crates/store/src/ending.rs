//! Credentials that are about to end.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::id::{PrincipalId, ProjectId};
use crate::tx::{Tx, execute, fetch_all, statements};

/// What kind of credential ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndingKind {
    /// An API token.
    Token,
    /// The secret of a service account.
    ServiceAccount,
}

impl EndingKind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ServiceAccount => "service_account",
        }
    }
}

/// A credential that is about to end, which has not been announced.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EndingRow {
    /// Row id of its principal.
    pub principal_id: PrincipalId,
    /// Its public part: the token's id, the client id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The one project that all its permissions are in, if they are in one.
    pub project_id: Option<ProjectId>,
}

macro_rules! project {
    ($principal:literal) => {
        concat!(
            "(SELECT CASE WHEN COUNT(*) = COUNT(b.project_id) AND MIN(b.project_id) = MAX(b.project_id)
                THEN MIN(b.project_id) END FROM role_binding b WHERE b.principal_id = ",
            $principal,
            ") AS project_id "
        )
    };
}

statements! {
    TOKENS = concat!("SELECT t.principal_id, t.token_id AS id, p.name, t.expires_at, ", project!("t.principal_id"),
        "FROM api_token t JOIN principal p ON p.id = t.principal_id LEFT JOIN principal o ON o.id = t.owner_id
        WHERE t.revoked_at IS NULL AND p.disabled_at IS NULL AND o.disabled_at IS NULL AND NOT t.end_announced
            AND t.expires_at > $1 AND t.expires_at <= $2 AND t.principal_id > $3
        ORDER BY t.principal_id LIMIT $4");
    ACCOUNTS = concat!("SELECT c.principal_id, c.client_id AS id, p.name, c.secret_expires_at AS expires_at, ",
        project!("c.principal_id"), "FROM service_account c JOIN principal p ON p.id = c.principal_id
        WHERE p.disabled_at IS NULL AND NOT c.end_announced
            AND c.secret_expires_at > $1 AND c.secret_expires_at <= $2 AND c.principal_id > $3
        ORDER BY c.principal_id LIMIT $4");
    ANNOUNCE_TOKEN = "UPDATE api_token SET end_announced = TRUE
        WHERE principal_id = $1 AND expires_at = $2 AND NOT end_announced";
    ANNOUNCE_ACCOUNT = "UPDATE service_account SET end_announced = TRUE
        WHERE principal_id = $1 AND secret_expires_at = $2 AND NOT end_announced";
}

impl Tx {
    /// Valid credentials of a kind that end after `now` and no later than `until`, and have not been announced, behind
    /// a principal and by principal.
    pub async fn endings(
        &mut self,
        kind: EndingKind,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        after: PrincipalId,
        limit: u32,
    ) -> Result<Vec<EndingRow>, StoreError> {
        let sql = match kind {
            EndingKind::Token => TOKENS,
            EndingKind::ServiceAccount => ACCOUNTS,
        };
        fetch_all!(self, EndingRow, sql, now, until, after, i64::from(limit))
    }

    /// Notes that an end was announced; false if it has been before, or is another one by now.
    pub async fn announce_ending(&mut self, kind: EndingKind, row: &EndingRow) -> Result<bool, StoreError> {
        let sql = match kind {
            EndingKind::Token => ANNOUNCE_TOKEN,
            EndingKind::ServiceAccount => ANNOUNCE_ACCOUNT,
        };
        execute!(self, sql, row.principal_id, row.expires_at).map(|rows| rows == 1)
    }
}
