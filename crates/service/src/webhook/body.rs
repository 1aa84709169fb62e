//! What receivers get of an event: for programs the event, for people a sentence.

use chrono::{DateTime, Utc};
use kkartifact_model::api::webhook::WebhookFormat;
use kkartifact_model::event::EventKind;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The kind of deliveries that somebody asked for to see whether they arrive.
pub const TEST: &str = "test";
/// The most characters of anything that somebody else wrote, in a sentence.
const MOST: usize = 300;

/// What a receiver is told.
#[derive(Debug, Clone, Copy)]
pub struct Happening<'a> {
    /// The delivery.
    pub delivery: Uuid,
    /// What kind of event, or [`TEST`].
    pub kind: &'a str,
    /// Its place among the app's events.
    pub seq: Option<i64>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// In which project.
    pub project: Option<&'a str>,
    /// To which app.
    pub app: Option<&'a str>,
    /// What the receiver's webhook is called.
    pub webhook: &'a str,
    /// What else the event says.
    pub payload: Option<&'a Value>,
}

impl Happening<'_> {
    /// What the event says, where it happened, and its number.
    fn data(&self) -> Map<String, Value> {
        let mut data = self.payload.and_then(Value::as_object).cloned().unwrap_or_default();
        for (key, name) in [("project", self.project), ("app", self.app)] {
            if let Some(name) = name {
                data.entry(key).or_insert_with(|| name.into());
            }
        }
        if let Some(seq) = self.seq {
            data.insert("seq".to_owned(), seq.into());
        }
        if self.kind == TEST {
            data.insert("webhook".to_owned(), self.webhook.into());
        }
        data
    }
}

/// The body. A Feishu robot that wants signatures finds its own in there, with the time in seconds.
pub(super) fn render(
    format: WebhookFormat,
    happening: &Happening<'_>,
    feishu: Option<(i64, String)>,
) -> String {
    let body = match format {
        WebhookFormat::Standard => {
            json!({ "type": happening.kind, "timestamp": happening.at, "data": happening.data() })
        }
        WebhookFormat::Generic => {
            let mut event = happening.data();
            event.insert("id".to_owned(), json!(happening.delivery));
            event.insert("kind".to_owned(), happening.kind.into());
            event.insert("at".to_owned(), json!(happening.at));
            Value::Object(event)
        }
        WebhookFormat::Slack => json!({ "text": sentence(format, happening) }),
        WebhookFormat::Dingtalk => json!({
            "msgtype": "text", "text": { "content": sentence(format, happening) }, "at": { "isAtAll": false },
        }),
        WebhookFormat::Feishu => {
            let mut body = json!({ "msg_type": "text", "content": { "text": sentence(format, happening) } });
            if let Some((seconds, signature)) = feishu {
                body["timestamp"] = seconds.to_string().into();
                body["sign"] = signature.into();
            }
            body
        }
    };
    body.to_string()
}

