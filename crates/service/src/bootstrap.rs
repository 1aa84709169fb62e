//! The way in at the first start: a secret that is made once, shown once and spent once.

use kkartifact_model::api::access::Bootstrap;
use kkartifact_model::api::token::CreatedToken;
use kkartifact_model::api::user::{Role, User};
use kkartifact_model::token::TokenText;
use kkartifact_model::{Code, Permissions};
use kkartifact_store::{Actor, NewAudit, NewTokenRow, NewUserRow, Outcome, PrincipalId, Tx, kind};

use crate::error::{ApiError, ApiResult};
use crate::http::context::RequestContext;
use crate::resources::Resources;
use crate::{password, secret};

const SETTING: &str = "bootstrap_secret";
const DONE: &str = "bootstrap_done";
const FIRST_TOKEN: &str = "first-admin";

/// A new one-time secret, unless one has been spent. An earlier one that was not spent stops working: whoever
/// starts the server gets a secret that they can read.
pub async fn prepare(resources: &Resources) -> ApiResult<Option<String>> {
    let (secret, value) = new(resources).await?;
    let mut tx = resources.db.begin().await?;
    if tx.setting(DONE).await?.is_some() {
        return Ok(None);
    }
    tx.put_setting(SETTING, &value, resources.clock.now()).await?;
    tx.commit().await?;
    Ok(Some(secret))
}

/// A new one-time secret though one was spent: for whoever lost the last way in.
pub async fn again(resources: &Resources) -> ApiResult<String> {
    let (secret, value) = new(resources).await?;
    let mut tx = resources.db.begin().await?;
    tx.take_setting(DONE).await?;
    tx.put_setting(SETTING, &value, resources.clock.now()).await?;
    let row = NewAudit { action: "bootstrap.secret", ..NewAudit::default() };
    let actor = Actor::system("command line", resources.auth.audit_key());
    tx.audit(&actor, Outcome::Done, &row, resources.clock.now()).await?;
    tx.commit().await?;
    Ok(secret)
}

/// A secret, and what is kept of it. Before a transaction: others would wait for the hash.
async fn new(resources: &Resources) -> ApiResult<(String, serde_json::Value)> {
    let secret = secret::new_secret()?;
    let hash = secret::hash(&secret, resources.config.auth.bcrypt_cost).await?;
    Ok((secret, serde_json::json!({ "hash": hash })))
}

/// What the secret was spent for.
pub struct Spent {
    /// The first token.
    pub token: Option<CreatedToken>,
    /// The first person.
    pub user: Option<User>,
}

/// Spends the secret for a token, a person, or both, that may do everything.
pub async fn spend(resources: &Resources, wish: &Bootstrap, context: &RequestContext) -> ApiResult<Spent> {
    let wrong =
        || ApiError::new(Code::Unauthenticated, "this is not the one-time secret that the server printed");
    let login = match (&wish.login, &wish.password) {
        (Some(login), Some(password)) => {
            password::check_login(login)?;
            password::check(password, login)?;
            Some((login, password))
        }
        (None, None) => None,
        _ => return Err(ApiError::invalid("login and password go together")),
    };
    resources.auth.rates().guess(context.ip())?;
    let mut tx = resources.db.read().await?;
    if tx.setting(DONE).await?.is_some() {
        return Err(ApiError::new(
            Code::BootstrapDone,
            "the one-time secret has been used; 'kkartifact admin bootstrap' makes a new one",
        ));
    }
    let stored = tx.setting(SETTING).await?.ok_or_else(wrong)?;
    tx.commit().await?;
    let hash = stored.get("hash").and_then(|hash| hash.as_str()).ok_or_else(wrong)?;
    if !resources.auth.is_password(&wish.secret, hash).await? {
        return Err(wrong().as_refusal());
    }

    let cost = resources.config.auth.bcrypt_cost;
    let now = resources.clock.now();
    let token = secret::new_token()?;
    let token_hash = secret::hash(token.secret(), cost).await?;
    let password_hash = match login {
        Some((_, password)) => Some(secret::hash(password, cost).await?),
        None => None,
    };
    let mut tx = resources.db.begin().await?;
    // Of two that spend it at once, one does; and only the one that was compared.
    if tx.setting(SETTING).await?.as_ref() != Some(&stored) || !tx.take_setting(SETTING).await? {
        return Err(wrong());
    }
    tx.put_setting(DONE, &serde_json::json!(true), now).await?;
    let user = match login {
        Some((login, _)) => {
            let row = NewUserRow {
                login,
                role: Role::Admin,
                password_hash: password_hash.as_deref(),
                temporary_until: None,
                oidc: None,
            };
            Some(tx.insert_user(&row, now).await?)
        }
        None => None,
    };
    let name = wish.token_name.as_deref().or_else(|| login.is_none().then_some(FIRST_TOKEN));
    let made = match name {
        Some(name) => Some(insert_token(&mut tx, name, &token, &token_hash, user, now).await?),
        None => None,
    };
    let who = login.map(|(login, _)| login.as_str()).or(name).unwrap_or_default();
    let actor = Actor {
        id: user.or(made),
        kind: if user.is_some() { kind::USER } else { kind::TOKEN }.into(),
        name: who.to_owned(),
        address: context.ip().map(|address| address.to_string()),
        request_id: Some(context.id.clone()),
        trace_parent: Some(context.trace.to_string()),
        key: resources.auth.audit_key().clone(),
    };
    let row = NewAudit {
        action: "bootstrap",
        detail: serde_json::json!({
            "token": made.map(|_| token.id().as_str()), "login": login.map(|(login, _)| login),
        }),
        ..NewAudit::default()
    };
    tx.audit(&actor, Outcome::Done, &row, now).await?;
    let token = match made {
        Some(_) => {
            let row = tx.find_token(token.id()).await?;
            let row = row.ok_or_else(|| ApiError::internal("the token vanished"))?;
            let info = tx.token_info(row).await?;
            Some(CreatedToken { token: token.reveal(resources.auth.check_key()), info })
        }
        None => None,
    };
    let user = match user {
        Some(id) => tx.user(id).await?.map(User::from),
        None => None,
    };
    tx.commit().await?;
    Ok(Spent { token, user })
}

async fn insert_token(
    tx: &mut Tx,
    name: &str,
    token: &TokenText,
    hash: &str,
    owner: Option<PrincipalId>,
    now: chrono::DateTime<chrono::Utc>,
) -> ApiResult<PrincipalId> {
    let row = NewTokenRow {
        name,
        token_id: token.id(),
        secret_hash: hash,
        owner,
        made_by: None,
        personal: false,
        expires_at: None,
        permissions: Permissions::ALL,
        scopes: &[(None, None)],
    };
    Ok(tx.insert_token(&row, now).await?)
}
