//! Webhooks: what a receiver gets, how it can tell that it is from us, and what is kept of that.

pub mod body;
pub mod check;
mod secrets;
mod sign;

use chrono::{DateTime, Utc};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use kkartifact_model::api::webhook::{Webhook, WebhookFormat};
use kkartifact_store::{Database, DueDelivery, WebhookRow};
use reqwest::Url;
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult};
use crate::vault::Vault;
use body::Happening;

pub use secrets::{Endpoint, PREFIX, Secrets, new_secret};

/// Whether the receiver is a chat's robot, which has a secret of its own, if any, and signatures of its own.
pub const fn is_robot(format: WebhookFormat) -> bool {
    matches!(format, WebhookFormat::Dingtalk | WebhookFormat::Feishu)
}

/// Whether the URL is as good as a password: whoever knows a chat's can write there.
pub const fn hides_url(format: WebhookFormat) -> bool {
    is_robot(format) || matches!(format, WebhookFormat::Slack)
}

/// What stands for the part of a URL that is not shown.
const REST: &str = "/…";

/// What is shown of a URL, and kept of it in clear: all of it, or of a chat's scheme and host.
pub fn shown(format: WebhookFormat, url: &str) -> String {
    if hides_url(format) { format!("{}{REST}", origin(url)) } else { url.to_owned() }
}

/// A webhook as callers see it. One that another secret key has encrypted is shown as far as it can be read.
pub fn describe(row: &WebhookRow, vault: &Vault) -> Webhook {
    let endpoint = Endpoint::open(vault, row.id, &row.url, row.headers.as_deref());
    let secrets = Secrets::open(vault, row.id, row.secrets.as_deref());
    Webhook {
        id: row.id,
        name: row.name.clone(),
        url: shown(row.format, &row.url),
        events: row.events.clone(),
        format: row.format,
        scope: row.scope(),
        unreadable: endpoint.is_err() || secrets.is_err(),
        headers: endpoint.map(|endpoint| endpoint.headers.into_keys().collect()).unwrap_or_default(),
        enabled: row.enabled,
        disabled_reason: row.disabled_reason.clone(),
        failing_since: row.failing_since,
        declared: row.declared,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// What may be written down of a URL: scheme and host. The rest may be as good as a password.
pub fn origin(url: &str) -> String {
    Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

/// What is written down of a webhook with what happens to it. No secret, no header, no more of the URL than its origin.
pub fn detail(row: &WebhookRow) -> Value {
    json!({
        "webhook": row.id, "name": row.name, "url": origin(&row.url), "format": row.format,
        "events": row.events.join(" "), "enabled": row.enabled,
    })
}

/// A call of a receiver.
#[derive(Clone)]
pub struct Outgoing {
    /// Where to.
    pub url: String,
    /// All headers that matter.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: String,
}

/// The call that a delivery needs at this time.
pub fn outgoing(due: &DueDelivery, vault: &Vault, now: DateTime<Utc>) -> ApiResult<Outgoing> {
    let secrets = Secrets::open(vault, due.webhook_id, due.secrets.as_deref())?;
    let endpoint = Endpoint::open(vault, due.webhook_id, &due.url, due.headers.as_deref())?;
    let (mut url, mut feishu) = (endpoint.url, None);
    match (due.format, secrets.current()) {
        (WebhookFormat::Dingtalk, Some(secret)) => {
            let at = now.timestamp_millis();
            let mut signed = Url::parse(&url).map_err(ApiError::internal)?;
            let sign = sign::dingtalk(secret, at);
            signed.query_pairs_mut().append_pair("timestamp", &at.to_string()).append_pair("sign", &sign);
            url = signed.into();
        }
        (WebhookFormat::Feishu, Some(secret)) => {
            feishu = Some((now.timestamp(), sign::feishu(secret, now.timestamp())));
        }
        _ => {}
    }
    let happening = Happening {
        delivery: due.id,
        kind: &due.kind,
        seq: due.event_seq,
        at: due.created_at,
        project: due.project.as_deref(),
        app: due.app.as_deref(),
        webhook: &due.webhook,
        payload: due.payload.as_ref(),
    };
    let body = body::render(due.format, &happening, feishu);
    let mut headers = HeaderMap::new();
    for (name, value) in endpoint.headers {
        let mut value = HeaderValue::from_str(&value).map_err(ApiError::internal)?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(ApiError::internal)?, value);
    }
    let (id, at) = (format!("msg_{}", due.id), now.timestamp());
    let mut set = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).map_err(ApiError::internal)?;
        headers.insert(name, value);
        ApiResult::Ok(())
    };
    set("webhook-id", &id)?;
    set("webhook-timestamp", &at.to_string())?;
    if !is_robot(due.format) && secrets.current().is_some() {
        set("webhook-signature", &sign::standard(secrets.valid(now), &id, at, &body)?)?;
    }
    if let Some(trace) = &due.trace_parent {
        set("traceparent", trace)?;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Outgoing { url, headers, body })
}

/// How many deliveries are changed in one transaction.
const PAGE: u32 = 1000;

/// Calls off what is pending of a webhook that was disabled. What is left out calls itself off when its time comes.
pub async fn call_off(db: &Database, seq: i64, now: DateTime<Utc>) -> ApiResult<()> {
    loop {
        let mut tx = db.begin().await?;
        let changed = tx.call_off_deliveries(seq, PAGE, now).await?;
        tx.commit().await?;
        if changed < u64::from(PAGE) {
            return Ok(());
        }
    }
}

