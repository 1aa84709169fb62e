//! An authenticated caller, and the one permission check.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use chrono::{DateTime, Utc};
use http::request::Parts;
use kkartifact_model::api::access::{Grant, WhoAmI};
use kkartifact_model::{Code, Permission, Permissions};
use kkartifact_store::{Actor, AppId, BindingRow, PrincipalId, ProjectId};

use crate::error::{ApiError, ApiResult};

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The principal's row.
    pub principal: PrincipalId,
    /// What kind of credential.
    pub kind: &'static str,
    /// Its public part.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    pub(super) bindings: Arc<[BindingRow]>,
    pub(super) address: Option<String>,
    pub(super) request_id: String,
}

/// What a permission is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// Everything.
    Global,
    /// A project as a whole.
    Project(ProjectId),
    /// An app.
    App(ProjectId, AppId),
}

impl Caller {
    /// What the caller may do with an object, by all bindings that cover it.
    pub(crate) fn permissions(&self, object: Object) -> Permissions {
        let covers = |binding: &&BindingRow| match (binding.project_id, binding.app_id, object) {
            (None, _, _) => true,
            (Some(p), None, Object::Project(project) | Object::App(project, _)) => p == project,
            (Some(p), Some(a), Object::App(project, app)) => (p, a) == (project, app),
            // A part does not cover the whole.
            (Some(_), _, _) => false,
        };
        self.bindings.iter().filter(covers).fold(Permissions::default(), |all, b| all.union(b.permissions()))
    }

    /// Whether the caller may know that a project exists: any binding in it is enough.
    pub(crate) fn sees_project(&self, project: ProjectId) -> bool {
        self.bindings.iter().any(|b| b.project_id.is_none_or(|p| p == project) && !b.permissions().is_empty())
    }

    /// Requires a permission on everything.
    pub fn require_global(&self, permission: Permission) -> ApiResult<()> {
        if self.permissions(Object::Global).contains(permission) {
            Ok(())
        } else {
            Err(forbidden(permission))
        }
    }

    /// Whether every permission in `permissions` on the object is the caller's own: what they may hand on.
    pub fn holds(&self, permissions: Permissions, project: Option<ProjectId>, app: Option<AppId>) -> bool {
        let object = match (project, app) {
            (None, _) => Object::Global,
            (Some(project), None) => Object::Project(project),
            (Some(project), Some(app)) => Object::App(project, app),
        };
        self.permissions(object).covers(permissions)
    }

    /// Who acts, for audit rows.
    pub fn actor(&self) -> Actor {
        Actor {
            id: Some(self.principal),
            kind: self.kind.to_owned(),
            name: self.name.clone(),
            address: self.address.clone(),
            request_id: Some(self.request_id.clone()),
        }
    }

    /// What the caller learns about themselves.
    pub fn describe(&self) -> WhoAmI {
        let grants: Vec<Grant> = self.bindings.iter().map(BindingRow::grant).collect();
        WhoAmI { kind: self.kind.into(), id: self.id.clone(), name: self.name.clone(), grants }
    }
}

pub(super) fn forbidden(permission: Permission) -> ApiError {
    let message = format!("your credential lacks the permission '{}' here", permission.as_str());
    ApiError::new(Code::Forbidden, message)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        // Put there by the gate, which every route passes.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::internal("the route has no caller"))
    }
}
