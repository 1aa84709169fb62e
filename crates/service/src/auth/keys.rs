//! Keys that sign tokens, and the tokens: RS256, short, and void without the row that they name.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKey};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use kkartifact_model::api::key::{Jwk, Jwks};
use kkartifact_model::token::readable;
use kkartifact_store::{Actor, AuditKey, Database, NewAudit, Outcome, SigningKeyRow, Tx};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::secret;
use crate::vault::Vault;

/// What a token says. It is worth what the row says that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed.
    pub iss: String,
    /// For whom: this system.
    pub aud: String,
    /// Who it is of, as people read it.
    pub sub: String,
    /// When it ends, in seconds of Unix time.
    pub exp: i64,
    /// When it begins.
    pub nbf: i64,
    /// When it was made.
    pub iat: i64,
    /// Names this token.
    pub jti: Uuid,
    /// The principal's row.
    #[serde(rename = "kka_principal")]
    pub principal: i64,
    /// The principal's generation.
    #[serde(rename = "kka_generation")]
    pub generation: i64,
    /// The session's row, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Uuid>,
    /// What it is narrowed to, separated by spaces; everything that the principal may, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// What tokens of this system are for.
const AUDIENCE: &str = "kkartifact";
/// How far clocks of different machines may be apart.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);
/// How many keys are kept parsed: far more than ever verify at the same time.
const PARSED: u64 = 64;

/// Signs and verifies. The keys are in the database, so that every process has the same.
pub struct Keys {
    vault: Vault,
    audit_key: AuditKey,
    issuer: String,
    /// How long a key verifies after the next one signs: longer than anything that it signed.
    overlap: TimeDelta,
    max_age: TimeDelta,
    verifiers: Cache<String, DecodingKey>,
    signers: Cache<String, EncodingKey>,
}

impl Keys {
    /// Knows no key yet.
    pub fn new(vault: Vault, audit_key: AuditKey, config: &Config) -> Self {
        let session = TimeDelta::hours(config.auth.session_hours.into());
        let access = TimeDelta::minutes(config.auth.access_token_minutes.into());
        Self {
            vault,
            audit_key,
            issuer: config.issuer().to_owned(),
            overlap: session.max(access) + TimeDelta::minutes(5),
            max_age: TimeDelta::days(config.auth.key_days.into()),
            verifiers: Cache::new(PARSED),
            signers: Cache::new(PARSED),
        }
    }

    /// When a key that was made then is replaced.
    pub fn next_rotation(&self, made: DateTime<Utc>) -> DateTime<Utc> {
        made + self.max_age
    }

