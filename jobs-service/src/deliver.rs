//! Delivers events to webhooks: one attempt at one delivery.
//!
//! What is found out goes back to the worker, which writes it together with the job's ending.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::webhook::DeliveryState;
use kkartifact_model::event::EventKind;
use kkartifact_model::{AppName, Code, ProjectName};
use kkartifact_service::outbound::{Answer, Outbound, OutboundError, answer};
use kkartifact_service::webhook::{self, Outgoing, body};
use kkartifact_service::{Config, secret};
use kkartifact_store::{Actor, DeliveryAttemptRow, DueDelivery, NewAudit, NewEvent, Outcome as AuditOutcome};
use serde_json::json;

use crate::attempt::{Attempt, Failure, Outcome};

/// The most bytes of an answer that are read, and kept.
const EXCERPT: usize = 2048;
/// The longest wait that a receiver can ask for.
const MOST_PATIENCE: TimeDelta = TimeDelta::hours(1);
/// When it is tried again after so many attempts that came to nothing, in seconds: over about a day.
const DELAYS: [i64; 11] = [5, 30, 120, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 28_800];

/// What came of an attempt.
pub(crate) struct Delivered {
    /// What becomes of the job.
    pub(crate) outcome: Outcome,
    /// What is to be recorded with it, if something was sent.
    pub(crate) row: Option<DeliveryAttemptRow>,
    /// When to try again.
    pub(crate) again_in: Option<TimeDelta>,
}

impl From<Outcome> for Delivered {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, row: None, again_in: None }
    }
}

/// Sends a delivery, if it is still to be sent.
pub(crate) async fn run(attempt: &Attempt, delivery: i64) -> Delivered {
    match load(attempt, delivery).await {
        Ok(Some(due)) => deliver(attempt, &due).await,
        Ok(None) => Outcome::Ok(Some(json!({ "sent": false }))).into(),
        Err(failure) => Outcome::Err(failure).into(),
    }
}

/// The delivery, if it is pending and its webhook enabled.
async fn load(attempt: &Attempt, delivery: i64) -> Result<Option<DueDelivery>, Failure> {
    let mut tx = attempt.resources.db.read().await?;
    let due = tx.due_delivery(delivery).await?;
    tx.commit().await?;
    let Some(due) = due.filter(|due| due.state == DeliveryState::Pending) else { return Ok(None) };
    if due.enabled {
        return Ok(Some(due));
    }
    let mut tx = attempt.begin().await?;
    let why = "the webhook is disabled";
    tx.close_delivery(delivery, DeliveryState::Cancelled, why, attempt.now()).await?;
    tx.commit().await?;
    Ok(None)
}

async fn deliver(attempt: &Attempt, due: &DueDelivery) -> Delivered {
    let (resources, at, began) = (&attempt.resources, attempt.now(), Instant::now());
    let (request, answer) = match webhook::outgoing(due, &resources.vault, at) {
        Ok(call) => {
            let answer = post(&resources.webhooks, &call).await.map_err(Trouble::from);
            (call.body, answer)
        }
        Err(error) => {
            tracing::error!(webhook = %due.webhook_id, cause = error.cause, "a webhook can't be called");
            let known = error.code != Code::Internal;
            let why = if known { error.message } else { UNKNOWN.to_owned() };
            (String::new(), Err(Trouble::Ours(why)))
        }
    };
    let latency_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let verdict = judge(answer.as_ref(), attempt.now());
    let failures = attempt.row.failures + 1;
    let last = due.kind == body::TEST || failures >= attempt.row.max_attempts;
    let mut again_in = match &verdict {
        Verdict::Again(_, wait) if !last => retry_delay(failures).map(|delay| delay.max(*wait)),
        Verdict::Ours(_) if !last => retry_delay(failures),
        _ => None,
    };
    let ours = matches!(verdict, Verdict::Ours(_));
    if let Some((reason, before)) = end_of_patience(&resources.config, &verdict, due, attempt.now()) {
        match disable(attempt, due, &reason, before).await {
            Ok(true) => again_in = None,
            // Somebody else did, or something was delivered meanwhile.
            Ok(false) => {}
            // The next failure tries again.
            Err(failure) => {
                tracing::warn!(webhook = %due.webhook_id, ?failure, "a webhook could not be disabled");
            }
        }
    }
    let (state, error) = match verdict {
        Verdict::Delivered => (DeliveryState::Delivered, None),
        Verdict::Again(why, _) | Verdict::Never(why) | Verdict::Gone(why) | Verdict::Ours(why) => {
            let state = if again_in.is_some() { DeliveryState::Pending } else { DeliveryState::Failed };
            (state, Some(why))
        }
    };
    metrics::counter!("kkartifact_webhook_attempts_total", "state" => state.as_str()).increment(1);
    let outcome = match &error {
        None => Ok(None),
        Some(why) if again_in.is_some() || failures >= attempt.row.max_attempts => {
            Err(Failure::Retry(why.clone()))
        }
        Some(why) => Err(Failure::Final(why.clone())),
    };
    let answer = answer.ok();
    let row = DeliveryAttemptRow {
        delivery: due.seq,
        webhook: due.webhook_seq,
        state,
        at,
        latency_ms,
        url: webhook::shown(due.format, &due.url),
        request,
        status: answer.as_ref().map(|answer| answer.status.into()),
        response: answer.map(|answer| answer.excerpt),
        error,
        ours,
    };
    Delivered { outcome, row: Some(row), again_in }
}

