//! What is encrypted of a webhook: the secrets that sign, the headers that are sent along, and a chat's URL.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::webhook::WebhookFormat;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{REST, hides_url, shown};
use crate::error::{ApiError, ApiResult};
use crate::secret;
use crate::vault::Vault;

/// What secrets begin with that are not a robot's.
pub const PREFIX: &str = "whsec_";
/// The most secrets that are valid at the same time.
const MOST: usize = 5;

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    secret: String,
    /// Until then; for good if absent.
    until: Option<DateTime<Utc>>,
}

/// The secrets of a webhook: the current one first, then those that it has replaced and that still sign.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Kept>);

impl Secrets {
    /// One, or none.
    pub fn new(secret: Option<String>) -> Self {
        Self(secret.into_iter().map(|secret| Kept { secret, until: None }).collect())
    }

    /// Decrypts what is kept of a webhook.
    pub fn open(vault: &Vault, id: Uuid, sealed: Option<&[u8]>) -> ApiResult<Self> {
        Ok(Self(open(vault, &purpose(id), sealed)?.unwrap_or_default()))
    }

    /// Encrypts them; `None` if there is none.
    pub fn seal(&self, vault: &Vault, id: Uuid) -> ApiResult<Option<Vec<u8>>> {
        if self.0.is_empty() { Ok(None) } else { seal(vault, &purpose(id), &self.0).map(Some) }
    }

    /// The one that signs from now on.
    pub fn current(&self) -> Option<&str> {
        self.0.first().map(|kept| kept.secret.as_str())
    }

    /// Those that sign at a time.
    pub fn valid(&self, now: DateTime<Utc>) -> impl Iterator<Item = &str> {
        let valid = self.0.iter().filter(move |kept| kept.until.is_none_or(|end| now < end));
        valid.map(|kept| kept.secret.as_str())
    }

    /// The same with a new one; the current one signs too for so long.
    #[must_use]
    pub fn rotated(self, secret: String, overlap: TimeDelta, now: DateTime<Utc>) -> Self {
        let mut all = vec![Kept { secret, until: None }];
        let old = self.0.into_iter().map(|kept| Kept { until: kept.until.or(Some(now + overlap)), ..kept });
        all.extend(old.filter(|kept| kept.until.is_some_and(|end| now < end)));
        all.truncate(MOST);
        Self(all)
    }
}

fn purpose(id: Uuid) -> String {
    format!("webhook {id}")
}

/// A new secret.
pub fn new_secret() -> ApiResult<String> {
    Ok(format!("{PREFIX}{}", STANDARD.encode(secret::random::<32>()?)))
}

/// What a URL is called among the headers, with which it is encrypted. No header can be called so.
const URL: &str = ":url";

/// How a receiver is called.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL.
    pub url: String,
    /// Headers that are sent along.
    pub headers: BTreeMap<String, String>,
}

impl Endpoint {
    /// Puts together what a webhook's row shows of the URL, and what is encrypted there.
    pub fn open(vault: &Vault, id: Uuid, shown: &str, sealed: Option<&[u8]>) -> ApiResult<Self> {
        let purpose = headers_purpose(id);
        let mut headers: BTreeMap<String, String> = open(vault, &purpose, sealed)?.unwrap_or_default();
        let url = match headers.remove(URL) {
            Some(url) => url,
            None if shown.ends_with(REST) => {
                return Err(unreadable(format!("{purpose}: the URL is missing")));
            }
            // All of it is shown. Also a chat's, in a row from before they were encrypted.
            None => shown.to_owned(),
        };
        Ok(Self { url, headers })
    }

    /// What a webhook's row keeps: what is shown of the URL, and what is encrypted, if there is anything.
    pub fn seal(
        self,
        vault: &Vault,
        id: Uuid,
        format: WebhookFormat,
    ) -> ApiResult<(String, Option<Vec<u8>>)> {
        let Self { url, headers: mut kept } = self;
        let shown = shown(format, &url);
        if hides_url(format) {
            kept.insert(URL.to_owned(), url);
        }
        let sealed = if kept.is_empty() { None } else { Some(seal(vault, &headers_purpose(id), &kept)?) };
        Ok((shown, sealed))
    }
}

fn headers_purpose(id: Uuid) -> String {
    format!("webhook {id} headers")
}

fn seal<T: Serialize>(vault: &Vault, purpose: &str, value: &T) -> ApiResult<Vec<u8>> {
    vault.seal(purpose, &serde_json::to_vec(value).map_err(ApiError::internal)?)
}

