//! Tokens of other issuers: their discovery documents, their keys, and what makes a token theirs.
//!
//! `OpenID` Connect Discovery 1.0, RFC 7517 and RFC 8725. Everything is fetched through the address guard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outbound::{Outbound, OutboundError, json};

/// How far an issuer's clock may be from ours.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);
/// How long what an issuer says of itself and its keys is believed.
const FRESH: Duration = Duration::from_hours(1);
/// How long it takes until an unknown key lets the keys be fetched again.
const PAUSE: TimeDelta = TimeDelta::minutes(1);
/// The most bytes of a discovery document or a set of keys.
const MOST: usize = 256 << 10;
/// How many issuers are remembered.
const ISSUERS: u64 = 100;
/// What signs. Nothing symmetric: a public key is no secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// The issuer can't be asked.
    #[error(transparent)]
    Unreachable(#[from] OutboundError),
    /// The token is its issuer's and yet not good, and why.
    #[error("{0}")]
    Refused(&'static str),
    /// Nothing shows that the token is its issuer's. Who sent it is to learn no more than that.
    #[error("{0}")]
    Unproven(&'static str),
}

/// What an issuer says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Discovery {
    issuer: String,
    jwks_uri: String,
    /// Where people are sent.
    #[serde(default)]
    pub authorization_endpoint: String,
    /// Where codes are exchanged.
    #[serde(default)]
    pub token_endpoint: String,
}

#[derive(Debug, Clone)]
struct Issuer {
    discovery: Arc<Discovery>,
    keys: Arc<JwkSet>,
}

/// The claims of a token that is its issuer's, for us, and of now.
pub type ForeignClaims = BTreeMap<String, Value>;

/// Issuers, and what they have said.
pub struct Providers {
    outbound: Outbound,
    known: Cache<String, Issuer>,
    /// When the keys of an issuer were last fetched out of turn.
    asked_again: moka::sync::Cache<String, DateTime<Utc>>,
}

impl Providers {
    /// Knows nobody yet.
    pub fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            known: Cache::builder().max_capacity(ISSUERS).time_to_live(FRESH).build(),
            asked_again: moka::sync::Cache::new(ISSUERS),
        }
    }

    /// Makes guarded requests.
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// What an issuer says of itself.
    pub async fn discover(&self, issuer: &str) -> Result<Arc<Discovery>, ForeignError> {
        Ok(self.issuer(issuer).await?.discovery)
    }

    async fn issuer(&self, issuer: &str) -> Result<Issuer, ForeignError> {
        // Of many that ask at once, one fetches.
        let fetched = self.known.try_get_with_by_ref(issuer, self.fetch(issuer)).await;
        fetched.map_err(|error: Arc<ForeignError>| (*error).clone())
    }

    async fn fetch(&self, issuer: &str) -> Result<Issuer, ForeignError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = json(self.outbound.get(&url)?, MOST).await?;
        let discovery: Discovery = serde_json::from_value(document)
            .map_err(|_| ForeignError::Refused("the issuer's discovery document lacks what it must have"))?;
        // Section 4.3: else one issuer could speak for another.
        if discovery.issuer != issuer {
            return Err(ForeignError::Refused("the issuer's discovery document is of another issuer"));
        }
        let keys = json(self.outbound.get(&discovery.jwks_uri)?, MOST).await?;
        let keys: JwkSet = serde_json::from_value(keys)
            .map_err(|_| ForeignError::Refused("the issuer's keys can't be read"))?;
        Ok(Issuer { discovery: Arc::new(discovery), keys: Arc::new(keys) })
    }

    /// The key that a token names, fetched anew if it is not known: issuers change their keys. Made-up key ids must
    /// not make the issuer suffer, so that happens once in a while only.
    async fn key(&self, issuer: &str, id: Option<&str>, now: DateTime<Utc>) -> Result<Jwk, ForeignError> {
        if let Some(key) = find(&self.issuer(issuer).await?.keys, id) {
            return Ok(key);
        }
        if self.asked_again.get(issuer).is_none_or(|last| now - last >= PAUSE) {
            self.asked_again.insert(issuer.to_owned(), now);
            // What is known stays until there is something better.
            let fresh = self.fetch(issuer).await?;
            self.known.insert(issuer.to_owned(), fresh).await;
        }
        let unknown = ForeignError::Unproven("the token is signed by a key that its issuer does not list");
        find(&self.issuer(issuer).await?.keys, id).ok_or(unknown)
    }

    /// The claims of a token, if its issuer signed it for `audience` and its time is now.
    pub async fn verify(
        &self,
        token: &str,
        issuer: &str,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<ForeignClaims, ForeignError> {
        let malformed = ForeignError::Unproven("the token can't be read");
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(ForeignError::Unproven("the token's algorithm is not one that is accepted"));
        }
        let jwk = self.key(issuer, header.kid.as_deref(), now).await?;
        let key = DecodingKey::from_jwk(&jwk)
            .map_err(|_| ForeignError::Unproven("the issuer's key is of a kind that is not accepted"))?;
        // The library refuses an algorithm that does not go with the key's family.
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = jsonwebtoken::decode::<ForeignClaims>(token, &key, &validation)
            .map_err(|_| ForeignError::Unproven("signature, issuer or audience of the token is wrong"))?
            .claims;
        check_times(&claims, now)?;
        Ok(claims)
    }
}

fn check_times(claims: &ForeignClaims, now: DateTime<Utc>) -> Result<(), ForeignError> {
    // RFC 7519: a number, perhaps with a fraction.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a time beyond 64 bits is saturated, and refused or over"
    )]
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_f64()
            .map(|seconds| Some(seconds as i64))
            .ok_or(ForeignError::Refused("a time in the token is not a number")),
    };
    let end = time("exp")?.ok_or(ForeignError::Refused("the token does not say when it ends"))?;
    if (now - LEEWAY).timestamp() >= end {
        return Err(ForeignError::Refused("the token has expired"));
    }
    let late = (now + LEEWAY).timestamp();
    if time("nbf")?.is_some_and(|begin| late < begin) || time("iat")?.is_some_and(|made| late < made) {
        return Err(ForeignError::Refused("the token is not valid yet"));
    }
    Ok(())
}

/// The key of this id; without one, the only key there is.
fn find(keys: &JwkSet, id: Option<&str>) -> Option<Jwk> {
    match (id, keys.keys.as_slice()) {
        (Some(id), _) => keys.find(id).cloned(),
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    }
}

/// The issuer that a token names. Nothing is verified yet: it only says whom to ask.
pub fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize, Serialize)]
    struct Issued {
        iss: String,
    }
    let claims: Issued = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(claims.iss)
}