async fn post(outbound: &Outbound, call: &Outgoing) -> Result<Answer, OutboundError> {
    let request = outbound.post(&call.url)?.headers(call.headers.clone()).body(call.body.clone());
    answer(request, EXCERPT).await
}

/// What is said of a fault of ours that nobody outside can do anything about.
const UNKNOWN: &str = "the server could not make the call; its log says why";

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    /// The call could not be made of what is kept.
    Ours(String),
    /// It was not made, or not answered.
    Theirs(OutboundError),
}

impl From<OutboundError> for Trouble {
    fn from(error: OutboundError) -> Self {
        Self::Theirs(error)
    }
}

/// What an answer means for the delivery. Says nothing of the URL, which may be as good as a password.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Delivered,
    /// Another attempt may do better, after so long.
    Again(String, TimeDelta),
    /// Trying again would not help.
    Never(String),
    /// The receiver wants nothing any more.
    Gone(String),
    /// It was not asked, because of us: another attempt may do better, and none of it is the receiver's failure.
    Ours(String),
}

fn judge(answer: Result<&Answer, &Trouble>, now: DateTime<Utc>) -> Verdict {
    let again = |why: String| Verdict::Again(why, TimeDelta::zero());
    let answer = match answer {
        Ok(answer) => answer,
        Err(Trouble::Ours(why)) => return Verdict::Ours(why.clone()),
        Err(Trouble::Theirs(OutboundError::Forbidden(_))) => {
            let why = "the URL leads to no address that this server may call; 'outbound.allow' can allow it";
            return Verdict::Never(why.to_owned());
        }
        Err(Trouble::Theirs(error @ OutboundError::Failed(..))) => return again(error.to_string()),
    };
    let said = format!("the receiver answered with status {}", answer.status);
    match answer.status {
        200..=299 => Verdict::Delivered,
        300..=399 => again(format!("{said}; redirects are not followed")),
        410 => Verdict::Gone(said),
        429 | 503 => {
            let wait = answer.retry_after.as_deref().and_then(|text| wait(text, now));
            Verdict::Again(said, wait.unwrap_or_default())
        }
        _ => again(said),
    }
}

/// What `Retry-After` asks for: seconds, or until a date (RFC 9110, section 10.2.3). At most an hour.
fn wait(text: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let wait = match text.trim().parse::<i64>() {
        Ok(seconds) => TimeDelta::try_seconds(seconds)?,
        Err(_) => DateTime::parse_from_rfc2822(text.trim()).ok()?.with_timezone(&Utc) - now,
    };
    Some(wait.clamp(TimeDelta::zero(), MOST_PATIENCE))
}

