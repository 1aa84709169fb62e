//! The token endpoint: RFC 6749 and RFC 8693.

use serde::{Deserialize, Serialize};

/// RFC 8693: exchanges another issuer's token.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693: the kinds of tokens that are exchanged.
pub const SUBJECT_TOKEN_TYPES: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
/// RFC 8693: what is given for them.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What the token endpoint gives.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// What to send as `Authorization: Bearer …`.
    pub access_token: String,
    /// RFC 8693 wants it; only for exchanges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_token_type: Option<String>,
    /// `Bearer`
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    /// What it may do, separated by spaces.
    pub scope: String,
}

/// RFC 6749, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OauthCode {
    /// The request is malformed.
    InvalidRequest,
    /// The client is unknown, disabled, or its secret wrong or over.
    InvalidClient,
    /// The token that was to be exchanged is not good for it.
    InvalidGrant,
    /// The grant type is none of ours.
    UnsupportedGrantType,
    /// The scope is unknown, or more than the client has.
    InvalidScope,
    /// Not now; section 4.1.2.1, used here too.
    TemporarilyUnavailable,
}

/// What the token endpoint says instead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OauthError {
    /// For programs.
    pub error: OauthCode,
    /// For people.
    pub error_description: String,
}
