//! Service accounts: programs with a client id and a secret that they exchange for short tokens.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Makes a service account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewServiceAccount {
    /// 1 to 32 lower-case letters, digits and `-`; becomes a part of the client id.
    pub name: String,
    /// After how many days the secret ends; 0 for never.
    #[serde(default = "ninety")]
    pub secret_days: u32,
}

const fn ninety() -> u32 {
    90
}

/// Makes a new secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// After how many days it ends; 0 for never.
    #[serde(default = "ninety")]
    pub secret_days: u32,
}

/// Changes a service account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountChange {
    /// Whether everything of it is ended.
    pub disabled: bool,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// `sa_<name>_<random>`
    pub client_id: String,
    /// What people call it.
    pub name: String,
    /// When its secret ends.
    pub secret_expires_at: Option<DateTime<Utc>>,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A service account with a new secret: the only time that it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceAccountWithSecret {
    /// What to send with the client id.
    pub client_secret: String,
    /// The rest.
    #[serde(flatten)]
    pub account: ServiceAccount,
}