/// When a delivery is tried again that has failed so many times, up to a fifth sooner or later, so that what failed
/// together does not come back together. `None` if it is not.
pub(crate) fn retry_delay(failures: i32) -> Option<TimeDelta> {
    // Without randomness they come back together.
    delay(failures, secret::random::<2>().map_or(SPREAD, u16::from_le_bytes))
}

/// A fifth, in thousandths.
const SPREAD: u16 = 200;

fn delay(failures: i32, random: u16) -> Option<TimeDelta> {
    let seconds = DELAYS.get(usize::try_from(failures).ok()?.checked_sub(1)?)?;
    let thousandths = 1000 - SPREAD + random % (2 * SPREAD + 1);
    Some(TimeDelta::milliseconds(seconds * i64::from(thousandths)))
}

/// Why the webhook is to be disabled, if it is; and since when nothing must have been delivered to it.
fn end_of_patience(
    config: &Config,
    verdict: &Verdict,
    due: &DueDelivery,
    now: DateTime<Utc>,
) -> Option<(String, Option<DateTime<Utc>>)> {
    let hours = config.webhooks.disable_after_hours;
    match verdict {
        Verdict::Delivered | Verdict::Ours(_) => None,
        Verdict::Gone(why) => Some((why.clone(), None)),
        Verdict::Again(why, _) | Verdict::Never(why) => {
            let before = now - TimeDelta::hours(hours.into());
            let too_long = hours > 0 && due.failing_since.is_some_and(|since| since <= before);
            too_long.then(|| (format!("nothing could be delivered for {hours} hours: {why}"), Some(before)))
        }
    }
}

