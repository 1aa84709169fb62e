//! What is said about a version, and keeping everybody from it for a while.

use axum::extract::State;
use kkartifact_model::api::version::{Version, VersionChange, VersionState};
use kkartifact_model::event::EventKind;
use kkartifact_model::{Code, Permission, VersionName, VersionRef};
use kkartifact_service::http::extract::{Json, NamedVersion};
use kkartifact_service::lifecycle::{self, Happened};
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Caller, Resources};
use kkartifact_store::{NewAudit, Outcome};
use serde_json::json;

/// The most bytes of notes.
const NOTES: usize = 4096;
/// The most labels of a version.
const LABELS: u64 = 50;
/// The most labels of one change: all may be replaced.
const LABELS_OF_A_CHANGE: usize = 100;
/// The most bytes of a label's key…
const KEY: usize = 63;
/// … and of its value.
const VALUE: usize = 255;

/// Changes notes, labels, pin and hold of a version in whatever state. A hold needs admin, both ways.
pub(crate) async fn update(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
    Json(change): Json<VersionChange>,
) -> ApiResult<Json<Version>> {
    check(&change)?;
    let needed = if change.legal_hold.is_some() { Permission::Admin } else { Permission::Push };
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    if change.legal_hold == Some(true) {
        // Whoever deletes the project looks for holds: of the two, the second one sees what the first one did.
        tx.keep_project(app.project_id).await?;
    }
    // As they are now: the body may have taken its time.
    let caller = resources.auth.again(&mut tx, &caller, now).await?;
    let app = AuthorizedApp::load(&mut tx, &caller, needed, &app.project, &app.name).await?;
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(name)).await?;
    let notes = change.notes.as_deref().unwrap_or(&row.notes);
    let pinned = change.pinned.unwrap_or(row.pinned);
    let legal_hold = change.legal_hold.unwrap_or(row.legal_hold);
    tx.annotate_version(row.id, notes, pinned, legal_hold).await?;
    for (key, value) in &change.labels {
        tx.set_version_label(row.id, key, value.as_deref()).await?;
    }
    if !change.labels.is_empty() && tx.count_version_labels(row.id).await? > LABELS {
        return Err(ApiError::invalid(format!("a version has at most {LABELS} labels; remove some")));
    }
    let detail = detail(&change);
    if detail != json!({}) {
        let audit = NewAudit {
            action: "version.update",
            project: Some(app.project.as_str()),
            app: Some(app.name.as_str()),
            version: Some(row.name.as_str()),
            detail,
            ..NewAudit::default()
        };
        tx.audit(&caller.actor(), Outcome::Done, &audit, now).await?;
    }
    let row = lifecycle::visible(&mut tx, &app, &VersionRef::Name(row.name)).await?;
    let version = tx.describe_version(row).await?;
    tx.commit().await?;
    Ok(Json(version))
}

/// What was changed, without what stays.
fn detail(change: &VersionChange) -> serde_json::Value {
    let mut detail = json!({});
    if let Some(notes) = &change.notes {
        detail["notes"] = json!(notes);
    }
    if !change.labels.is_empty() {
        detail["labels"] = json!(change.labels);
    }
    if let Some(pinned) = change.pinned {
        detail["pinned"] = json!(pinned);
    }
    if let Some(legal_hold) = change.legal_hold {
        detail["legal_hold"] = json!(legal_hold);
    }
    detail
}

fn check(change: &VersionChange) -> ApiResult<()> {
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if change.notes.as_ref().is_some_and(|notes| notes.len() > NOTES || !notes.chars().all(is_text)) {
        let message =
            format!("notes have at most {NOTES} bytes, and no control characters but line ends and tabs");
        return Err(ApiError::invalid(message));
    }
    if change.labels.len() > LABELS_OF_A_CHANGE {
        return Err(ApiError::invalid(format!("at most {LABELS_OF_A_CHANGE} labels change at once")));
    }
    for (key, value) in &change.labels {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if key.is_empty() || key.len() > KEY || !key.bytes().all(is_good) {
            let message = format!("a label's key has 1 to {KEY} letters, digits, '-', '_', '.' and '/'");
            return Err(ApiError::invalid(message));
        }
        if value.as_ref().is_some_and(|value| value.len() > VALUE || value.chars().any(char::is_control)) {
            let message = format!("a label's value has at most {VALUE} bytes and no control characters");
            return Err(ApiError::invalid(message));
        }
    }
    Ok(())
}

