//! Trust policies: which tokens of other issuers are exchanged for ours.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::access::Scope;
use crate::Permissions;

/// Makes a trust policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTrustPolicy {
    /// 1 to 64 lower-case letters, digits and `-`.
    pub name: String,
    /// The `iss` of the tokens, word for word; its discovery document is below it.
    pub issuer: String,
    /// What must be among the `aud` of the tokens.
    pub audience: String,
    /// Claim → pattern, in which `*` stands for any characters. At least one; all must match.
    pub claims: BTreeMap<String, String>,
    /// What they may do.
    pub permissions: Permissions,
    /// Where. At least one.
    pub scopes: Vec<Scope>,
    /// How long our token lasts, at most.
    #[serde(default = "quarter_of_an_hour")]
    pub max_minutes: u32,
}

const fn quarter_of_an_hour() -> u32 {
    15
}

/// Changes a trust policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustPolicyChange {
    /// Whether nobody is let in by it any more, and all are out who were.
    pub disabled: bool,
}

/// A trust policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustPolicy {
    /// Its name.
    pub name: String,
    /// The `iss` of the tokens.
    pub issuer: String,
    /// What must be among their `aud`.
    pub audience: String,
    /// Claim → pattern.
    pub claims: BTreeMap<String, String>,
    /// How long our token lasts, at most.
    pub max_minutes: u32,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Whether a text matches a pattern in which `*` stands for any characters, also none.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut middle: Vec<&str> = parts.collect();
    let Some(last) = middle.pop() else { return rest.is_empty() };
    // The first place is as good as any: what follows has the most room there.
    let mut rest = rest;
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text) in [
            ("acme/shop", "acme/shop"),
            ("acme/*", "acme/shop"),
            ("acme/*", "acme/"),
            ("*", ""),
            ("refs/tags/v*.*", "refs/tags/v1.2.3"),
            ("a*b*a", "aba"),
            ("*/shop", "acme/shop"),
            ("a**b", "ab"),
            ("*ab", "abab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("acme/shop", "acme/shop2"),
            ("acme/shop", "evil/acme/shop"),
            ("acme/*", "acme"),
            ("acme/*", "acmeevil/shop"),
            ("a*a", "a"),
            ("*b*", "a"),
            ("", "x"),
            ("ab*ba", "aba"),
            ("A", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
