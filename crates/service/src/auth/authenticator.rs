//! From the `Authorization` header to a caller.
//!
//! Garbage costs one hash. A well-formed token costs one look-up, whose row is read on every request, so that a
//! revocation holds at once; bcrypt runs at its first use only, and only so often at the same time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, header};
use kkartifact_model::Code;
use kkartifact_model::token::{CheckKey, TokenId, TokenText, same};
use kkartifact_store::{TokenRow, Tx};
use moka::sync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::caller::Caller;
use crate::config::Auth;
use crate::error::{ApiError, ApiResult};
use crate::http::context::RequestContext;
use crate::resources::Resources;
use crate::secret;

/// How long a first use waits for its turn.
const WAIT: Duration = Duration::from_secs(5);

/// Checks credentials.
pub struct Authenticator {
    key: CheckKey,
    /// Secrets that were found right: their digests, never the secrets.
    checked: Cache<TokenId, [u8; 32]>,
    checking: Semaphore,
    /// How many secrets have been compared with their bcrypt.
    compared: AtomicU64,
}

impl Authenticator {
    /// Remembers nothing yet.
    pub fn new(key: CheckKey, config: &Auth) -> Self {
        Self {
            key,
            checked: Cache::new(config.remembered),
            checking: Semaphore::new(config.parallel_checks),
            compared: AtomicU64::new(0),
        }
    }

    /// The key that tokens' check parts are made under.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    /// How many secrets have been compared with their bcrypt: what an attacker could make expensive.
    pub fn secret_checks(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// The caller of a request.
    pub(crate) async fn authenticate(
        &self,
        resources: &Resources,
        headers: &HeaderMap,
        context: &RequestContext,
    ) -> ApiResult<Caller> {
        let token =
            bearer(headers).and_then(|text| TokenText::parse(text, &self.key).ok()).ok_or_else(refused)?;
        let mut tx = resources.db.read().await?;
        let row = tx.find_token(token.id()).await?.ok_or_else(refused)?;
        if !row.is_valid(resources.clock.now()) {
            return Err(refused());
        }
        let caller = self.caller(&mut tx, &row, context).await?;
        tx.commit().await?;
        self.check_secret(&token, &row.secret_hash).await?;
        Ok(caller)
    }

    async fn caller(&self, tx: &mut Tx, row: &TokenRow, context: &RequestContext) -> ApiResult<Caller> {
        let bindings = tx.bindings(row.principal_id).await?;
        Ok(Caller {
            principal: row.principal_id,
            kind: "token",
            id: row.token_id.clone(),
            name: row.name.clone(),
            expires_at: row.expires_at,
            bindings: bindings.into(),
            address: context.address.map(|address| address.ip().to_string()),
            request_id: context.id.clone(),
        })
    }

    /// Whether a secret that is used once is right, within the same bounds as every other check.
    pub(crate) async fn check_one_time_secret(&self, secret: &str, hash: &str) -> ApiResult<bool> {
        let _turn = self.turn().await?;
        secret::verify(secret, hash).await
    }

    /// Waits until another credential may be checked.
    async fn turn(&self) -> ApiResult<SemaphorePermit<'_>> {
        tokio::time::timeout(WAIT, self.checking.acquire())
            .await
            .map_err(|_| {
                ApiError::new(Code::TooManyRequests, "too many credentials are being checked; try again")
            })?
            .map_err(ApiError::internal)
    }

    async fn check_secret(&self, token: &TokenText, hash: &str) -> ApiResult<()> {
        let digest = *blake3::hash(token.secret().as_bytes()).as_bytes();
        if self.checked.get(token.id()).is_some_and(|known| same(&known, &digest)) {
            return Ok(());
        }
        let _turn = self.turn().await?;
        self.compared.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("kkartifact_secret_checks_total").increment(1);
        if !secret::verify(token.secret(), hash).await? {
            return Err(refused());
        }
        self.checked.insert(token.id().clone(), digest);
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// One answer for every reason: nobody learns which ids exist.
fn refused() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "send a valid token as 'Authorization: Bearer …'; this one is missing, wrong, expired or revoked",
    )
}
