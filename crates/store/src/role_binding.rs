//! Role bindings: what principals and groups may do where.

use chrono::{DateTime, Utc};
use kkartifact_model::api::access::{Grant, Scope};
use kkartifact_model::api::role_binding::{RoleBinding, Subject};
use kkartifact_model::{AppName, Permissions, ProjectName};

use crate::error::StoreError;
use crate::id::{AppId, PrincipalId, ProjectId, RoleBindingId};
use crate::page::{Cursor, PageQuery};
use crate::principal::kind;
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};
use kkartifact_model::api::page::Page;

/// Permissions in one scope.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
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
    /// Permissions on everything.
    pub fn global(permissions: Permissions) -> Self {
        Self { permissions: permissions.bits(), project_id: None, app_id: None, project: None, app: None }
    }

    /// What may be done in the scope.
    pub fn permissions(&self) -> Permissions {
        Permissions::from_bits(self.permissions)
    }

    /// The same scope with other permissions.
    #[must_use]
    pub fn with(&self, permissions: Permissions) -> Self {
        Self { permissions: permissions.bits(), ..self.clone() }
    }

    /// Whether the scope has everything of the other's in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.project_id.is_none_or(|project| other.project_id == Some(project))
            && self.app_id.is_none_or(|app| other.app_id == Some(app))
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

/// Where somebody has a permission: for lists that show only that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Everywhere.
    pub everything: bool,
    /// In these projects, as a whole.
    pub projects: Vec<i64>,
    /// In these apps.
    pub apps: Vec<i64>,
    /// The projects that those apps are in.
    pub around: Vec<i64>,
}

/// A list as one parameter.
pub(crate) fn list<T: serde::Serialize>(items: &[T]) -> String {
    serde_json::to_string(items).unwrap_or_else(|_| "[]".to_owned())
}

/// To whom a role is given.
#[derive(Debug, Clone, Copy)]
pub enum BindingSubject<'a> {
    /// A principal.
    Principal(PrincipalId),
    /// An OIDC group.
    Group(&'a str),
}

/// A binding with its subject.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RoleBindingRow {
    /// Row id.
    pub id: RoleBindingId,
    /// Where and what.
    #[sqlx(flatten)]
    pub binding: BindingRow,
    principal_id: Option<PrincipalId>,
    kind: Option<String>,
    subject: Option<String>,
    oidc_group: Option<String>,
    created_at: DateTime<Utc>,
}

impl From<RoleBindingRow> for RoleBinding {
    fn from(row: RoleBindingRow) -> Self {
        let subject = row.subject.unwrap_or_default();
        let subject = match (row.kind.as_deref(), row.oidc_group) {
            (_, Some(group)) => Subject::Group(group),
            (Some(kind::SERVICE_ACCOUNT), _) => Subject::ServiceAccount(subject),
            (Some(kind::WORKLOAD), _) => Subject::TrustPolicy(subject),
            _ => Subject::User(subject),
        };
        Self {
            id: row.id.0,
            subject,
            permissions: row.binding.permissions(),
            scope: row.binding.scope(),
            created_at: row.created_at,
        }
    }
}

impl RoleBindingRow {
    /// Whose it is, if it is not a group's.
    pub fn principal(&self) -> Option<PrincipalId> {
        self.principal_id
    }
}

macro_rules! columns {
    () => {
        "SELECT b.id, b.permissions, b.project_id, b.app_id, p.name AS project, a.name AS app, b.principal_id,
            s.kind, COALESCE(u.login, c.client_id, t.name) AS subject, b.oidc_group, b.created_at "
    };
}

// Tokens have bindings too, but those belong to the token and never change.
macro_rules! manageable {
    () => {
        "FROM role_binding b LEFT JOIN project p ON p.id = b.project_id LEFT JOIN app a ON a.id = b.app_id
            LEFT JOIN principal s ON s.id = b.principal_id
            LEFT JOIN user_account u ON u.principal_id = s.id
            LEFT JOIN service_account c ON c.principal_id = s.id
            LEFT JOIN trust_policy t ON t.principal_id = s.id
            WHERE COALESCE(s.kind, 'group') <> 'token' "
    };
}