/// Keeps everybody from a version's content until somebody releases it. Channels may go on pointing to it: whoever
/// follows one is refused with 403, which is what a quarantine is for. Where it is one already, nothing changes.
pub(crate) async fn quarantine(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
) -> ApiResult<Json<Version>> {
    move_to(&resources, &caller, &app, name, VersionState::Quarantined).await
}

/// Lets everybody who may read a quarantined version do so again.
pub(crate) async fn release(
    State(resources): State<Resources>,
    caller: Caller,
    app: AuthorizedApp,
    NamedVersion(name): NamedVersion,
) -> ApiResult<Json<Version>> {
    move_to(&resources, &caller, &app, name, VersionState::Published).await
}

async fn move_to(
    resources: &Resources,
    caller: &Caller,
    app: &AuthorizedApp,
    name: VersionName,
    state: VersionState,
) -> ApiResult<Json<Version>> {
    let (kind, action) = match state {
        VersionState::Quarantined => (EventKind::Quarantine, "version.quarantine"),
        _ => (EventKind::Release, "version.release"),
    };
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    tx.lock_app(app.id).await?;
    let row = lifecycle::visible(&mut tx, app, &VersionRef::Name(name)).await?;
    match row.state {
        VersionState::Published | VersionState::Quarantined => {}
        VersionState::Archived => return Err(lifecycle::archived(&row)),
        VersionState::Deleted | VersionState::Purged => {
            return Err(ApiError::new(Code::VersionDeleted, format!("version {} was deleted", row.name)));
        }
    }
    if row.state != state {
        tx.set_version_state(row.id, state).await?;
        let happened = Happened {
            app,
            version: (row.id, row.name.as_str()),
            kind,
            action,
            agent: None,
            detail: json!({}),
        };
        let actor = caller.actor();
        happened.record(&mut tx, &actor, now).await?;
        lifecycle::queue_marker(&mut tx, app, row.id, &actor, now).await?;
    }
    let row = lifecycle::visible(&mut tx, app, &VersionRef::Name(row.name)).await?;
    let version = tx.describe_version(row).await?;
    tx.commit().await?;
    resources.jobs_queued.notify_waiters();
    Ok(Json(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(key: &str, value: &str) -> VersionChange {
        let labels = [(key.to_owned(), Some(value.to_owned()))].into();
        VersionChange { labels, ..VersionChange::default() }
    }

    #[test]
    fn notes_and_labels_are_bounded() {
        let notes = |text: &str| VersionChange { notes: Some(text.into()), ..VersionChange::default() };
        assert!(check(&notes("built by hand,\n\tsee the wiki")).is_ok());
        assert!(check(&notes(&"x".repeat(NOTES))).is_ok());
        assert!(check(&notes(&"x".repeat(NOTES + 1))).is_err());
        assert!(check(&notes("a\0b")).is_err());
        assert!(check(&label("team/name.x_y-z", "Ä b = c")).is_ok());
        assert!(check(&label(&"k".repeat(KEY), &"v".repeat(VALUE))).is_ok());
        for (key, value) in [("", "v"), ("a=b", "v"), ("ä", "v"), ("a b", "v"), ("k", "a\nb")] {
            assert!(check(&label(key, value)).is_err(), "{key:?} {value:?}");
        }
        assert!(check(&label(&"k".repeat(KEY + 1), "v")).is_err());
        assert!(check(&label("k", &"v".repeat(VALUE + 1))).is_err());
    }

    #[test]
    fn what_stays_is_not_told() {
        assert_eq!(detail(&VersionChange::default()), json!({}));
        let change = VersionChange { pinned: Some(false), ..label("env", "prod") };
        assert_eq!(detail(&change), json!({ "labels": { "env": "prod" }, "pinned": false }));
    }
}