/// Removes a webhook that was disabled before, with its deliveries, page by page: there may be millions.
pub async fn remove(db: &Database, seq: i64) -> ApiResult<()> {
    loop {
        let mut tx = db.begin().await?;
        let removed = tx.remove_deliveries(seq, PAGE).await?;
        if removed < u64::from(PAGE) {
            tx.delete_webhook(seq).await?;
        }
        tx.commit().await?;
        if removed < u64::from(PAGE) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kkartifact_model::Code;
    use kkartifact_model::api::webhook::DeliveryState;
    use uuid::Uuid;

    use super::*;

    const AT: i64 = 1_700_000_000;
    const URL: &str = "https://hooks.example.com/robot?access_token=x";

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(AT, 5_000_000).unwrap()
    }

    fn due(format: WebhookFormat, secret: Option<&str>) -> (DueDelivery, Vault) {
        let (vault, id) = (Vault::derive(b"a key"), Uuid::from_u128(9));
        let own = BTreeMap::from([("X-Api-Key".to_owned(), "hunter2".to_owned())]);
        let endpoint = Endpoint { url: URL.to_owned(), headers: own };
        let (url, headers) = endpoint.seal(&vault, id, format).unwrap();
        let due = DueDelivery {
            seq: 1,
            id: Uuid::from_u128(7),
            kind: "push".to_owned(),
            state: DeliveryState::Pending,
            created_at: now(),
            event_seq: Some(3),
            payload: Some(json!({ "version": "1", "actor": "alice" })),
            trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            project: Some("shop".to_owned()),
            app: Some("web".to_owned()),
            webhook_seq: 1,
            webhook_id: id,
            webhook: "chat".to_owned(),
            url,
            format,
            headers,
            secrets: Secrets::new(secret.map(str::to_owned)).seal(&vault, id).unwrap(),
            enabled: true,
            failing_since: None,
        };
        (due, vault)
    }

    #[test]
    fn a_call_says_what_it_is_and_is_signed_with_every_secret_that_is_valid() {
        let secret = new_secret().unwrap();
        let (mut due, vault) = due(WebhookFormat::Standard, Some(&secret));
        let rotated = Secrets::open(&vault, due.webhook_id, due.secrets.as_deref()).unwrap();
        let rotated = rotated.rotated(new_secret().unwrap(), chrono::TimeDelta::hours(1), now());
        due.secrets = rotated.seal(&vault, due.webhook_id).unwrap();
        let call = outgoing(&due, &vault, now()).unwrap();
        let header = |name: &str| call.headers[name].to_str().unwrap().to_owned();
        let id = "msg_00000000-0000-0000-0000-000000000007";
        assert_eq!((header("webhook-id").as_str(), header("webhook-timestamp")), (id, AT.to_string()));
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("x-api-key"), "hunter2");
        assert_eq!(Some(header("traceparent")), due.trace_parent);
        let old = sign::standard([secret.as_str()].into_iter(), id, AT, &call.body).unwrap();
        assert!(header("webhook-signature").ends_with(&format!(" {old}")));
        assert_eq!(header("webhook-signature").split(' ').count(), 2);
        let later = outgoing(&due, &vault, now() + chrono::TimeDelta::hours(2)).unwrap();
        assert_eq!(later.headers["webhook-signature"].to_str().unwrap().split(' ').count(), 1);
        assert_eq!(later.body, call.body, "every attempt says the same");
    }

    #[test]
    fn robots_find_their_signatures_where_they_look_for_them() {
        let (due_now, vault) = due(WebhookFormat::Dingtalk, Some("SECabc"));
        assert_eq!(due_now.url, "https://hooks.example.com/…");
        let call = outgoing(&due_now, &vault, now()).unwrap();
        let url = Url::parse(&call.url).unwrap();
        let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!((query["access_token"].as_str(), query["timestamp"].as_str()), ("x", "1700000000005"));
        assert_eq!(query["sign"], sign::dingtalk("SECabc", 1_700_000_000_005));
        assert!(!call.url.contains('+') && !call.headers.contains_key("webhook-signature"));

        let (due_now, vault) = due(WebhookFormat::Feishu, Some("demo"));
        let call = outgoing(&due_now, &vault, now()).unwrap();
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["sign"], sign::feishu("demo", AT));
        assert_eq!((body["timestamp"].as_str().unwrap(), call.url.as_str()), ("1700000000", URL));

        let (due_now, vault) = due(WebhookFormat::Dingtalk, None);
        assert_eq!(outgoing(&due_now, &vault, now()).unwrap().url, URL);
    }

    #[test]
    fn without_a_secret_nothing_is_signed_and_with_another_key_nothing_is_sent() {
        let (due, vault) = due(WebhookFormat::Generic, None);
        let call = outgoing(&due, &vault, now()).unwrap();
        assert!(call.headers.contains_key("webhook-id") && !call.headers.contains_key("webhook-signature"));
        let error = outgoing(&due, &Vault::derive(b"another"), now()).err().unwrap();
        assert!(
            error.code == Code::InvalidRequest && error.message.contains("another secret key"),
            "{error}"
        );
    }

    #[test]
    fn of_a_url_only_its_origin_is_written_down() {
        assert_eq!(origin("https://hooks.example.com:8443/a?key=b#c"), "https://hooks.example.com:8443");
        assert_eq!(origin("nonsense"), "");
    }
}
