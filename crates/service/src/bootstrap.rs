//! The way in at the first start: a secret that is made once, shown once and spent once.

use kkartifact_model::token::TokenText;
use kkartifact_model::{Code, Permissions};
use kkartifact_store::{Actor, NewAudit, NewTokenRow, Outcome};

use crate::error::{ApiError, ApiResult};
use crate::resources::Resources;
use crate::secret;

const SETTING: &str = "bootstrap_secret";
const DONE: &str = "bootstrap_done";

/// A new one-time secret, unless one has been spent. An earlier one that was not spent stops working: whoever
/// starts the server gets a secret that they can read.
pub async fn prepare(resources: &Resources) -> ApiResult<Option<String>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    if tx.setting(DONE).await?.is_some() {
        return Ok(None);
    }
    let secret = secret::new_secret()?;
    let hash = secret::hash(&secret, resources.config.auth.bcrypt_cost).await?;
    tx.put_setting(SETTING, &serde_json::json!({ "hash": hash }), now).await?;
    tx.commit().await?;
    Ok(Some(secret))
}

/// Forgets that the secret was spent, so that the next start makes a new one: for whoever lost the first token.
pub async fn reset(resources: &Resources) -> ApiResult<()> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.take_setting(DONE).await?;
    let row = NewAudit { action: "bootstrap.reset", ..NewAudit::default() };
    tx.audit(&Actor::system("command line"), Outcome::Done, &row, now).await?;
    Ok(tx.commit().await?)
}

/// Spends the secret for a token that may do everything.
pub async fn spend(
    resources: &Resources,
    secret: &str,
    name: &str,
    address: Option<String>,
    request_id: String,
) -> ApiResult<TokenText> {
    let wrong =
        || ApiError::new(Code::Unauthenticated, "this is not the one-time secret that the server printed");
    let mut tx = resources.db.read().await?;
    if tx.setting(DONE).await?.is_some() {
        return Err(ApiError::new(
            Code::BootstrapDone,
            "the one-time secret has been used; 'kkartifact admin reset-bootstrap' makes a new one",
        ));
    }
    let stored = tx.setting(SETTING).await?.ok_or_else(wrong)?;
    tx.commit().await?;
    let hash = stored.get("hash").and_then(|hash| hash.as_str()).ok_or_else(wrong)?;
    resources.auth.check_one_time_secret(secret, hash).await?.then_some(()).ok_or_else(wrong)?;

    let now = resources.clock.now();
    let token = secret::new_token()?;
    let token_hash = secret::hash(token.secret(), resources.config.auth.bcrypt_cost).await?;
    let mut tx = resources.db.begin().await?;
    // Of two that spend it at once, one does.
    if !tx.take_setting(SETTING).await? {
        return Err(wrong());
    }
    tx.put_setting(DONE, &serde_json::json!(true), now).await?;
    let row = NewTokenRow {
        name,
        token_id: token.id(),
        secret_hash: &token_hash,
        owner: None,
        expires_at: None,
        permissions: Permissions::ALL,
        scopes: &[(None, None)],
    };
    let id = tx.insert_token(&row, now).await?;
    let actor = Actor {
        id: Some(id),
        kind: "token".into(),
        name: name.to_owned(),
        address,
        request_id: Some(request_id),
    };
    let row = NewAudit {
        action: "bootstrap",
        detail: serde_json::json!({ "token": token.id().as_str() }),
        ..NewAudit::default()
    };
    tx.audit(&actor, Outcome::Done, &row, now).await?;
    tx.commit().await?;
    Ok(token)
}
