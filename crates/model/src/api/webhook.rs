//! Webhooks and their deliveries.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::access::Scope;
use crate::text::text_enum;

text_enum! {
    /// What a receiver gets.
    WebhookFormat {
        /// `{type, timestamp, data}`, signed: Standard Webhooks.
        Standard = "standard",
        /// The event alone, signed the same way.
        Generic = "generic",
        /// A message for Slack and what speaks like it.
        Slack = "slack",
        /// A message for a DingTalk robot; signed as it wants if there is a secret.
        Dingtalk = "dingtalk",
        /// A message for a Feishu (Lark) robot; signed as it wants if there is a secret.
        Feishu = "feishu",
    }
}

/// Makes a webhook.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// 1 to 64 characters, unique within the scope.
    pub name: String,
    /// Where events are posted to.
    pub url: String,
    /// Kinds of events; `["*"]` for all.
    pub events: Vec<String>,
    /// What the receiver gets.
    #[serde(default = "standard")]
    pub format: WebhookFormat,
    /// Only events of this project or app; all if empty.
    #[serde(default)]
    pub scope: Scope,
    /// Headers that are sent along, at most 20. They are never shown again.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The secret that signs; made by the server if absent. For DingTalk and Feishu the robot's.
    #[serde(default)]
    pub secret: Option<String>,
    /// Whether events are sent.
    #[serde(default = "yes")]
    pub enabled: bool,
}

const fn standard() -> WebhookFormat {
    WebhookFormat::Standard
}

const fn yes() -> bool {
    true
}

/// Changes a webhook. What is absent stays.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Where events are posted to.
    #[serde(default)]
    pub url: Option<String>,
    /// Kinds of events.
    #[serde(default)]
    pub events: Option<Vec<String>>,
    /// What the receiver gets.
    #[serde(default)]
    pub format: Option<WebhookFormat>,
    /// Headers, all of them.
    #[serde(default)]
    pub headers: Option<BTreeMap<String, String>>,
    /// Whether events are sent. Enabling forgets why it was disabled.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// A webhook. Secrets, headers' values and what is behind the host of a chat's URL are not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Names it.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where events are posted to; of a chat's URL only `https://host/…`, since the rest is as good as a password.
    pub url: String,
    /// Kinds of events.
    pub events: Vec<String>,
    /// What the receiver gets.
    pub format: WebhookFormat,
    /// Which events.
    pub scope: Scope,
    /// Names of the headers that are sent along.
    pub headers: Vec<String>,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why the server disabled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// Since when nothing could be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<DateTime<Utc>>,
    /// It stands in the configuration and is changed there.
    pub declared: bool,
    /// Its headers, secret or URL were encrypted under another secret key: it is not called until they are given anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed.
    pub updated_at: DateTime<Utc>,
}

/// A webhook with the secret that signs: shown once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookWithSecret {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// `whsec_…`, or what was given.
    pub secret: String,
}

/// Asks for a new secret.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// The new secret; made by the server if absent.
    #[serde(default)]
    pub secret: Option<String>,
    /// For how many hours the old one signs too: 0 to 168, 24 if absent.
    #[serde(default = "a_day")]
    pub overlap_hours: u32,
}

const fn a_day() -> u32 {
    24
}

text_enum! {
    /// Where a delivery is.
    DeliveryState {
        /// Is tried, or waits to be tried again.
        Pending = "pending",
        /// The receiver has it.
        Delivered = "delivered",
        /// Given up.
        Failed = "failed",
        /// Called off: the webhook was disabled, or its job cancelled.
        Cancelled = "cancelled",
    }
}

/// One event for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// What the receiver tells duplicates by: the header `webhook-id` is `msg_` and this.
    pub id: Uuid,
    /// What kind of event; `test` for test calls.
    pub event: String,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// The last answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Why the last try came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the event happened.
    pub created_at: DateTime<Utc>,
    /// When it was tried last.
    pub updated_at: DateTime<Utc>,
}

/// A delivery with its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryDetail {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// The attempts, oldest first; at most the newest 100.
    pub log: Vec<DeliveryAttempt>,
}

/// One try to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// Which, from 1.
    pub attempt: i32,
    /// When it began.
    pub at: DateTime<Utc>,
    /// Where to; of a chat's URL only `https://host/…`.
    pub url: String,
    /// The body that was sent.
    pub request: String,
    /// The answer's status, if there was one.
    pub status: Option<i32>,
    /// How long it took, in milliseconds.
    pub latency_ms: i64,
    /// The beginning of the answer's body: at most 2 KiB.
    pub response: Option<String>,
    /// Why it came to nothing.
    pub error: Option<String>,
}

/// Asks to deliver again what has failed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaySince {
    /// Deliveries of events since then.
    pub since: Option<DateTime<Utc>>,
}

/// How many deliveries were queued again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// So many; at most 10,000 a call.
    pub replayed: u64,
}
