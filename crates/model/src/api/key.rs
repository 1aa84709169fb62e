//! Signing keys.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The `kid` of what it signs.
    pub id: String,
    /// Whether it signs now.
    pub signs: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when what it signed is accepted; open while it signs.
    pub verifies_until: Option<DateTime<Utc>>,
}

/// All keys that verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Newest first.
    pub keys: Vec<Key>,
    /// When a new one is made by itself.
    pub next_rotation: DateTime<Utc>,
}

/// RFC 7517: a set of public keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Jwks {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// RFC 7517: an RSA public key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Jwk {
    /// `RSA`
    pub kty: String,
    /// `sig`
    #[serde(rename = "use")]
    pub usage: String,
    /// `RS256`
    pub alg: String,
    /// Its id.
    pub kid: String,
    /// The modulus, base64url.
    pub n: String,
    /// The exponent, base64url.
    pub e: String,
}