macro_rules! within {
    () => {
        " AND ($1 OR COALESCE(b.project_id, 0) IN (SELECT CAST(value AS BIGINT) FROM json_each($2))
            OR COALESCE(b.app_id, 0) IN (SELECT CAST(value AS BIGINT) FROM json_each($3)))"
    };
}

statements! {
    BIND = "INSERT INTO role_binding (principal_id, oidc_group, permissions, project_id, app_id, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (COALESCE(principal_id, 0), COALESCE(oidc_group, ''), COALESCE(project_id, 0), COALESCE(app_id, 0))
        DO UPDATE SET permissions = role_binding.permissions | EXCLUDED.permissions RETURNING id";
    OF = "SELECT b.permissions, b.project_id, b.app_id, p.name AS project, a.name AS app
        FROM role_binding b LEFT JOIN project p ON p.id = b.project_id LEFT JOIN app a ON a.id = b.app_id
        WHERE b.principal_id = $1 OR b.oidc_group IN (SELECT value FROM json_each($2))
        ORDER BY b.id LIMIT 1000";
    FIND = concat!(columns!(), manageable!(), "AND b.id = $1");
    LIST = concat!(columns!(), manageable!(), within!(),
        " AND (b.created_at, b.id) < ($4, $5) ORDER BY b.created_at DESC, b.id DESC LIMIT $6 OFFSET $7");
    COUNT = concat!("SELECT COUNT(*) ", manageable!(), within!());
    DELETE = "DELETE FROM role_binding WHERE id = $1";
}

impl Tx {
    /// Gives a role; to who has one there, in addition.
    pub async fn insert_binding(
        &mut self,
        subject: BindingSubject<'_>,
        permissions: Permissions,
        project: Option<ProjectId>,
        app: Option<AppId>,
        now: DateTime<Utc>,
    ) -> Result<RoleBindingId, StoreError> {
        let (principal, group) = match subject {
            BindingSubject::Principal(id) => (Some(id), None),
            BindingSubject::Group(group) => (None, Some(group)),
        };
        let bits = permissions.bits();
        let (id,) = fetch_one!(self, (RoleBindingId,), BIND, principal, group, bits, project, app, now)?;
        Ok(id)
    }

    /// What a principal may do where, with what its groups may; the oldest 1000.
    pub async fn bindings(
        &mut self,
        principal: PrincipalId,
        groups: &[String],
    ) -> Result<Vec<BindingRow>, StoreError> {
        fetch_all!(self, BindingRow, OF, principal, list(groups))
    }

    /// A binding by its id. Not of tokens.
    pub async fn find_binding(&mut self, id: RoleBindingId) -> Result<Option<RoleBindingRow>, StoreError> {
        fetch_optional!(self, RoleBindingRow, FIND, id)
    }

    /// The bindings within a reach, newest first.
    pub async fn list_bindings(
        &mut self,
        reach: &Reach,
        page: PageQuery,
    ) -> Result<Page<RoleBinding>, StoreError> {
        let (projects, apps) = (list(&reach.projects), list(&reach.apps));
        let (at, id) = (page.after.time(), page.after.id);
        let rows = fetch_all!(
            self,
            RoleBindingRow,
            LIST,
            reach.everything,
            projects.as_str(),
            apps.as_str(),
            at,
            id,
            page.fetch(),
            page.skip()
        )?;
        let (total,) = fetch_one!(self, (i64,), COUNT, reach.everything, projects.as_str(), apps.as_str())?;
        Ok(page.page(rows, total, |row| Cursor { at: row.created_at, id: row.id.0 }, RoleBinding::from))
    }

    /// Takes a role away; whether it was there.
    pub async fn delete_binding(&mut self, id: RoleBindingId) -> Result<bool, StoreError> {
        execute!(self, DELETE, id).map(|rows| rows == 1)
    }
}
