//! Tokens and who one is.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, Permissions, ProjectName};

/// What a caller may act on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Only this project; everything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Only this app of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
}

/// Spends the one-time secret of the first start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The secret that the server printed.
    pub secret: String,
    /// What the first token is called.
    #[serde(default = "first_token_name")]
    pub token_name: String,
}

fn first_token_name() -> String {
    "first-admin".to_owned()
}

/// Makes a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it; at most 100 characters.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Where: several apps, one project, or `[{}]` for everything. At least one.
    pub scopes: Vec<Scope>,
    /// When it ends; never if absent.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token as lists show it: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Where.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A new token: the only time that its secret is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedToken {
    /// What to send as `Authorization: Bearer …`.
    pub token: String,
    /// The rest.
    #[serde(flatten)]
    pub info: Token,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// What kind of credential.
    pub kind: String,
    /// Its public part.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do where.
    pub grants: Vec<Grant>,
}

/// Permissions in one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// What.
    pub permissions: Permissions,
}
