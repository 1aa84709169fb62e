//! Whose token it is that a CI provider's token is exchanged for.

use chrono::TimeDelta;
use kkartifact_model::api::oauth::OauthCode;
use kkartifact_model::api::trust_policy::matches;
use kkartifact_service::Resources;
use kkartifact_service::oidc::{ForeignClaims, ForeignError, issuer_of};
use kkartifact_store::{TrustPolicyRow, kind};
use serde_json::{Value, json};

use super::oauth::{Holder, Refusal, Wish, refuse};

/// Strangers don't learn which issuers and policies there are.
const UNPROVEN: &str = "subject_token is not one that a trusted issuer has signed for this server";

/// The longest subject that is taken: it names the caller in every audit row.
const MAX_SUBJECT: usize = 200;

/// The one policy that lets a token in.
pub(crate) async fn holder(resources: &Resources, wish: &Wish) -> Result<Holder, Refusal> {
    let token = wish.subject_token.as_deref().unwrap_or_default();
    if token.is_empty() {
        return Err(refuse(OauthCode::InvalidRequest, "subject_token is missing"));
    }
    let grant = |why: &str| refuse(OauthCode::InvalidGrant, why);
    let issuer = issuer_of(token).ok_or_else(|| grant("subject_token can't be read"))?;
    let mut tx = resources.db.read().await?;
    // Only issuers that an admin has named are ever asked anything.
    let policies = tx.trust_policies_of(&issuer).await?;
    tx.commit().await?;
    let wanted = |policy: &TrustPolicyRow| wish.policy.as_ref().is_none_or(|name| *name == policy.name);
    let policies: Vec<_> = policies.into_iter().filter(wanted).collect();
    if policies.is_empty() {
        return Err(grant(UNPROVEN));
    }
    let mut fitting: Option<(TrustPolicyRow, ForeignClaims)> = None;
    let mut why = "the claims of subject_token match no trust policy".to_owned();
    for policy in policies {
        let now = resources.clock.now();
        match resources.providers.verify(token, &issuer, &policy.audience, now).await {
            Ok(claims) if fits(&policy, &claims) => {
                if let Some((other, _)) = &fitting {
                    let both = format!("{} and {} both fit; choose by 'policy'", other.name, policy.name);
                    return Err(refuse(OauthCode::InvalidRequest, both));
                }
                fitting = Some((policy, claims));
            }
            Ok(_) => {}
            Err(ForeignError::Refused(reason)) => reason.clone_into(&mut why),
            Err(ForeignError::Unproven(reason)) => {
                tracing::info!(reason, issuer, policy = policy.name, "a token was not exchanged");
                UNPROVEN.clone_into(&mut why);
            }
            Err(ForeignError::Unreachable(error)) => {
                tracing::warn!(%error, issuer, "the keys of an issuer can't be fetched");
                return Err(refuse(
                    OauthCode::TemporarilyUnavailable,
                    "the issuer's keys can't be fetched now",
                ));
            }
        }
    }
    let (policy, claims) = fitting.ok_or_else(|| grant(&why))?;
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    let sound = (1..=MAX_SUBJECT).contains(&subject.len()) && !subject.chars().any(char::is_control);
    if !sound {
        return Err(grant("the subject of subject_token is missing or too long"));
    }
    let longest = i64::from(policy.max_minutes).min(resources.config.auth.access_token_minutes.into());
    Ok(Holder {
        principal: policy.principal_id,
        generation: policy.generation,
        kind: kind::WORKLOAD,
        name: format!("{}:{subject}", policy.name),
        lifetime: TimeDelta::minutes(longest),
        detail: json!({ "policy": policy.name, "issuer": issuer }),
    })
}

/// Whether every claim that the policy names matches.
fn fits(policy: &TrustPolicyRow, claims: &ForeignClaims) -> bool {
    policy.claims.iter().all(|(name, pattern)| match claims.get(name) {
        Some(Value::Array(items)) => {
            items.iter().any(|item| text(item).is_some_and(|t| matches(pattern, &t)))
        }
        Some(value) => text(value).is_some_and(|text| matches(pattern, &text)),
        None => false,
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
