//! People: their accounts, logins and sessions.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::text::text_enum;

text_enum! {
    /// What a person may do everywhere, beside role bindings.
    Role {
        /// Everything.
        Admin = "admin",
        /// See and read everything.
        Readonly = "readonly",
        /// Nothing.
        None = "none",
    }
}

// What was not said grants nothing.
#[expect(clippy::derivable_impls, reason = "the macro derives for every enumeration alike")]
impl Default for Role {
    fn default() -> Self {
        Self::None
    }
}

/// Makes a person's account.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 64 lower-case letters, digits and `.-_@+`.
    pub login: String,
    /// What they may do everywhere.
    #[serde(default)]
    pub role: Role,
    /// Their password; without one a temporary one is made.
    #[serde(default)]
    pub password: Option<String>,
    /// What the OIDC provider calls them (`sub`), for who logs in there and has no password here.
    #[serde(default)]
    pub oidc_subject: Option<String>,
}

/// Changes an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// What they may do everywhere.
    #[serde(default)]
    pub role: Option<Role>,
    /// Whether everything of theirs is ended: sessions, tokens, logins.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// A person's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// How they log in.
    pub login: String,
    /// What they may do everywhere.
    pub role: Role,
    /// The OIDC issuer that they come from.
    pub issuer: Option<String>,
    /// Their groups, as of the last login.
    pub groups: Vec<String>,
    /// Whether their password is a temporary one.
    pub must_change_password: bool,
    /// Until when logins are refused after too many failures.
    pub locked_until: Option<DateTime<Utc>>,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An account with a password that was made for it: the only time that it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserWithPassword {
    /// The account.
    #[serde(flatten)]
    pub user: User,
    /// To be changed at the first login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporary_password: Option<String>,
}

/// Logs in.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Who.
    pub login: String,
    /// Their password.
    pub password: String,
    /// Whether the answer sets a cookie, for browsers; else it has the credential in its body.
    #[serde(default = "yes")]
    pub cookie: bool,
}

const fn yes() -> bool {
    true
}

/// Changes one's own password.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// What it is.
    pub current: String,
    /// What it becomes.
    pub new: String,
}

/// A session, as its owner gets it at the login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoggedIn {
    /// The account.
    pub user: User,
    /// The session.
    pub session: Session,
    /// What a browser sends as `X-CSRF-Token`.
    pub csrf_token: String,
    /// The credential, unless it is in a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
}

/// A session as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: Uuid,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends however much it is used.
    pub expires_at: DateTime<Utc>,
    /// When it was ended.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Where the login came from.
    pub address: Option<String>,
    /// The browser, by its own word.
    pub user_agent: Option<String>,
    /// Whether it is the one that asks.
    pub current: bool,
}

macro_rules! silent {
    ($($name:ident),*) => {
        $(
            // Not even a debug line shows a password.
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($name)).finish_non_exhaustive()
                }
            }
        )*
    };
}

silent!(NewUser, Login, PasswordChange);
