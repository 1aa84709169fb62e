//! An authenticated caller.

use axum::extract::FromRequestParts;
use chrono::{DateTime, Utc};
use http::request::Parts;
use kkartifact_model::api::access::WhoAmI;
use kkartifact_model::token::TokenId;
use kkartifact_model::{Code, Permission, Permissions};
use kkartifact_store::{Actor, AppId, AuditKey, PrincipalId, ProjectId};
use uuid::Uuid;

use super::grants::{Grants, Object};
use super::keys::Claims;
use crate::error::{ApiError, ApiResult};
use crate::http::trace::Trace;

/// What a caller proved who they are with. Names the row that is read on every request.
#[derive(Debug, Clone)]
pub enum Credential {
    /// An API token.
    Token(TokenId),
    /// A session, which is what a signed token of a person names.
    Session(Uuid),
    /// A signed token of a service account or workload.
    Signed(Box<Claims>),
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The principal's row.
    pub principal: PrincipalId,
    /// What kind of principal.
    pub kind: &'static str,
    /// Its public part: the token's id, the login, the client id, the subject.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When the credential ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// The person, service account or workload that answers for what the caller makes; `None` for tokens that
    /// nobody answers for.
    pub owner: Option<PrincipalId>,
    /// What it was proved with.
    pub credential: Credential,
    /// The password is temporary: nothing is open before it was changed.
    pub must_change_password: bool,
    pub(super) grants: Grants,
    pub(super) csrf_token: Option<String>,
    pub(super) address: Option<String>,
    pub(super) request_id: String,
    pub(super) trace: Trace,
    pub(super) audit_key: AuditKey,
}

impl Caller {
    /// What the caller may do where.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The session, if the caller is a person with one.
    pub fn session(&self) -> Option<Uuid> {
        match self.credential {
            Credential::Session(id) => Some(id),
            Credential::Token(_) | Credential::Signed(_) => None,
        }
    }

    /// The request that they came with.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The trace that the request belongs to.
    pub(crate) fn trace(&self) -> Trace {
        self.trace
    }

    /// Requires a permission on everything.
    pub fn require_global(&self, permission: Permission) -> ApiResult<()> {
        if self.grants.permissions(Object::Global).contains(permission) {
            Ok(())
        } else {
            Err(Self::lacks(permission))
        }
    }

    /// Whether every permission in `permissions` on the object is the caller's own: what they may hand on.
    pub fn holds(&self, permissions: Permissions, project: Option<ProjectId>, app: Option<AppId>) -> bool {
        self.grants.permissions(Object::of(project, app)).covers(permissions)
    }

    /// Who acts, for audit rows.
    pub fn actor(&self) -> Actor {
        Actor {
            id: Some(self.principal),
            kind: self.kind.to_owned(),
            name: self.name.clone(),
            address: self.address.clone(),
            request_id: Some(self.request_id.clone()),
            trace_parent: Some(self.trace.to_string()),
            key: self.audit_key.clone(),
        }
    }

    /// What the caller learns about themselves.
    pub fn describe(&self) -> WhoAmI {
        WhoAmI {
            kind: self.kind.into(),
            id: self.id.clone(),
            name: self.name.clone(),
            grants: self.grants.describe(),
            csrf_token: self.csrf_token.clone(),
            must_change_password: self.must_change_password,
        }
    }

    /// The refusal of something that the caller may see and may not do.
    pub(super) fn lacks(permission: Permission) -> ApiError {
        let message = format!("your credential lacks the permission '{}' here", permission.as_str());
        ApiError::new(Code::Forbidden, message).as_refusal()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        // Put there by the gate, which every route passes.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::internal("the route has no caller"))
    }
}
