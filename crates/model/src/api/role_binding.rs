//! Role bindings: who has which permissions where.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::access::Scope;
use crate::Permissions;

/// Who has a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A person, by login.
    User(String),
    /// A service account, by client id.
    ServiceAccount(String),
    /// Whoever a trust policy lets in, by its name.
    TrustPolicy(String),
    /// Everybody in a group of the OIDC provider.
    Group(String),
}

/// Gives a role.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRoleBinding {
    /// To whom.
    pub subject: Subject,
    /// What they may do.
    pub permissions: Permissions,
    /// Where; `{}` for everything.
    pub scope: Scope,
}

/// A role that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleBinding {
    /// Its id.
    pub id: i64,
    /// Who.
    pub subject: Subject,
    /// What they may do.
    pub permissions: Permissions,
    /// Where.
    pub scope: Scope,
    /// When it was given.
    pub created_at: DateTime<Utc>,
}
