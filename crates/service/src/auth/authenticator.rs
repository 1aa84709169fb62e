//! From a request's headers to a caller.
//!
//! Garbage costs one hash. A well-formed credential costs one look-up or two, whose rows are read on every request,
//! so that a revocation holds at once; bcrypt runs at the first use of a secret only, and only so often at the same
//! time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, Method, header};
use kkartifact_model::api::user::Role;
use kkartifact_model::token::{CheckKey, TokenId, TokenText, same};
use kkartifact_model::{Code, Permission, Permissions};
use kkartifact_store::{
    AuditKey, BindingRow, PrincipalId, PrincipalRow, SessionRow, TokenRow, Tx, UserRow, kind,
};
use moka::sync::Cache;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use uuid::Uuid;

use super::caller::{Caller, Credential};
use super::grants::Grants;
use super::keys::{Claims, Keys, key_id};
use super::rate::Rates;
use super::sessions::{self, CsrfKey};
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::context::RequestContext;
use crate::resources::Resources;
use crate::secret;
use crate::vault::Vault;

/// How long a first use waits for its turn.
const WAIT: Duration = Duration::from_secs(5);
/// How often the use of a session is written down.
const SEEN: TimeDelta = TimeDelta::minutes(1);

/// Checks credentials.
pub struct Authenticator {
    check_key: CheckKey,
    csrf_key: CsrfKey,
    audit_key: AuditKey,
    keys: Keys,
    rates: Rates,
    /// Secrets that were found right: their digests by what they were stored as, never the secrets.
    checked: Cache<String, [u8; 32]>,
    checking: Semaphore,
    /// How many secrets have been compared with their bcrypt.
    compared: AtomicU64,
    /// bcrypt of something that nobody knows.
    nobodys: OnceCell<String>,
    bcrypt_cost: u32,
    idle: TimeDelta,
}

impl Authenticator {
    /// Remembers nothing yet.
    pub fn new(secret_key: &[u8], config: &Config) -> Self {
        Self {
            check_key: CheckKey::derive(secret_key),
            csrf_key: CsrfKey::derive(secret_key),
            audit_key: AuditKey::derive(secret_key),
            keys: Keys::new(Vault::derive(secret_key), AuditKey::derive(secret_key), config),
            rates: Rates::new(&config.rate),
            checked: Cache::new(config.auth.remembered),
            checking: Semaphore::new(config.auth.parallel_checks),
            compared: AtomicU64::new(0),
            nobodys: OnceCell::new(),
            bcrypt_cost: config.auth.bcrypt_cost,
            idle: TimeDelta::minutes(config.auth.session_idle_minutes.into()),
        }
    }

    /// The key that check parts of tokens and secrets are made under.
    pub fn check_key(&self) -> &CheckKey {
        &self.check_key
    }

    /// The key that audit rows are authenticated under.
    pub fn audit_key(&self) -> &AuditKey {
        &self.audit_key
    }

    /// What a session's pages send.
    pub fn csrf(&self) -> &CsrfKey {
        &self.csrf_key
    }

