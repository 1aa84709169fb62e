//! What a webhook must be like: asked of callers, and of the configuration at the start.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use kkartifact_model::api::webhook::WebhookFormat;
use kkartifact_model::event::EventKind;
use kkartifact_model::{AppName, Code, ProjectName};
use reqwest::Url;

use super::{PREFIX, REST};
use crate::config::DeclaredWebhook;
use crate::error::{ApiError, ApiResult};
use crate::outbound::{Guard, Outbound};

/// All kinds of events.
const ALL: &str = "*";
/// The most headers that are sent along.
const MAX_HEADERS: usize = 20;
/// The most bytes of a header's name and value together.
const MAX_HEADER: usize = 4096;
/// The most bytes of a URL.
const MAX_URL: usize = 2000;
/// What the server itself says of a request.
const RESERVED: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A webhook's name: 1 to 64 characters that can be seen.
pub fn name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if name.trim().is_empty() || length > 64 || name.chars().any(char::is_control) {
        return Err("name has 1 to 64 characters, and no control characters".to_owned());
    }
    Ok(())
}

/// The events that a webhook wants: kinds, or `*`.
pub fn events(events: &[String]) -> Result<(), String> {
    let known = || EventKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    if events.is_empty() {
        return Err(format!("events is empty; there are {}, and * for all", known()));
    }
    for event in events {
        if event != ALL && event.parse::<EventKind>().is_err() {
            let event: String = event.chars().take(40).collect();
            return Err(format!("events: {event:?} is none; there are {}, and * for all", known()));
        }
    }
    if events.iter().collect::<BTreeSet<_>>().len() < events.len() {
        return Err("events has one twice".to_owned());
    }
    Ok(())
}

/// Headers that are sent along: at most 20, and none that the server itself sets. Says nothing of their values.
pub fn headers(headers: &BTreeMap<String, String>) -> Result<(), String> {
    if headers.len() > MAX_HEADERS {
        return Err(format!("headers has more than {MAX_HEADERS}"));
    }
    let mut names = BTreeSet::new();
    for (name, value) in headers {
        let shown: String = name.chars().take(40).collect();
        let wrong = |why: &str| Err(format!("headers: {shown:?} {why}"));
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            return wrong("is not a name of a header");
        };
        // In lower case from here on.
        if RESERVED.contains(&parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
            return wrong("is set by the server");
        }
        if value.is_empty() || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return wrong("has a value that can't be sent: use visible ASCII characters in one line");
        }
        if name.len() + value.len() > MAX_HEADER {
            return wrong(&format!("has more than {MAX_HEADER} bytes"));
        }
        if !names.insert(parsed.as_str().to_owned()) {
            return wrong("is there twice");
        }
    }
    Ok(())
}

/// The secret that signs. Robots have one of their own; others get `whsec_` and 24 to 64 bytes in base64.
pub fn secret(format: WebhookFormat, secret: &str) -> Result<(), String> {
    if super::is_robot(format) {
        if secret.is_empty() || secret.len() > 256 || secret.chars().any(char::is_control) {
            return Err("secret has 1 to 256 bytes, and no control characters".to_owned());
        }
        return Ok(());
    }
    let bytes = secret.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    if bytes.is_some_and(|bytes| (24..=64).contains(&bytes.len())) {
        return Ok(());
    }
    Err(format!("secret is {PREFIX} and base64 of 24 to 64 random bytes"))
}

/// A URL that events may be posted to, as far as can be told before its name is resolved.
pub fn url(outbound: &Outbound, url: &str) -> ApiResult<Url> {
    let wrong = |why| ApiError::new(Code::InvalidUrl, format!("url {why}"));
    if let Some(why) = malformed(url) {
        return Err(wrong(why));
    }
    outbound.check(url).map_err(|_| wrong(FORBIDDEN))
}

const FORBIDDEN: &str = "must be https:// and lead to a public address, without a user or password; \
    what 'outbound.allow' names may also be inside, and http://";

fn malformed(url: &str) -> Option<&'static str> {
    if url.len() > MAX_URL {
        return Some("has more than 2000 bytes");
    }
    if url.ends_with(REST) {
        return Some("is only what is shown of one: give all of it, or leave it out");
    }
    // Parsing would leave some of them out.
    url.chars().any(|c| c.is_control() || c.is_whitespace()).then_some("has spaces or control characters")
}

