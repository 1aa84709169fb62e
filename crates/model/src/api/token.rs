//! API tokens.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::access::Scope;
use crate::Permissions;

/// Makes a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it; at most 100 bytes.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Where: several apps, one project, or `[{}]` for everything. At least one.
    pub scopes: Vec<Scope>,
    /// When it ends; never if absent, or as late as a personal token may.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// For the person who makes it: it may what they may, and ends within a bounded time.
    #[serde(default)]
    pub personal: bool,
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
    /// Who answers for it: a person, service account or workload. It ends with them.
    #[serde(default)]
    pub owner: Option<String>,
    /// The credential that it was made with.
    #[serde(default)]
    pub made_by: Option<String>,
    /// Whether a person made it for themselves.
    #[serde(default)]
    pub personal: bool,
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
