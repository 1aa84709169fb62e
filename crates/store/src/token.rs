//! API tokens.

use chrono::{DateTime, Utc};
use kkartifact_model::Permissions;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::token::Token;
use kkartifact_model::token::TokenId;

use crate::error::StoreError;
use crate::id::{AppId, PrincipalId, ProjectId};
use crate::page::{Cursor, PageQuery};
use crate::principal::kind;
use crate::role_binding::{BindingRow, BindingSubject, Reach, list};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// What is needed to let a token in.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TokenRow {
    /// Row id of its principal.
    pub principal_id: PrincipalId,
    /// Its public part.
    pub token_id: String,
    /// What people call it.
    pub name: String,
    /// bcrypt of its secret part.
    pub secret_hash: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When the token itself was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Who answers for it: never may it more than they.
    pub owner_id: Option<PrincipalId>,
    /// What people call its owner.
    pub owner_name: Option<String>,
    /// When its owner was disabled.
    pub owner_disabled_at: Option<DateTime<Utc>>,
    /// What people call the credential that it was made with.
    pub maker_name: Option<String>,
    /// Whether a person made it for themselves.
    pub personal: bool,
}

impl TokenRow {
    /// Whether the token may be used at `now`.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none()
            && self.disabled_at.is_none()
            && self.owner_disabled_at.is_none()
            && self.expires_at.is_none_or(|end| now < end)
    }

    fn into_token(self, bindings: &[BindingRow]) -> Token {
        Token {
            id: self.token_id,
            name: self.name,
            permissions: bindings.iter().fold(Permissions::default(), |all, b| all.union(b.permissions())),
            scopes: bindings.iter().map(BindingRow::scope).collect(),
            owner: self.owner_name,
            made_by: self.maker_name,
            personal: self.personal,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// A token to be made.
#[derive(Debug)]
pub struct NewTokenRow<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Its public part.
    pub token_id: &'a TokenId,
    /// bcrypt of its secret part.
    pub secret_hash: &'a str,
    /// The person, service account or workload that answers for it.
    pub owner: Option<PrincipalId>,
    /// The credential that it is made with; `None` for the first one.
    pub made_by: Option<PrincipalId>,
    /// Whether a person makes it for themselves.
    pub personal: bool,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it may do…
    pub permissions: Permissions,
    /// … and where.
    pub scopes: &'a [(Option<ProjectId>, Option<AppId>)],
}

macro_rules! columns {
    () => {
        "SELECT t.principal_id, t.token_id, p.name, t.secret_hash, p.created_at, t.expires_at, t.revoked_at,
            p.disabled_at, t.owner_id, o.name AS owner_name, o.disabled_at AS owner_disabled_at, m.name AS maker_name, t.personal "
    };
}
macro_rules! tables {
    () => {
        "FROM api_token t JOIN principal p ON p.id = t.principal_id LEFT JOIN principal o ON o.id = t.owner_id
            LEFT JOIN principal m ON m.id = t.made_by "
    };
}

// One's own, and those that reach nowhere beyond where one is admin.
macro_rules! managed {
    () => {
        "WHERE ($1 OR t.principal_id = $2 OR t.owner_id = $2 OR t.made_by = $2 OR EXISTS (
            SELECT 1 FROM role_binding b WHERE b.principal_id = t.principal_id) AND NOT EXISTS (
            SELECT 1 FROM role_binding b WHERE b.principal_id = t.principal_id
                AND COALESCE(b.project_id, 0) NOT IN (SELECT CAST(value AS BIGINT) FROM json_each($3))
                AND COALESCE(b.app_id, 0) NOT IN (SELECT CAST(value AS BIGINT) FROM json_each($4))))"
    };
}

