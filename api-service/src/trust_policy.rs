//! Trust policies: which tokens of other issuers are exchanged for ours.

use axum::extract::State;
use http::StatusCode;
use kkartifact_model::api::page::Page;
use kkartifact_model::api::trust_policy::{NewTrustPolicy, TrustPolicy, TrustPolicyChange};
use kkartifact_model::{Code, Permission};
use kkartifact_service::http::extract::{Json, Paging, PolicyName};
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{
    BindingSubject, NewAudit, NewTrustPolicyRow, Outcome, StoreError, TrustPolicyRow, Tx,
};
use serde_json::json;

use super::scope::resolve;
use super::service_account::check_name;
use super::user::still_admin;

const MAX_CLAIMS: usize = 20;
const MAX_SCOPES: usize = 100;
/// The most bytes of a claim's name or pattern.
const MAX_TEXT: usize = 500;

pub(crate) async fn list(
    State(resources): State<Resources>,
    Paging(page): Paging,
) -> ApiResult<Json<Page<TrustPolicy>>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(tx.list_trust_policies(page).await?))
}

pub(crate) async fn get(
    State(resources): State<Resources>,
    PolicyName(name): PolicyName,
) -> ApiResult<Json<TrustPolicy>> {
    let mut tx = resources.db.read().await?;
    Ok(Json(find(&mut tx, &name).await?.into()))
}

/// The trust policy of this name.
pub(crate) async fn find(tx: &mut Tx, name: &str) -> ApiResult<TrustPolicyRow> {
    let hidden = || ApiError::not_found(&format!("trust policy {name}"));
    tx.find_trust_policy(name).await?.ok_or_else(hidden)
}

fn check(resources: &Resources, new: &NewTrustPolicy) -> ApiResult<()> {
    check_name(&new.name, 64)?;
    let outbound = resources.providers.outbound();
    outbound.check(&new.issuer).map_err(|error| ApiError::invalid(format!("issuer: {error}")))?;
    if new.audience.is_empty() || new.audience.len() > MAX_TEXT {
        return Err(ApiError::invalid(format!("audience has 1 to {MAX_TEXT} bytes")));
    }
    // Without one, everybody whom the issuer knows would be let in.
    if !(1..=MAX_CLAIMS).contains(&new.claims.len()) {
        return Err(ApiError::invalid(format!("claims must name 1 to {MAX_CLAIMS} claims")));
    }
    for (claim, pattern) in &new.claims {
        let sound = |text: &str| (1..=MAX_TEXT).contains(&text.len());
        if !sound(claim) || !sound(pattern) || pattern.bytes().all(|b| b == b'*') {
            return Err(ApiError::invalid(format!(
                "claims: {claim:?} must have a pattern that says something"
            )));
        }
    }
    if new.permissions.is_empty() || !(1..=MAX_SCOPES).contains(&new.scopes.len()) {
        return Err(ApiError::invalid("permissions and scopes must have at least one item each"));
    }
    if !(1..=1440).contains(&new.max_minutes) {
        return Err(ApiError::invalid(format!("max_minutes is {}; it must be 1 to 1440", new.max_minutes)));
    }
    Ok(())
}

pub(crate) async fn create(
    State(resources): State<Resources>,
    caller: Caller,
    Json(new): Json<NewTrustPolicy>,
) -> ApiResult<(StatusCode, Json<TrustPolicy>)> {
    check(&resources, &new)?;
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let mut scopes = Vec::with_capacity(new.scopes.len());
    for scope in &new.scopes {
        scopes.push(resolve(&mut tx, &caller, Permission::Admin, scope).await?);
    }
    let row = NewTrustPolicyRow {
        name: &new.name,
        issuer: &new.issuer,
        audience: &new.audience,
        claims: &new.claims,
        max_minutes: new.max_minutes,
    };
    let id = tx.insert_trust_policy(&row, now).await.map_err(|error| match error {
        StoreError::Conflict => {
            ApiError::new(Code::AlreadyExists, format!("trust policy {} exists", new.name))
        }
        other => other.into(),
    })?;
    for (project, app) in scopes {
        tx.insert_binding(BindingSubject::Principal(id), new.permissions, project, app, now).await?;
    }
    let detail = json!({
        "name": new.name, "issuer": new.issuer, "claims": new.claims, "permissions": new.permissions,
        "scopes": new.scopes,
    });
    let audit = NewAudit { action: "trust_policy.create", detail, ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    let policy = find(&mut tx, &new.name).await?.into();
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(policy)))
}

pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    PolicyName(name): PolicyName,
    Json(change): Json<TrustPolicyChange>,
) -> ApiResult<Json<TrustPolicy>> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    let caller = still_admin(&resources, &mut tx, &caller).await?;
    let row = find(&mut tx, &name).await?;
    tx.set_disabled(row.principal_id, change.disabled, now).await?;
    let detail = json!({ "name": name, "disabled": change.disabled });
    let audit = NewAudit { action: "trust_policy.update", detail, ..NewAudit::default() };
    tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    let policy = find(&mut tx, &name).await?.into();
    tx.commit().await?;
    Ok(Json(policy))
}
