//! API tokens and what principals may do.

use chrono::{DateTime, Utc};
use kkartifact_model::api::access::{Grant, Scope, Token};
use kkartifact_model::api::page::Page;
use kkartifact_model::token::TokenId;
use kkartifact_model::{AppName, Permissions, ProjectName};

use crate::error::StoreError;
use crate::id::{AppId, PrincipalId, ProjectId};
use crate::page::{Cursor, PageQuery};
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
    /// When the principal that made it was disabled.
    pub owner_disabled_at: Option<DateTime<Utc>>,
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
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// Permissions of a principal in one scope.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct BindingRow {
    permissions: i16,
    /// Only this project; everything if absent.
    pub project_id: Option<ProjectId>,
    /// Only this app.
    pub app_id: Option<AppId>,
    project: Option<String>,
    app: Option<String>,
}

impl BindingRow {
    /// What may be done in the scope.
    pub fn permissions(&self) -> Permissions {
        Permissions::from_bits(self.permissions)
    }

    /// The scope with names.
    pub fn scope(&self) -> Scope {
        Scope {
            project: name::<ProjectName>(self.project.as_deref()),
            app: name::<AppName>(self.app.as_deref()),
        }
    }

    /// Both.
    pub fn grant(&self) -> Grant {
        Grant { scope: self.scope(), permissions: self.permissions() }
    }
}

fn name<N: std::str::FromStr>(text: Option<&str>) -> Option<N> {
    text.and_then(|text| text.parse().ok())
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
    /// Who makes it; `None` for the first one.
    pub owner: Option<PrincipalId>,
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
            p.disabled_at, o.disabled_at AS owner_disabled_at
        FROM api_token t JOIN principal p ON p.id = t.principal_id LEFT JOIN principal o ON o.id = t.owner_id "
    };
}

statements! {
    INSERT_PRINCIPAL = "INSERT INTO principal (kind, name, created_at) VALUES ($1, $2, $3) RETURNING id";
    INSERT_TOKEN = "INSERT INTO api_token (principal_id, token_id, secret_hash, owner_id, expires_at)
        VALUES ($1, $2, $3, $4, $5)";
    BIND = "INSERT INTO role_binding (principal_id, permissions, project_id, app_id, created_at)
        VALUES ($1, $2, $3, $4, $5)";
    FIND = concat!(columns!(), "WHERE t.token_id = $1");
    BINDINGS = "SELECT b.permissions, b.project_id, b.app_id, p.name AS project, a.name AS app
        FROM role_binding b LEFT JOIN project p ON p.id = b.project_id LEFT JOIN app a ON a.id = b.app_id
        WHERE b.principal_id = $1 ORDER BY b.id LIMIT 1000";
    LIST = concat!(columns!(), "WHERE (p.created_at, p.id) < ($1, $2)
        ORDER BY p.created_at DESC, p.id DESC LIMIT $3 OFFSET $4");
    COUNT = "SELECT COUNT(*) FROM api_token";
    REVOKE = "UPDATE api_token SET revoked_at = $2 WHERE token_id = $1 AND revoked_at IS NULL";
}

impl Tx {
    /// Makes a token.
    pub async fn insert_token(
        &mut self,
        new: &NewTokenRow<'_>,
        now: DateTime<Utc>,
    ) -> Result<PrincipalId, StoreError> {
        let (id,) = fetch_one!(self, (PrincipalId,), INSERT_PRINCIPAL, "token", new.name, now)?;
        let token_id = new.token_id.as_str();
        execute!(self, INSERT_TOKEN, id, token_id, new.secret_hash, new.owner, new.expires_at)?;
        for (project, app) in new.scopes {
            execute!(self, BIND, id, new.permissions.bits(), *project, *app, now)?;
        }
        Ok(id)
    }

    /// The token of this id, valid or not.
    pub async fn find_token(&mut self, id: &TokenId) -> Result<Option<TokenRow>, StoreError> {
        fetch_optional!(self, TokenRow, FIND, id.as_str())
    }

    /// What a principal may do where.
    pub async fn bindings(&mut self, principal: PrincipalId) -> Result<Vec<BindingRow>, StoreError> {
        fetch_all!(self, BindingRow, BINDINGS, principal)
    }

    /// A token as lists show it.
    pub async fn token_info(&mut self, row: TokenRow) -> Result<Token, StoreError> {
        let bindings = self.bindings(row.principal_id).await?;
        Ok(row.into_token(&bindings))
    }

    /// All tokens, newest first.
    pub async fn list_tokens(&mut self, page: PageQuery) -> Result<Page<Token>, StoreError> {
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(self, TokenRow, LIST, at, id, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT)?;
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
}