fn open<T: for<'de> Deserialize<'de>>(
    vault: &Vault,
    purpose: &str,
    sealed: Option<&[u8]>,
) -> ApiResult<Option<T>> {
    let Some(sealed) = sealed else { return Ok(None) };
    let clear = vault.open(purpose, sealed);
    let clear = clear.ok_or_else(|| unreadable(format!("{purpose}: encrypted under another key")))?;
    serde_json::from_slice(&clear).map(Some).map_err(ApiError::internal)
}

/// What is kept of a webhook is of no use any more: somebody has to give it anew.
fn unreadable(cause: String) -> ApiError {
    let message = "what is kept of the webhook was encrypted under another secret key: give its url, headers and \
        secret anew";
    ApiError { cause: Some(cause), ..ApiError::invalid(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn valid(secrets: &Secrets, after: TimeDelta) -> Vec<&str> {
        secrets.valid(now() + after).collect()
    }

    #[test]
    fn an_old_secret_signs_until_its_time_is_over() {
        let hour = TimeDelta::hours(1);
        let secrets = Secrets::new(Some("a".to_owned())).rotated("b".to_owned(), hour, now());
        assert_eq!(secrets.current(), Some("b"));
        assert_eq!(valid(&secrets, TimeDelta::zero()), ["b", "a"]);
        assert_eq!(valid(&secrets, hour), ["b"]);
        // Another rotation does not lengthen what the first one gave it.
        let secrets = secrets.rotated("c".to_owned(), hour * 10, now());
        assert_eq!(valid(&secrets, TimeDelta::zero()), ["c", "b", "a"]);
        assert_eq!(valid(&secrets, hour * 2), ["c", "b"]);
        let secrets = secrets.rotated("d".to_owned(), TimeDelta::zero(), now() + hour * 2);
        assert_eq!(valid(&secrets, hour * 2), ["d", "b"]);
        let none = Secrets::new(None).rotated("a".to_owned(), hour, now());
        assert_eq!(valid(&none, TimeDelta::zero()), ["a"]);
        let many = ('a'..='z').fold(Secrets::default(), |all, c| all.rotated(c.to_string(), hour, now()));
        assert_eq!(valid(&many, TimeDelta::zero()).len(), MOST);
    }

    #[test]
    fn what_is_kept_opens_for_its_webhook_only() {
        let (vault, id, other) = (Vault::derive(b"k"), Uuid::from_u128(1), Uuid::from_u128(2));
        let secret = new_secret().unwrap();
        assert_ne!(secret, new_secret().unwrap());
        let sealed = Secrets::new(Some(secret.clone())).seal(&vault, id).unwrap();
        let opened = Secrets::open(&vault, id, sealed.as_deref()).unwrap();
        assert_eq!(opened.current(), Some(secret.as_str()));
        assert!(Secrets::open(&vault, other, sealed.as_deref()).is_err());
        let url = "https://x.example/a";
        assert!(Endpoint::open(&vault, id, url, sealed.as_deref()).is_err(), "nor for something else of it");
        assert!(Secrets::new(None).seal(&vault, id).unwrap().is_none());
        assert_eq!(Secrets::open(&vault, id, None).unwrap().current(), None);
    }

    #[test]
    fn of_a_chats_url_the_row_shows_the_origin_and_of_others_all() {
        let (vault, id) = (Vault::derive(b"k"), Uuid::from_u128(1));
        let url = "https://x.example:8443/robot?key=hunter2";
        for format in [
            WebhookFormat::Standard,
            WebhookFormat::Generic,
            WebhookFormat::Slack,
            WebhookFormat::Dingtalk,
            WebhookFormat::Feishu,
        ] {
            for headers in [BTreeMap::new(), BTreeMap::from([("a".to_owned(), "b".to_owned())])] {
                let endpoint = Endpoint { url: url.to_owned(), headers };
                let (shown, sealed) = endpoint.clone().seal(&vault, id, format).unwrap();
                assert_eq!(shown, if hides_url(format) { "https://x.example:8443/…" } else { url });
                assert_eq!(sealed.is_none(), endpoint.headers.is_empty() && !hides_url(format));
                assert!(Endpoint::open(&vault, id, &shown, sealed.as_deref()).unwrap() == endpoint);
            }
        }
        // Rows from before have all of it in clear.
        let before = Endpoint::open(&vault, id, url, None).unwrap();
        assert!(before.url == url && before.headers.is_empty());
        let lost = Endpoint::open(&vault, id, "https://x.example:8443/…", None);
        assert!(lost.is_err(), "what is shown is no URL to call");
    }
}