statements! {
    INSERT_TOKEN = "INSERT INTO api_token
            (principal_id, token_id, secret_hash, owner_id, made_by, personal, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    FIND = concat!(columns!(), tables!(), "WHERE t.token_id = $1");
    FIND_MANAGED = concat!(columns!(), tables!(), managed!(), " AND t.token_id = $5");
    LIST = concat!(columns!(), tables!(), managed!(), " AND (p.created_at, p.id) < ($5, $6)
        ORDER BY p.created_at DESC, p.id DESC LIMIT $7 OFFSET $8");
    COUNT = concat!("SELECT COUNT(*) ", tables!(), managed!());
    REVOKE = "UPDATE api_token SET revoked_at = $2 WHERE token_id = $1 AND revoked_at IS NULL";
    // Whoever makes a token holds its maker's row: this waits for them.
    LOCK_MADE_POSTGRES = "SELECT p.id FROM principal p WHERE p.id = $1 OR p.id IN (
        WITH RECURSIVE made (id) AS (
            SELECT principal_id FROM api_token WHERE made_by = $1
            UNION SELECT t.principal_id FROM api_token t JOIN made ON t.made_by = made.id)
        SELECT id FROM made) ORDER BY p.id FOR UPDATE";
    REVOKE_MADE = "UPDATE api_token SET revoked_at = $2 WHERE revoked_at IS NULL AND principal_id IN (
        WITH RECURSIVE made (id) AS (
            SELECT principal_id FROM api_token WHERE made_by = $1
            UNION SELECT t.principal_id FROM api_token t JOIN made ON t.made_by = made.id)
        SELECT id FROM made)";
}

impl Tx {
    /// Makes a token.
    pub async fn insert_token(
        &mut self,
        new: &NewTokenRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let id = self.insert_principal(kind::TOKEN, new.name, now).await?;
        let token_id = new.token_id.as_str();
        let (owner, maker) = (new.owner, new.made_by);
        execute!(
            self,
            INSERT_TOKEN,
            id,
            token_id,
            new.secret_hash,
            owner,
            maker,
            new.personal,
            new.expires_at
        )?;
        for (project, app) in new.scopes {
            self.insert_binding(BindingSubject::Principal(id), new.permissions, *project, *app, now).await?;
        }
        Ok(id)
    }

    /// The token of this id, valid or not.
    pub async fn find_token(&mut self, id: &TokenId) -> Result<Option<TokenRow>, StoreError> {
        fetch_optional!(self, TokenRow, FIND, id.as_str())
    }

    /// The token of this id, if it is the viewer's own or within what they administer.
    pub async fn find_managed_token(
        &mut self,
        id: &TokenId,
        viewer: PrincipalId,
        reach: &Reach,
    ) -> Result<Option<TokenRow>, StoreError> {
        let (projects, apps) = (list(&reach.projects), list(&reach.apps));
        fetch_optional!(self, TokenRow, FIND_MANAGED, reach.everything, viewer, projects, apps, id.as_str())
    }

    /// A token as lists show it.
    pub async fn token_info(&mut self, row: TokenRow) -> Result<Token, StoreError> {
        let bindings = self.bindings(row.principal_id, &[]).await?;
        Ok(row.into_token(&bindings))
    }

    /// The viewer's own tokens and those within what they administer, newest first.
    pub async fn list_tokens(
        &mut self,
        viewer: PrincipalId,
        reach: &Reach,
        page: PageQuery,
    ) -> Result<Page<Token>, StoreError> {
        let (projects, apps) = (list(&reach.projects), list(&reach.apps));
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(
            self,
            TokenRow,
            LIST,
            reach.everything,
            viewer,
            projects.as_str(),
            apps.as_str(),
            at,
            id,
            page.fetch(),
            page.skip()
        )?;
        let (total,) =
            fetch_one!(self, (i64,), COUNT, reach.everything, viewer, projects.as_str(), apps.as_str())?;
        let place = |row: &TokenRow| Cursor { at: row.created_at, id: row.principal_id.0 };
        let rows = page.page(rows, total, place, |row| row);
        let mut items = Vec::with_capacity(rows.items.len());
        for row in rows.items {
            items.push(self.token_info(row).await?);
        }
        Ok(Page {
            items,
            total: rows.total,
            limit: rows.limit,
            offset: rows.offset,
            has_more: rows.has_more,
            next_cursor: rows.next_cursor,
        })
    }

    /// Revokes a token; whether it was there and not revoked.
    pub async fn revoke_token(&mut self, id: &TokenId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, REVOKE, id.as_str(), now).map(|rows| rows == 1)
    }

    /// Revokes every token that was made with a credential, directly or not; how many.
    pub async fn revoke_made(&mut self, by: PrincipalId, now: DateTime<Utc>) -> Result<u64, StoreError> {
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK_MADE_POSTGRES, by)?;
        }
        execute!(self, REVOKE_MADE, by, now)
    }
}