/// Disables the delivery's webhook, and says so to the others; false if it does not need to be any more.
async fn disable(
    attempt: &Attempt,
    due: &DueDelivery,
    reason: &str,
    failing_before: Option<DateTime<Utc>>,
) -> Result<bool, Failure> {
    let (resources, now) = (&attempt.resources, attempt.now());
    let mut tx = attempt.begin().await?;
    // Before the event is queued: the webhook itself does not get it.
    if !tx.disable_webhook(due.webhook_seq, reason, failing_before, now).await? {
        return Ok(false);
    }
    let Some(row) = tx.webhook(due.webhook_seq).await? else { return Ok(false) };
    let scope = row.scope();
    let mut detail = webhook::detail(&row);
    detail["reason"] = reason.into();
    let audit = NewAudit {
        action: "webhook.disable",
        project: scope.project.as_ref().map(ProjectName::as_str),
        app: scope.app.as_ref().map(AppName::as_str),
        detail: detail.clone(),
        ..NewAudit::default()
    };
    let actor = Actor::system("webhooks", resources.auth.audit_key());
    tx.audit(&actor, AuditOutcome::Done, &audit, now).await?;
    if let Some(app) = scope.app {
        detail["app"] = app.as_str().into();
    }
    let event = NewEvent {
        kind: EventKind::WebhookDisabled,
        // Not the app's: whoever follows its events need not know of its webhooks.
        app: None,
        project: row.project_id,
        payload: detail,
        trace_parent: due.trace_parent.clone(),
    };
    tx.insert_event(&event, now).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    tracing::warn!(webhook = %row.id, name = row.name, reason, "a webhook was disabled");
    webhook::call_off(&resources.db, row.seq, now).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use kkartifact_model::api::webhook::WebhookFormat;
    use uuid::Uuid;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn judged(status: u16, retry_after: Option<&str>) -> Verdict {
        let answer = Answer { status, excerpt: String::new(), retry_after: retry_after.map(str::to_owned) };
        judge(Ok(&answer), now())
    }

    #[test]
    fn attempts_are_spread_over_about_a_day() {
        let middle: Vec<_> = (1..=12).map(|failures| delay(failures, SPREAD)).collect();
        let seconds: Vec<_> = middle.iter().flatten().map(TimeDelta::num_seconds).collect();
        assert_eq!(seconds, DELAYS);
        assert!((20..30).contains(&(seconds.iter().sum::<i64>() / 3600)), "{seconds:?}");
        assert_eq!(middle[11], None, "given up");
        assert_eq!((delay(0, 0), delay(-1, 0), delay(i32::MAX, 0)), (None, None, None));
        for random in 0..=u16::MAX {
            let delay = delay(1, random).unwrap();
            assert!((4000..=6000).contains(&delay.num_milliseconds()), "{random}: {delay}");
        }
        assert!(retry_delay(1).is_some() && retry_delay(12).is_none());
    }

    #[test]
    fn only_2xx_is_delivered_and_what_can_get_better_is_tried_again() {
        for status in [200, 201, 204, 299] {
            assert_eq!(judged(status, None), Verdict::Delivered, "{status}");
        }
        for status in [100, 400, 401, 404, 429, 500, 503, 599] {
            assert!(matches!(judged(status, None), Verdict::Again(..)), "{status}");
        }
        let Verdict::Again(why, _) = judged(302, None) else { panic!("redirects are failures") };
        assert!(why.contains("302") && why.contains("not followed"), "{why}");
        assert!(matches!(judged(410, Some("5")), Verdict::Gone(_)));
    }

    #[test]
    fn what_is_forbidden_is_not_tried_again_and_says_nothing_of_the_url() {
        let forbidden = Trouble::from(OutboundError::Forbidden("https://10.0.0.1/?key=hunter2".to_owned()));
        let Verdict::Never(why) = judge(Err(&forbidden), now()) else { panic!("it would never help") };
        assert!(why.contains("outbound.allow") && !why.contains("hunter2"), "{why}");
        let away =
            Trouble::from(OutboundError::Failed("x.example".to_owned(), "it took too long".to_owned()));
        assert!(matches!(judge(Err(&away), now()), Verdict::Again(..)));
        let ours = Trouble::Ours("no key".to_owned());
        assert_eq!(judge(Err(&ours), now()), Verdict::Ours("no key".to_owned()));
    }

    #[test]
    fn a_receiver_may_ask_for_up_to_an_hour() {
        let asked = |status, text| match judged(status, Some(text)) {
            Verdict::Again(_, wait) => wait.num_seconds(),
            other => panic!("{other:?}"),
        };
        assert_eq!((asked(429, "7"), asked(503, " 7 "), asked(500, "7")), (7, 7, 0));
        assert_eq!(asked(429, "Fri, 02 Jan 2026 03:04:35 GMT"), 30);
        assert_eq!((asked(429, "999999"), asked(429, "9223372036854775807"), asked(429, "-5")), (3600, 0, 0));
        assert_eq!((asked(429, "Fri, 02 Jan 2026 03:00:00 GMT"), asked(429, "soon")), (0, 0));
    }

    #[test]
    fn patience_ends_after_nothing_but_failures_for_long_enough() {
        let mut config = Config::default();
        let mut due = DueDelivery {
            seq: 1,
            id: Uuid::from_u128(1),
            kind: "push".to_owned(),
            state: DeliveryState::Pending,
            created_at: now(),
            event_seq: None,
            payload: None,
            trace_parent: None,
            project: None,
            app: None,
            webhook_seq: 1,
            webhook_id: Uuid::from_u128(2),
            webhook: "chat".to_owned(),
            url: "https://hooks.example.com/".to_owned(),
            format: WebhookFormat::Standard,
            headers: None,
            secrets: None,
            enabled: true,
            failing_since: None,
        };
        let (failed, gone) = (judged(500, None), judged(410, None));
        let ends = |config: &Config, verdict: &Verdict, due: &DueDelivery| {
            end_of_patience(config, verdict, due, now()).is_some()
        };
        assert!(!ends(&config, &failed, &due) && ends(&config, &gone, &due));
        due.failing_since = Some(now() - TimeDelta::hours(71));
        assert!(!ends(&config, &failed, &due));
        due.failing_since = Some(now() - TimeDelta::hours(72));
        assert!(ends(&config, &failed, &due) && !ends(&config, &Verdict::Delivered, &due));
        let ours = Verdict::Ours("no key".to_owned());
        assert!(!ends(&config, &ours, &due), "it is not the receiver's fault");
        config.webhooks.disable_after_hours = 0;
        assert!(!ends(&config, &failed, &due), "never, if it is so configured");
    }
}