    /// Claims for a principal that begin now and end then.
    pub fn claims(&self, of: (i64, i64), name: &str, now: DateTime<Utc>, end: DateTime<Utc>) -> Claims {
        Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: name.to_owned(),
            exp: end.timestamp(),
            nbf: now.timestamp(),
            iat: now.timestamp(),
            jti: Uuid::new_v4(),
            principal: of.0,
            generation: of.1,
            sid: None,
            scope: None,
        }
    }

    /// Signs with the current key; makes the first one if there is none.
    pub async fn sign(&self, db: &Database, claims: &Claims, now: DateTime<Utc>) -> ApiResult<String> {
        let mut tx = db.read().await?;
        let current = self.current(&mut tx, now).await?;
        tx.commit().await?;
        let row = if let Some(row) = current {
            row
        } else {
            let actor = Actor::system("first use", &self.audit_key);
            self.rotate_if(db, &actor, now, |current| current.is_none()).await?
        };
        let key = if let Some(key) = self.signers.get(&row.id) {
            key
        } else {
            let key = self.signer(&row)?;
            self.signers.insert(row.id.clone(), key.clone());
            key
        };
        let header = Header { kid: Some(row.id), ..Header::new(Algorithm::RS256) };
        let claims = claims.clone();
        // Close to a millisecond.
        let signed = tokio::task::spawn_blocking(move || jsonwebtoken::encode(&header, &claims, &key)).await;
        signed.map_err(ApiError::internal)?.map_err(ApiError::internal)
    }

    /// Verifies a token; `None` whatever is wrong with it. Its rows are still to be read.
    pub async fn verify(&self, tx: &mut Tx, token: &str, now: DateTime<Utc>) -> ApiResult<Option<Claims>> {
        let Some(id) = key_id(token) else { return Ok(None) };
        // Also when it is known: a key that was ended verifies nothing from that moment.
        let Some(row) = tx.find_signing_key(&id, now).await? else { return Ok(None) };
        let key = if let Some(key) = self.verifiers.get(&id) {
            key
        } else {
            // Who can write to the database can't make a key: its private part would not open.
            if self.private_key(&row).is_err() {
                return Ok(None);
            }
            let key = DecodingKey::from_rsa_der(&row.public_key);
            self.verifiers.insert(id, key.clone());
            key
        };
        Ok(self.decode(token, &key, now))
    }

    /// Signature, issuer, audience and times.
    fn decode(&self, token: &str, key: &DecodingKey, now: DateTime<Utc>) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // By our clock, below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).ok()?.claims;
        let begun = claims.nbf <= (now + LEEWAY).timestamp();
        (begun && now.timestamp() < claims.exp).then_some(claims)
    }

    /// Makes a new key that signs from now on.
    pub async fn rotate(&self, db: &Database, actor: &Actor, now: DateTime<Utc>) -> ApiResult<SigningKeyRow> {
        self.rotate_if(db, actor, now, |_| true).await
    }

    /// Makes a new key if the current one is old enough; whether it did.
    pub async fn rotate_if_old(&self, db: &Database, now: DateTime<Utc>) -> ApiResult<bool> {
        let old = |row: &SigningKeyRow| self.next_rotation(row.created_at) <= now;
        let actor = Actor::system("key rotation", &self.audit_key);
        let mut tx = db.read().await?;
        let due = self.current(&mut tx, now).await?.as_ref().is_some_and(old);
        tx.commit().await?;
        if due {
            self.rotate_if(db, &actor, now, |current| current.is_none_or(old)).await?;
        }
        Ok(due)
    }

    async fn rotate_if(
        &self,
        db: &Database,
        actor: &Actor,
        now: DateTime<Utc>,
        wanted: impl Fn(Option<&SigningKeyRow>) -> bool,
    ) -> ApiResult<SigningKeyRow> {
        let new = self.generate(now).await?;
        let mut tx = db.begin().await?;
        // Of many that want one at once, one makes it.
        tx.lock_signing_keys().await?;
        if let Some(row) = self.current(&mut tx, now).await?.filter(|row| !wanted(Some(row))) {
            return Ok(row);
        }
        tx.insert_signing_key(&new, now + self.overlap).await?;
        let detail = serde_json::json!({ "key": new.id });
        let row = NewAudit { action: "key.rotate", detail, ..NewAudit::default() };
        tx.audit(actor, Outcome::Done, &row, now).await?;
        tx.commit().await?;
        Ok(new)
    }

    async fn generate(&self, now: DateTime<Utc>) -> ApiResult<SigningKeyRow> {
        let made = tokio::task::spawn_blocking(|| KeyPair::generate(KeySize::Rsa2048)).await;
        let pair = made.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        let id = readable(secret::random::<10>()?);
        let private = AsDer::<Pkcs8V1Der<'static>>::as_der(&pair).map_err(ApiError::internal)?;
        let public_key = pair.public_key().as_ref().to_vec();
        Ok(SigningKeyRow {
            private_key: self.vault.seal(&purpose(&id, &public_key), private.as_ref())?,
            public_key,
            created_at: now,
            verifies_until: None,
            id,
        })
    }

    /// The keys that verify, the one that signs first. What others have put into the table is none.
    pub async fn all(&self, tx: &mut Tx, now: DateTime<Utc>) -> ApiResult<Vec<SigningKeyRow>> {
        let rows = tx.signing_keys(now).await?;
        Ok(rows.into_iter().filter(|row| self.private_key(row).is_ok()).collect())
    }

    async fn current(&self, tx: &mut Tx, now: DateTime<Utc>) -> ApiResult<Option<SigningKeyRow>> {
        let keys = self.all(tx, now).await?;
        Ok(keys.into_iter().next().filter(|row| row.verifies_until.is_none()))
    }

    fn private_key(&self, row: &SigningKeyRow) -> ApiResult<Vec<u8>> {
        self.vault.open(&purpose(&row.id, &row.public_key), &row.private_key).ok_or_else(|| {
            ApiError::internal(format!("signing key {} was not made under this secret key", row.id))
        })
    }

    fn signer(&self, row: &SigningKeyRow) -> ApiResult<EncodingKey> {
        let der = self.private_key(row)?;
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
        EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(ApiError::internal)
    }
}

fn purpose(id: &str, public_key: &[u8]) -> String {
    format!("signing key {id} {}", blake3::hash(public_key).to_hex())
}

/// The key that a token says it is signed by, if it could be one of ours. Costs no look-up.
pub fn key_id(token: &str) -> Option<String> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let sound = |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    // What the token says of its algorithm decides nothing: there is one.
    header.kid.filter(|id| header.alg == Algorithm::RS256 && sound(id))
}

/// The public keys, as RFC 7517 wants them.
pub fn jwks(rows: &[SigningKeyRow]) -> ApiResult<Jwks> {
    let keys = rows.iter().map(|row| {
        let key = PublicKey::from_der(&row.public_key).map_err(ApiError::internal)?;
        Ok(Jwk {
            kty: "RSA".into(),
            usage: "sig".into(),
            alg: "RS256".into(),
            kid: row.id.clone(),
            n: URL_SAFE_NO_PAD.encode(key.modulus().big_endian_without_leading_zero()),
            e: URL_SAFE_NO_PAD.encode(key.exponent().big_endian_without_leading_zero()),
        })
    });
    keys.collect::<ApiResult<_>>().map(|keys| Jwks { keys })
}
