//! How receivers can tell that a call is ours: Standard Webhooks, and the ways of DingTalk's and Feishu's robots.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{ApiError, ApiResult};

/// The value of `webhook-signature`: a signature for each secret. `https://www.standardwebhooks.com`
pub(super) fn standard<'a>(
    secrets: impl Iterator<Item = &'a str>,
    id: &str,
    seconds: i64,
    body: &str,
) -> ApiResult<String> {
    let signatures = secrets.map(|secret| {
        let webhook = standardwebhooks::Webhook::new(secret)?;
        webhook.sign(id, seconds, body.as_bytes())
    });
    let signatures: Result<Vec<_>, standardwebhooks::WebhookError> = signatures.collect();
    Ok(signatures.map_err(ApiError::internal)?.join(" "))
}

/// The value of `sign` in the query of a DingTalk robot: over its own text, with the secret.
pub(super) fn dingtalk(secret: &str, milliseconds: i64) -> String {
    mac(secret.as_bytes(), format!("{milliseconds}\n{secret}").as_bytes())
}

/// The value of `sign` in the body for a Feishu robot: over nothing, with time and secret.
pub(super) fn feishu(secret: &str, seconds: i64) -> String {
    mac(format!("{seconds}\n{secret}").as_bytes(), b"")
}

fn mac(key: &[u8], message: &[u8]) -> String {
    STANDARD.encode(sign(&Key::new(HMAC_SHA256, key), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn standard_signatures_are_those_of_the_specification() {
        let body = r#"{"email":"test@example.com","username":"test_user"}"#;
        let (id, at) = ("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553);
        let one = standard([SECRET].into_iter(), id, at, body).unwrap();
        assert_eq!(one, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        // By hand, with a key of 32 bytes.
        let key: Vec<u8> = (0..32).collect();
        let by_hand = format!("v1,{}", mac(&key, format!("{id}.{at}.{body}").as_bytes()));
        let both = standard([OTHER, SECRET].into_iter(), id, at, body).unwrap();
        assert_eq!(both, format!("{by_hand} {one}"));
        assert!(standard(["whsec_not base64"].into_iter(), id, at, body).is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what verifies asks the system for the time")]
    fn whoever_has_one_of_the_secrets_can_verify() {
        let (id, body) = ("msg_1", "{}");
        let at = chrono::Utc::now().timestamp();
        let signature = standard([OTHER, SECRET].into_iter(), id, at, body).unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", at.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        for secret in [SECRET, OTHER] {
            let webhook = standardwebhooks::Webhook::new(secret).unwrap();
            assert!(webhook.verify(body.as_bytes(), &headers).is_ok());
            assert!(webhook.verify(b"{ }", &headers).is_err());
        }
        let third = standardwebhooks::Webhook::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert!(third.verify(body.as_bytes(), &headers).is_err());
    }

    #[test]
    fn robots_are_signed_to_as_they_want() {
        // From Python: base64.b64encode(hmac.new(key, message, hashlib.sha256).digest())
        assert_eq!(dingtalk("SECabc", 1_577_262_236_757), "I5TKCOTTj6fad4sJ4q9RsIffw0PAChVQZQGTdtRbNEQ=");
        assert_eq!(feishu("demo", 1_599_360_473), "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8=");
    }
}