/// What is wrong with the webhooks of the configuration: all of it.
pub fn declared(webhooks: &[DeclaredWebhook], allow: &[String]) -> Vec<String> {
    let guard = Guard::new(allow);
    let mut mistakes = Vec::new();
    let mut names = BTreeSet::new();
    for webhook in webhooks {
        let mut wrong = |why: String| {
            let name: String = webhook.name.chars().take(64).collect();
            mistakes.push(format!("webhooks.declared {name:?}: {why}"));
        };
        let checks = [name(&webhook.name), events(&webhook.events), headers(&webhook.headers)];
        checks.into_iter().filter_map(Result::err).for_each(&mut wrong);
        let forbidden = || guard.check(&webhook.url).is_err().then_some(FORBIDDEN);
        if let Some(why) = malformed(&webhook.url).or_else(forbidden) {
            wrong(format!("url {why}"));
        }
        if let Some(Err(error)) = webhook.format.as_deref().map(str::parse::<WebhookFormat>) {
            wrong(format!("format: {error}"));
        }
        if let Some(Err(error)) = webhook.project.as_deref().map(str::parse::<ProjectName>) {
            wrong(error.to_string());
        }
        if let Some(Err(error)) = webhook.app.as_deref().map(str::parse::<AppName>) {
            wrong(error.to_string());
        }
        if webhook.app.is_some() && webhook.project.is_none() {
            wrong("app needs its project".to_owned());
        }
        if !names.insert((&webhook.project, &webhook.app, &webhook.name)) {
            wrong("is there twice".to_owned());
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
        texts.map(str::to_owned).to_vec()
    }

    fn header(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn names_and_events() {
        assert!(name("Chat of the shop 💬").is_ok() && name(&"x".repeat(64)).is_ok());
        for bad in ["", " ", "a\nb", "a\0", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert!(events(&texts(["push", "webhook_disabled"])).is_ok() && events(&texts(["*"])).is_ok());
        assert!(events(&[]).is_err() && events(&texts(["push", "push"])).is_err());
        let error = events(&texts(["push", "pushed"])).unwrap_err();
        for part in ["\"pushed\"", "push, pull, promote", "job_failed", "*"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn headers_that_would_change_the_request_are_refused() {
        assert!(headers(&header("Authorization", "Bearer x")).is_ok());
        for reserved in RESERVED.iter().chain(&["Host", "Content-Length", "webhook-id", "Webhook-Signature"])
        {
            assert!(headers(&header(reserved, "x")).is_err(), "{reserved}");
        }
        for (name, value) in
            [("a b", "x"), ("", "x"), ("a:b", "x"), ("x", "a\r\nb: c"), ("x", "ü"), ("x", "")]
        {
            let error = headers(&header(name, value)).unwrap_err();
            assert!(value.is_empty() || value == "x" || !error.contains(value), "{error}");
        }
        let mut twice = header("X-One", "1");
        twice.insert("x-one".to_owned(), "2".to_owned());
        assert!(headers(&twice).is_err());
        let many = |count: usize| (0..count).map(|i| (format!("x-{i}"), "x".to_owned())).collect();
        assert!(headers(&many(MAX_HEADERS)).is_ok() && headers(&many(MAX_HEADERS + 1)).is_err());
        assert!(headers(&header("x", &"x".repeat(MAX_HEADER))).is_err());
    }

    #[test]
    fn secrets_are_long_enough_to_be_some() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for (bytes, good) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
            assert_eq!(secret(WebhookFormat::Standard, &of(bytes)).is_ok(), good, "{bytes}");
        }
        assert!(secret(WebhookFormat::Generic, "SECabc").is_err());
        assert!(secret(WebhookFormat::Dingtalk, "SECabc").is_ok());
        assert!(secret(WebhookFormat::Feishu, "").is_err());
    }

    #[test]
    fn urls_lead_outside_or_to_what_is_allowed() {
        let outbound = Outbound::new(&texts(["127.0.0.1"])).unwrap();
        assert!(url(&outbound, "https://hooks.example.com/x?y=z").is_ok());
        assert!(url(&outbound, "http://127.0.0.1:8080/").is_ok());
        for bad in
            ["http://hooks.example.com/", "https://10.0.0.1/", "https://a b.example/", "", "ftp://x.example/"]
        {
            assert_eq!(url(&outbound, bad).unwrap_err().code, Code::InvalidUrl, "{bad}");
        }
        let secret = url(&outbound, "https://10.0.0.1/?key=hunter2").unwrap_err();
        assert!(!secret.message.contains("hunter2"), "{}", secret.message);
        assert!(url(&outbound, &format!("https://x.example/{}", "x".repeat(MAX_URL))).is_err());
        let shown = url(&outbound, "https://hooks.example.com/…").unwrap_err();
        assert!(shown.message.contains("only what is shown"), "{}", shown.message);
    }

    #[test]
    fn mistakes_of_the_configuration_are_all_named() {
        let good = DeclaredWebhook {
            name: "chat".to_owned(),
            events: texts(["*"]),
            url: "https://hooks.example.com/x".to_owned(),
            format: Some("slack".to_owned()),
            headers: BTreeMap::new(),
            secret_file: None,
            project: Some("shop".to_owned()),
            app: None,
        };
        assert_eq!(declared(std::slice::from_ref(&good), &[]), texts([]));
        let bad = DeclaredWebhook {
            events: texts(["pushed"]),
            url: "http://10.0.0.1/?key=hunter2".to_owned(),
            format: Some("pigeon".to_owned()),
            headers: header("host", "x"),
            project: None,
            app: Some("../x".to_owned()),
            ..good.clone()
        };
        let mistakes = declared(&[good.clone(), good, bad], &[]);
        assert_eq!(mistakes.len(), 7, "{mistakes:?}");
        let all = mistakes.join("\n");
        for part in ["twice", "pushed", "\"host\"", "https://", "pigeon", "../x", "needs its project"] {
            assert!(all.contains(part), "{part} not in {all}");
        }
        assert!(!all.contains("hunter2"));
    }
}
