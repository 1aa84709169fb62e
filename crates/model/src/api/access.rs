//! Scopes, the way in, and who one is.

use serde::{Deserialize, Serialize};

use super::token::CreatedToken;
use super::user::User;
use crate::{AppName, Permissions, ProjectName};

/// What a caller may act on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Only this project; everything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Only this app of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
}

/// Spends the one-time secret of the first start: for a token, for a person who may do everything, or for both.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The secret that the server printed.
    pub secret: String,
    /// What the first token is called; `first-admin` if neither this nor a login is given.
    #[serde(default)]
    pub token_name: Option<String>,
    /// The first person's login…
    #[serde(default)]
    pub login: Option<String>,
    /// … and password.
    #[serde(default)]
    pub password: Option<String>,
}

/// What the one-time secret was spent for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bootstrapped {
    /// The first token.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub token: Option<CreatedToken>,
    /// The first person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// What kind of credential: `token`, `user`, `service_account` or `workload`.
    pub kind: String,
    /// Its public part.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do where.
    pub grants: Vec<Grant>,
    /// What a browser sends as `X-CSRF-Token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf_token: Option<String>,
    /// The password is temporary: nothing is open before it was changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_change_password: bool,
}

/// Permissions in one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// What.
    pub permissions: Permissions,
}
