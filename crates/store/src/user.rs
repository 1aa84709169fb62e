//! People's accounts.

use chrono::{DateTime, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::user::{Role, User};
use sqlx::types::Json;

use crate::error::StoreError;
use crate::id::PrincipalId;
use crate::page::{Cursor, PageQuery};
use crate::principal::kind;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A person's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UserRow {
    /// Row id of the principal.
    pub principal_id: PrincipalId,
    /// How they log in.
    pub login: String,
    /// bcrypt of the password; none for who comes from an OIDC provider.
    pub password_hash: Option<String>,
    /// Until when a temporary password is good.
    pub password_temporary_until: Option<DateTime<Utc>>,
    /// What they may do everywhere.
    #[sqlx(try_from = "String")]
    pub role: Role,
    /// The OIDC issuer that they come from.
    pub oidc_issuer: Option<String>,
    /// Their groups, as of the last login.
    pub oidc_groups: Json<Vec<String>>,
    /// Failures since the last success.
    pub failed_logins: i32,
    /// Until when logins are refused.
    pub locked_until: Option<DateTime<Utc>>,
    /// What was signed for another generation is void.
    pub generation: i64,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl UserRow {
    /// Whether logins are refused at `now` after too many failures.
    pub fn is_locked(&self, now: DateTime<Utc>) -> bool {
        self.locked_until.is_some_and(|end| now < end)
    }
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            login: row.login,
            role: row.role,
            issuer: row.oidc_issuer,
            groups: row.oidc_groups.0,
            must_change_password: row.password_temporary_until.is_some(),
            locked_until: row.locked_until,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
        }
    }
}

/// A person to be made.
#[derive(Debug)]
pub struct NewUserRow<'a> {
    /// How they log in.
    pub login: &'a str,
    /// What they may do everywhere.
    pub role: Role,
    /// bcrypt of the password.
    pub password_hash: Option<&'a str>,
    /// Until when the password is good, if it is a temporary one.
    pub temporary_until: Option<DateTime<Utc>>,
    /// Issuer and subject of who comes from an OIDC provider.
    pub oidc: Option<(&'a str, &'a str)>,
}

macro_rules! columns {
    () => {
        "SELECT u.principal_id, u.login, u.password_hash, u.password_temporary_until, u.role, u.oidc_issuer,
            u.oidc_groups, u.failed_logins, u.locked_until, p.generation, p.disabled_at, p.created_at
        FROM user_account u JOIN principal p ON p.id = u.principal_id "
    };
}

statements! {
    INSERT = "INSERT INTO user_account
            (principal_id, login, password_hash, password_temporary_until, role, oidc_issuer, oidc_subject,
                oidc_groups, failed_logins)
        VALUES ($1, $2, $3, $4, $5, $6, $7, '[]', 0)";
    BY_LOGIN = concat!(columns!(), "WHERE u.login = $1");
    BY_ID = concat!(columns!(), "WHERE u.principal_id = $1");
    LOCK_POSTGRES = "SELECT principal_id FROM user_account WHERE principal_id = $1 FOR UPDATE";
    BY_SUBJECT = concat!(columns!(), "WHERE u.oidc_issuer = $1 AND u.oidc_subject = $2");
    LIST = concat!(columns!(), "WHERE (p.created_at, p.id) < ($1, $2)
        ORDER BY p.created_at DESC, p.id DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM user_account";
    SET_ROLE = "UPDATE user_account SET role = $2 WHERE principal_id = $1";
    SET_PASSWORD = "UPDATE user_account SET password_hash = $2, password_temporary_until = $3,
            password_changed_at = $4, failed_logins = 0, locked_until = NULL
        WHERE principal_id = $1";
    SET_GROUPS = "UPDATE user_account SET oidc_groups = $2 WHERE principal_id = $1";
    // One statement, so that failures at the same time are all counted.
    // A lock-out that is over begins a new count.
    FAILED = "UPDATE user_account SET
            failed_logins = CASE WHEN locked_until <= $4 THEN 1 ELSE failed_logins + 1 END,
            locked_until = CASE WHEN $2 <= CASE WHEN locked_until <= $4 THEN 1 ELSE failed_logins + 1 END
                THEN $3 WHEN locked_until <= $4 THEN NULL ELSE locked_until END
        WHERE principal_id = $1 RETURNING failed_logins";
    UNLOCK = "UPDATE user_account SET failed_logins = 0, locked_until = NULL WHERE principal_id = $1";
}

impl Tx {
    /// Makes a person's account. The login must be free.
    pub async fn insert_user(
        &mut self,
        new: &NewUserRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let id = self.insert_principal(kind::USER, new.login, now).await?;
        let (issuer, subject) = new.oidc.unzip();
        let role = new.role.as_str();
        execute!(self, INSERT, id, new.login, new.password_hash, new.temporary_until, role, issuer, subject)?;
        Ok(id)
    }

    /// The person of this login.
    pub async fn find_user(&mut self, login: &str) -> Result<Option<UserRow>, StoreError> {
        fetch_optional!(self, UserRow, BY_LOGIN, login)
    }

    /// The person of this principal.
    pub async fn user(&mut self, id: PrincipalId) -> Result<Option<UserRow>, StoreError> {
        fetch_optional!(self, UserRow, BY_ID, id)
    }

    /// The person of this principal, whom nobody else changes until the transaction ends.
    pub async fn locked_user(&mut self, id: PrincipalId) -> Result<Option<UserRow>, StoreError> {
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK_POSTGRES, id)?;
        }
        self.user(id).await
    }

    /// The person whom an OIDC provider calls this.
    pub async fn find_oidc_user(
        &mut self,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<UserRow>, StoreError> {
        fetch_optional!(self, UserRow, BY_SUBJECT, issuer, subject)
    }

    /// All people, newest first.
    pub async fn list_users(&mut self, page: PageQuery) -> Result<Page<User>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(self, UserRow, LIST, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT)?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.principal_id.0 }, User::from))
    }

    /// Changes what a person may do everywhere.
    pub async fn set_role(&mut self, id: PrincipalId, role: Role) -> Result<(), StoreError> {
        execute!(self, SET_ROLE, id, role.as_str()).map(drop)
    }

    /// Changes a password, which also ends a lock-out.
    pub async fn set_password(
        &mut self,
        id: PrincipalId,
        hash: &str,
        temporary_until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute!(self, SET_PASSWORD, id, hash, temporary_until, now).map(drop)
    }

    /// Remembers what groups the provider named.
    pub async fn set_groups(&mut self, id: PrincipalId, groups: &[String]) -> Result<(), StoreError> {
        execute!(self, SET_GROUPS, id, Json(groups)).map(drop)
    }

    /// Counts a failed login; locks the account until `lock_until` when there were `lock_after`. How many there were.
    pub async fn login_failed(
        &mut self,
        id: PrincipalId,
        lock_after: u32,
        lock_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<i32, StoreError> {
        let lock_after = i32::try_from(lock_after).unwrap_or(i32::MAX);
        let (failures,) = fetch_one!(self, (i32,), FAILED, id, lock_after, lock_until, now)?;
        Ok(failures)
    }

    /// Forgets failures and ends a lock-out.
    pub async fn unlock(&mut self, id: PrincipalId) -> Result<(), StoreError> {
        execute!(self, UNLOCK, id).map(drop)
    }
}