    /// Keys that sign tokens.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How often callers may call.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// How many secrets have been compared with their bcrypt: what an attacker could make expensive.
    pub fn secret_checks(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// The caller of a request.
    pub(crate) async fn authenticate(
        &self,
        resources: &Resources,
        method: &Method,
        headers: &HeaderMap,
        context: &RequestContext,
    ) -> ApiResult<Caller> {
        let caller = match bearer(headers) {
            Some(Ok(text)) if text.starts_with("kka_") => self.by_token(resources, text, context).await,
            Some(Ok(text)) => self.by_signed(resources, text, context).await,
            Some(Err(refusal)) => Err(refusal),
            None => match sessions::from_cookies(headers, &resources.config) {
                Some(text) => {
                    let caller = self.by_signed(resources, text, context).await;
                    caller.and_then(|caller| self.with_cookie(caller, method, headers))
                }
                // Nobody guesses: not counted.
                None => return Err(refused()),
            },
        };
        match caller {
            Ok(caller) => self.rates.request(caller.principal).map(|()| caller),
            Err(error) if error.code == Code::Unauthenticated => {
                self.rates.guess(context.ip())?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The caller, if it is a page of ours that sends the request: a browser sends cookies whoever made it send it.
    fn with_cookie(&self, caller: Caller, method: &Method, headers: &HeaderMap) -> ApiResult<Caller> {
        let session = caller.session().ok_or_else(refused)?;
        self.csrf_key.check(session, method, headers)?;
        Ok(Caller { csrf_token: Some(self.csrf_key.token(session)), ..caller })
    }

    async fn by_token(
        &self,
        resources: &Resources,
        text: &str,
        context: &RequestContext,
    ) -> ApiResult<Caller> {
        let token = TokenText::parse(text, &self.check_key).map_err(|_| refused())?;
        let mut tx = resources.db.read().await?;
        let (caller, hash) = self.token(&mut tx, token.id(), resources.clock.now(), context).await?;
        tx.commit().await?;
        if !self.is_right(token.secret(), &hash).await? {
            return Err(refused());
        }
        Ok(caller)
    }

    async fn by_signed(
        &self,
        resources: &Resources,
        text: &str,
        context: &RequestContext,
    ) -> ApiResult<Caller> {
        // Garbage is told before the database is asked anything.
        key_id(text).ok_or_else(refused)?;
        let now = resources.clock.now();
        let mut tx = resources.db.read().await?;
        let claims = self.keys.verify(&mut tx, text, now).await?.ok_or_else(refused)?;
        let Some(id) = claims.sid else {
            let caller = self.signed(&mut tx, claims, now, context).await?;
            tx.commit().await?;
            return Ok(caller);
        };
        let (caller, session, generation) = self.session(&mut tx, id, now, context).await?;
        tx.commit().await?;
        if (caller.principal.0, generation) != (claims.principal, claims.generation) {
            return Err(refused());
        }
        if now - session.last_seen_at >= SEEN.min(self.idle / 4) {
            let mut tx = resources.db.begin().await?;
            tx.session_seen(id, now).await?;
            tx.commit().await?;
        }
        Ok(caller)
    }

    /// The caller as they are now, by the rows of what they proved themselves with. For work that takes its time.
    pub async fn again(&self, tx: &mut Tx, caller: &Caller, now: DateTime<Utc>) -> ApiResult<Caller> {
        let context = RequestContext::of(caller);
        let fresh = match &caller.credential {
            Credential::Token(id) => self.token(tx, id, now, &context).await?.0,
            Credential::Session(id) => self.session(tx, *id, now, &context).await?.0,
            Credential::Signed(claims) => self.signed(tx, (**claims).clone(), now, &context).await?,
        };
        Ok(Caller { csrf_token: caller.csrf_token.clone(), address: caller.address.clone(), ..fresh })
    }

    async fn token(
        &self,
        tx: &mut Tx,
        id: &TokenId,
        now: DateTime<Utc>,
        context: &RequestContext,
    ) -> ApiResult<(Caller, String)> {
        let row = tx.find_token(id).await?.filter(|row| row.is_valid(now)).ok_or_else(refused)?;
        let own = Grants::new(tx.bindings(row.principal_id, &[]).await?);
        let grants = match row.owner_id {
            // Never more than who answers for it may now.
            Some(owner) => own.within(&grants_of(tx, owner).await?),
            None => own,
        };
        let TokenRow { principal_id, name, expires_at, owner_id, secret_hash, .. } = row;
        let caller = Caller {
            expires_at,
            owner: owner_id,
            ..self.caller(
                principal_id,
                kind::TOKEN,
                id.as_str(),
                name,
                Credential::Token(id.clone()),
                context,
            )
        };
        Ok((Caller { grants, ..caller }, secret_hash))
    }

    async fn session(
        &self,
        tx: &mut Tx,
        id: Uuid,
        now: DateTime<Utc>,
        context: &RequestContext,
    ) -> ApiResult<(Caller, SessionRow, i64)> {
        let session = tx.find_session(id).await?;
        let session = session.filter(|row| row.is_valid(now, self.idle)).ok_or_else(refused)?;
        let user = tx.user(session.principal_id).await?;
        let user = user.filter(|row| row.disabled_at.is_none()).ok_or_else(refused)?;
        let must_change = user.password_temporary_until.is_some();
        let grants = if must_change { Grants::default() } else { grants_of_user(tx, &user).await? };
        let (principal, login, generation) = (user.principal_id, user.login, user.generation);
        let caller =
            self.caller(principal, kind::USER, &login, login.clone(), Credential::Session(id), context);
        let caller = Caller { owner: Some(principal), must_change_password: must_change, grants, ..caller };
        Ok((caller, session, generation))
    }

    async fn signed(
        &self,
        tx: &mut Tx,
        claims: Claims,
        now: DateTime<Utc>,
        context: &RequestContext,
    ) -> ApiResult<Caller> {
        if now.timestamp() >= claims.exp {
            return Err(refused());
        }
        let row = tx.find_principal(PrincipalId(claims.principal)).await?;
        let good = |row: &PrincipalRow| row.disabled_at.is_none() && row.generation == claims.generation;
        let row = row.filter(good).ok_or_else(refused)?;
        let kind = match row.kind.as_str() {
            kind::SERVICE_ACCOUNT => kind::SERVICE_ACCOUNT,
            kind::WORKLOAD => kind::WORKLOAD,
            _ => return Err(refused()),
        };
        let mut grants = Grants::new(tx.bindings(row.id, &[]).await?);
        if let Some(scope) = &claims.scope {
            // A word that this release does not know grants nothing.
            let words = scope.split(' ').filter_map(|word| word.parse::<Permission>().ok());
            grants = grants.narrowed(words.collect());
        }
        let (id, name) = (claims.sub.clone(), claims.sub.clone());
        let caller = Caller {
            expires_at: DateTime::from_timestamp(claims.exp, 0),
            owner: Some(row.id),
            ..self.caller(row.id, kind, &id, name, Credential::Signed(Box::new(claims)), context)
        };
        Ok(Caller { grants, ..caller })
    }

    /// A caller who may do nothing.
    fn caller(
        &self,
        principal: PrincipalId,
        kind: &'static str,
        id: &str,
        name: String,
        credential: Credential,
        context: &RequestContext,
    ) -> Caller {
        Caller {
            principal,
            kind,
            id: id.to_owned(),
            name,
            expires_at: None,
            owner: None,
            credential,
            must_change_password: false,
            grants: Grants::default(),
            csrf_token: None,
            address: context.ip().map(|address| address.to_string()),
            request_id: context.id.clone(),
            trace: context.trace,
            audit_key: self.audit_key.clone(),
        }
    }

    /// Whether a password or one-time secret is right. Never remembered.
    pub async fn is_password(&self, password: &str, hash: &str) -> ApiResult<bool> {
        let _turn = self.turn().await?;
        self.compared.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("kkartifact_secret_checks_total").increment(1);
        secret::verify(password, hash).await
    }

    /// bcrypt of a new password or secret, within the same bounds as every check.
    pub async fn hash_secret(&self, password: &str) -> ApiResult<String> {
        let _turn = self.turn().await?;
        secret::hash(password, self.bcrypt_cost).await
    }

    /// What a password is compared with when there is no account: who logs in under a name that does not exist waits
    /// as long as others.
    pub async fn nobodys_hash(&self) -> ApiResult<&str> {
        let make = || async { self.hash_secret(&secret::new_secret()?).await };
        Ok(self.nobodys.get_or_try_init(make).await?)
    }

    /// Whether a secret that a program sends again and again is right: compared by bcrypt once.
    pub async fn is_right(&self, secret: &str, hash: &str) -> ApiResult<bool> {
        let digest = *blake3::hash(secret.as_bytes()).as_bytes();
        if self.checked.get(hash).is_some_and(|known| same(&known, &digest)) {
            return Ok(true);
        }
        if !self.is_password(secret, hash).await? {
            return Ok(false);
        }
        self.checked.insert(hash.to_owned(), digest);
        Ok(true)
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
}

/// What a principal may do where, now. Nothing while it is disabled.
async fn grants_of(tx: &mut Tx, id: PrincipalId) -> ApiResult<Grants> {
    let Some(row) = tx.find_principal(id).await?.filter(|row| row.disabled_at.is_none()) else {
        return Ok(Grants::default());
    };
    match tx.user(row.id).await? {
        Some(user) => grants_of_user(tx, &user).await,
        None => Ok(Grants::new(tx.bindings(row.id, &[]).await?)),
    }
}

async fn grants_of_user(tx: &mut Tx, user: &UserRow) -> ApiResult<Grants> {
    let mut bindings = tx.bindings(user.principal_id, &user.oidc_groups).await?;
    let everywhere = match user.role {
        Role::Admin => Permissions::ALL,
        Role::Readonly => [Permission::View, Permission::Pull].into_iter().collect(),
        Role::None => Permissions::default(),
    };
    bindings.push(BindingRow::global(everywhere));
    Ok(Grants::new(bindings))
}

/// What the header has, if it is there: a cookie beside one that can't be used does not count.
fn bearer(headers: &HeaderMap) -> Option<ApiResult<&str>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let pair = value.to_str().ok().and_then(|value| value.split_once(' '));
    let token =
        pair.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    Some(token.ok_or_else(refused))
}

/// One answer for every reason: nobody learns which ids exist.
fn refused() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "send a valid token as 'Authorization: Bearer …'; this one is missing, wrong, expired or revoked",
    )
    .as_refusal()
}