/// What happened, in words.
fn sentence(format: WebhookFormat, happening: &Happening<'_>) -> String {
    let data = Value::Object(happening.data());
    let find = |keys: &[&str]| {
        keys.iter().find_map(|key| match data.pointer(key) {
            Some(Value::String(text)) if !text.is_empty() => Some(clean(format, text)),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        })
    };
    let say = |key: &str| find(&[key]).unwrap_or_else(|| "?".to_owned());
    let behind = |key: &str| find(&[key]).map(|text| format!(": {text}")).unwrap_or_default();
    let (version, actor) = (say("/version"), say("/actor"));
    let what = match happening.kind.parse::<EventKind>() {
        Ok(EventKind::Push) => format!("version {version} published by {actor}"),
        Ok(EventKind::Pull) => {
            let host = find(&["/agent/host"]).unwrap_or(actor);
            let back = data.pointer("/rollback").and_then(Value::as_bool).unwrap_or(false);
            let did = if back { "went back to" } else { "applied" };
            format!("host {host} {did} version {version}")
        }
        Ok(EventKind::Promote) => format!("version {version} promoted to {} by {actor}", say("/channel")),
        Ok(EventKind::Rollback) => format!("{} rolled back to version {version} by {actor}", say("/channel")),
        Ok(EventKind::Delete) => format!("version {version} deleted by {actor}{}", behind("/reason")),
        Ok(EventKind::Archive) => format!("version {version} archived by {actor}{}", behind("/reason")),
        Ok(EventKind::Restore) => format!("version {version} restored by {actor}"),
        Ok(EventKind::Quarantine) => format!("version {version} quarantined by {actor}{}", behind("/reason")),
        Ok(EventKind::Release) => format!("version {version} released from quarantine by {actor}"),
        Ok(EventKind::Expire) => {
            let credential = find(&["/credential"]).unwrap_or_else(|| "credential".to_owned());
            let end = find(&["/expires_at"]).map(|end| format!(" at {end}")).unwrap_or_default();
            format!("{credential} {} ends{end}", say("/name"))
        }
        Ok(EventKind::JobFailed) => {
            let kind = find(&["/job_kind"]).map(|kind| format!(" ({kind})"));
            format!("job {}{} has failed{}", say("/job_id"), kind.unwrap_or_default(), behind("/error"))
        }
        Ok(EventKind::WebhookDisabled) => {
            format!("webhook {} was disabled{}", say("/name"), behind("/reason"))
        }
        Err(_) if happening.kind == TEST => format!("this is a test of the webhook {}", say("/webhook")),
        Err(_) => clean(format, happening.kind),
    };
    match (find(&["/project"]), find(&["/app"])) {
        (Some(project), Some(app)) => format!("{project}/{app}: {what}"),
        (Some(project), None) => format!("{project}: {what}"),
        (None, _) => what,
    }
}

/// What somebody else wrote, in one line and without any effect: nobody is called, nothing becomes a link of its own.
fn clean(format: WebhookFormat, text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars().take(MOST) {
        match (c, format) {
            ('@', _) => clean.push_str("@\u{200b}"),
            // Else `https://` in a host's name would be a link.
            (':', _) => clean.push_str(":\u{200b}"),
            // Slack's own escapes; others show them as they are.
            ('&', WebhookFormat::Slack) => clean.push_str("&amp;"),
            ('<', WebhookFormat::Slack) => clean.push_str("&lt;"),
            ('>', WebhookFormat::Slack) => clean.push_str("&gt;"),
            // Feishu has tags and no escapes.
            ('<', _) => clean.push('\u{ff1c}'),
            ('>', _) => clean.push('\u{ff1e}'),
            // Lines, and what turns the direction of writing.
            ('\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}', _) => {
                clean.push(' ');
            }
            (c, _) if c.is_control() => clean.push(' '),
            (c, _) => clean.push(c),
        }
    }
    if text.chars().nth(MOST).is_some() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn happening<'a>(kind: &'a str, payload: &'a Value) -> Happening<'a> {
        Happening {
            delivery: Uuid::from_u128(7),
            kind,
            seq: Some(5),
            at: at(),
            project: Some("shop"),
            app: Some("web"),
            webhook: "chat",
            payload: Some(payload),
        }
    }

    fn rendered(format: WebhookFormat, happening: &Happening<'_>) -> Value {
        serde_json::from_str(&render(format, happening, None)).unwrap()
    }

    fn promoted() -> Value {
        json!({ "project": "shop", "app": "web", "version": "1.2.3", "channel": "stable", "actor": "alice" })
    }

    #[test]
    fn programs_get_the_whole_event() {
        let payload = promoted();
        let happening = happening("promote", &payload);
        let mut data = payload.clone();
        data["seq"] = 5.into();
        let standard = json!({ "type": "promote", "timestamp": "2026-01-02T03:04:05Z", "data": data });
        assert_eq!(rendered(WebhookFormat::Standard, &happening), standard);
        let mut event = data;
        event["id"] = "00000000-0000-0000-0000-000000000007".into();
        event["kind"] = "promote".into();
        event["at"] = "2026-01-02T03:04:05Z".into();
        assert_eq!(rendered(WebhookFormat::Generic, &happening), event);
    }

    #[test]
    fn an_event_of_no_app_has_no_number() {
        let payload = json!({ "job": 9 });
        let happening = Happening { seq: None, app: None, ..happening("job_failed", &payload) };
        let data = json!({ "job": 9, "project": "shop" });
        assert_eq!(rendered(WebhookFormat::Standard, &happening)["data"], data);
        let test = Happening { payload: None, project: None, ..Happening { kind: TEST, ..happening } };
        assert_eq!(rendered(WebhookFormat::Standard, &test)["data"], json!({ "webhook": "chat" }));
        assert_eq!(rendered(WebhookFormat::Slack, &test)["text"], "this is a test of the webhook chat");
    }

    #[test]
    fn people_get_a_sentence() {
        let slack = |kind: &str, payload: &Value| {
            rendered(WebhookFormat::Slack, &happening(kind, payload))["text"].as_str().unwrap().to_owned()
        };
        let said = slack("promote", &promoted());
        assert_eq!(said, "shop/web: version 1.2.3 promoted to stable by alice");
        let pull = json!({ "version": "1", "actor": "t", "agent": { "host": "h1" }, "rollback": true });
        assert_eq!(slack("pull", &pull), "shop/web: host h1 went back to version 1");
        let delete = json!({ "version": "1", "actor": "alice", "reason": "deleted by hand" });
        assert_eq!(slack("delete", &delete), "shop/web: version 1 deleted by alice: deleted by hand");
        let archive = json!({ "version": "1", "actor": "retention", "reason": "not among the newest 5" });
        let said = slack("archive", &archive);
        assert_eq!(said, "shop/web: version 1 archived by retention: not among the newest 5");
        for kind in EventKind::ALL {
            let said = slack(kind.as_str(), &json!({}));
            assert!(said.starts_with("shop/web: ") && said.len() > 20, "{said}");
        }
    }

    #[test]
    fn each_chat_has_its_own_envelope() {
        let payload = promoted();
        let happening = happening("promote", &payload);
        let dingtalk = rendered(WebhookFormat::Dingtalk, &happening);
        assert_eq!(dingtalk["msgtype"], "text");
        assert_eq!(dingtalk["text"]["content"], "shop/web: version 1.2.3 promoted to stable by alice");
        let signed = render(WebhookFormat::Feishu, &happening, Some((1_599_360_473, "s".to_owned())));
        let signed: Value = serde_json::from_str(&signed).unwrap();
        assert_eq!((&signed["timestamp"], &signed["sign"]), (&json!("1599360473"), &json!("s")));
        let feishu = rendered(WebhookFormat::Feishu, &happening);
        assert_eq!(feishu["msg_type"], "text");
        assert_eq!(feishu["content"]["text"], signed["content"]["text"]);
        assert_eq!(feishu.get("sign"), None);
    }

    #[test]
    fn nobody_is_called_and_nothing_is_a_tag() {
        let evil =
            "<!channel> @all <at user_id=\"all\">x</at> &\r\nfake: line \u{202e}<https://evil.example|here>";
        let payload = json!({ "version": "1", "actor": evil });
        for format in [WebhookFormat::Slack, WebhookFormat::Dingtalk, WebhookFormat::Feishu] {
            let body = render(format, &happening("push", &payload), None);
            for bad in ["<", ">", "@all", "\\n", "\\r", "\u{202e}"] {
                assert!(!body.contains(bad), "{bad:?} in {body}");
            }
        }
        let slack = render(WebhookFormat::Slack, &happening("push", &payload), None);
        assert!(slack.contains("&lt;!channel&gt; @\u{200b}all") && slack.contains("&amp;  fake"), "{slack}");
        let long = json!({ "version": "1", "actor": "ü".repeat(MOST + 1) });
        let slack = render(WebhookFormat::Slack, &happening("push", &long), None);
        assert!(slack.contains(&format!("{}…", "ü".repeat(MOST))), "{slack}");
    }
}
