//! What retention takes and what it leaves, and what else gets old, on both databases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::channel::MoveAction;
use kkartifact_model::api::job::JobState;
use kkartifact_model::api::retention::{Expendable, Retention, RetentionAction, SETTING};
use kkartifact_model::api::upload::UploadState;
use kkartifact_model::api::version::{BuildInfo, VersionState};
use kkartifact_model::event::EventKind;
use kkartifact_model::job::Job;
use kkartifact_model::token::TokenText;
use kkartifact_model::{ChunkId, ManifestDigest, Permissions, TreeDigest, VersionRef};
use kkartifact_store::{
    Actor, AppId, AppRow, AuditKey, Ending, EndingKind, ExpendablePlace, JobId, NewEvent, NewJob,
    NewTokenRow, NewUpload, NewVersion, OldJobs, PageQuery, PrincipalId, ProjectId, RetentionRule,
    StoreError, Tx, VersionFilter, VersionId,
};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use serde_json::json;
use uuid::Uuid;

on_both_databases! {
    what_something_relies_on_stays,
    what_is_young_stays,
    what_is_archived_is_out_of_use_and_comes_back_as_it_was,
    apps_are_gone_through_in_pages,
    the_setting_is_read_as_it_was_written,
    old_rows_go_and_the_last_change_stays,
    ends_are_announced_once_until_there_is_another,
}

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05.000006Z".parse().unwrap()
}

async fn token(tx: &mut Tx, seed: u8, scopes: &[(Option<ProjectId>, Option<AppId>)]) -> PrincipalId {
    let text = TokenText::from_random([seed; 10], [seed; 20]);
    let row = NewTokenRow {
        name: "t",
        token_id: text.id(),
        secret_hash: "hash",
        owner: None,
        made_by: None,
        personal: false,
        expires_at: Some(now() + TimeDelta::days(3)),
        permissions: Permissions::ALL,
        scopes,
    };
    tx.insert_token(&row, now()).await.unwrap()
}

async fn app(tx: &mut Tx, project: &str, name: &str) -> AppRow {
    let (project, name) = (project.parse().unwrap(), name.parse().unwrap());
    tx.insert_project(&project, "", now()).await.unwrap();
    let row = tx.find_project(&project).await.unwrap().unwrap();
    tx.insert_app(row.id, &name, "", now()).await.unwrap();
    tx.find_app(&project, &name).await.unwrap().unwrap()
}

/// Versions `v0`, `v1` and so on, an hour apart: the last one at `now`.
async fn versions(tx: &mut Tx, app: &AppRow, principal: PrincipalId, count: i32) -> Vec<VersionId> {
    let mut ids = Vec::new();
    for i in 0..count {
        let digest = *ChunkId::of(&i.to_le_bytes()).as_bytes();
        let new = NewVersion {
            app_id: app.id,
            name: format!("v{i}").parse().unwrap(),
            tree_digest: TreeDigest::from_bytes(digest),
            manifest_digest: ManifestDigest::from_bytes(digest),
            manifest_root: ChunkId::from_bytes(digest),
            meta_digest: ChunkId::from_bytes(digest),
            entry_count: 1,
            file_count: 1,
            bytes: 1,
            build: BuildInfo::default(),
            created_by: principal,
            created_by_name: "t".into(),
        };
        let at = now() - TimeDelta::hours((count - 1 - i).into());
        ids.push(tx.insert_version(&new, at).await.unwrap());
    }
    ids
}

async fn upload_told_by(tx: &mut Tx, app: &AppRow, principal: PrincipalId, base: VersionId) -> Uuid {
    let id = Uuid::new_v4();
    let version = "next".parse().unwrap();
    let new = NewUpload {
        id,
        app: app.id,
        version: &version,
        principal,
        principal_name: "t",
        tree_digest: None,
        base: Some(base),
        build: &BuildInfo::default(),
        agent: None,
        expires_at: now() + TimeDelta::hours(1),
    };
    tx.insert_upload(&new, now()).await.unwrap();
    id
}

/// The names of what may go of one app.
async fn expendable(tx: &mut Tx, app: &AppRow, rule: &RetentionRule, limit: u32) -> Vec<String> {
    let rows = tx.expendable_of(rule, app.id, limit).await.unwrap();
    rows.into_iter().map(|row| row.name.to_string()).collect()
}

async fn what_something_relies_on_stays(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let web = app(&mut tx, "shop", "web").await;
    let principal = token(&mut tx, 1, &[(None, None)]).await;
    let ids = versions(&mut tx, &web, principal, 12).await;
    let actor = Actor { id: Some(principal), ..Actor::system("t", &AuditKey::derive(b"test")) };
    let stable = "stable".parse().unwrap();
    for id in [ids[0], ids[1]] {
        tx.move_channel(web.id, &stable, id, MoveAction::Promote, &actor, now()).await.unwrap();
    }
    tx.record_deployment("agent", "host", web.id, "/srv", ids[2], now()).await.unwrap();
    tx.annotate_version(ids[3], "", true, false).await.unwrap();
    tx.annotate_version(ids[4], "", false, true).await.unwrap();
    upload_told_by(&mut tx, &web, principal, ids[5]).await;
    let aborted = upload_told_by(&mut tx, &web, principal, ids[6]).await;
    assert!(tx.close_upload(aborted, UploadState::Aborted, None).await.unwrap());
    tx.set_version_state(ids[7], VersionState::Quarantined).await.unwrap();
    tx.delete_version(ids[8], now()).await.unwrap();

    let rule = RetentionRule::newest(2);
    assert_eq!(expendable(&mut tx, &web, &rule, 100).await, ["v6", "v9"], "v10 and v11 are the newest");
    assert_eq!(expendable(&mut tx, &web, &rule, 1).await, ["v6"], "the oldest first");
    let protected = tx.protected_of(&rule, web.id, 100).await.unwrap();
    let protected: Vec<_> = protected.iter().map(ToString::to_string).collect();
    assert_eq!(protected, ["v0", "v1", "v2", "v3", "v4", "v5"]);
    assert!(expendable(&mut tx, &web, &RetentionRule::newest(12), 100).await.is_empty());

    // A channel that has moved on twice, and a pin that was taken out, protect no longer.
    tx.move_channel(web.id, &stable, ids[11], MoveAction::Promote, &actor, now()).await.unwrap();
    tx.annotate_version(ids[3], "", false, false).await.unwrap();
    assert_eq!(expendable(&mut tx, &web, &rule, 100).await, ["v0", "v3", "v6", "v9"]);

    tx.delete_app(web.id, now()).await.unwrap();
    assert!(expendable(&mut tx, &web, &rule, 100).await.is_empty());
}

async fn what_is_young_stays(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let web = app(&mut tx, "shop", "web").await;
    let principal = token(&mut tx, 1, &[(None, None)]).await;
    versions(&mut tx, &web, principal, 50).await;
    // The newest one is of now, the next one an hour old to the microsecond: neither is older than an hour.
    let rule = |keep_days| {
        let retention = Retention { keep: Some(1), keep_days, ..Retention::default() };
        RetentionRule::of(&retention, now()).unwrap()
    };
    let old = expendable(&mut tx, &web, &rule(0), 100).await;
    assert_eq!((old.len(), old.last().map(String::as_str)), (48, Some("v47")));
    let old = expendable(&mut tx, &web, &rule(2), 100).await;
    assert_eq!(old, ["v0"]);
    assert!(expendable(&mut tx, &web, &rule(36_500), 100).await.is_empty());
}

/// The names of an app's versions that are there, or of the others, newest first; and their states.
async fn listed(tx: &mut Tx, app: &AppRow, deleted: bool) -> Vec<(String, VersionState)> {
    let filter = VersionFilter { deleted, ..VersionFilter::default() };
    let page = tx.list_versions(app, &filter, PageQuery::default()).await.unwrap();
    page.items.into_iter().map(|version| (version.version.to_string(), version.state)).collect()
}

async fn what_is_archived_is_out_of_use_and_comes_back_as_it_was(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let web = app(&mut tx, "shop", "web").await;
    let principal = token(&mut tx, 1, &[(None, None)]).await;
    let ids = versions(&mut tx, &web, principal, 5).await;
    tx.set_version_state(ids[1], VersionState::Quarantined).await.unwrap();
    for id in [ids[0], ids[1], ids[4]] {
        tx.archive_version(id).await.unwrap();
    }
    tx.delete_version(ids[3], now()).await.unwrap();

    let row = tx.version(ids[0]).await.unwrap().unwrap();
    assert_eq!((row.state, row.revision, row.deleted_at), (VersionState::Archived, 2, None));
    let latest = tx.find_version(web.id, &VersionRef::Latest).await.unwrap().unwrap();
    assert_eq!(latest.id, ids[2]);
    let (published, archived) = (VersionState::Published, VersionState::Archived);
    assert_eq!(listed(&mut tx, &web, false).await, [("v2".to_owned(), published)]);
    let others = [("v4", archived), ("v3", VersionState::Deleted), ("v1", archived), ("v0", archived)];
    assert_eq!(listed(&mut tx, &web, true).await, others.map(|(name, state)| (name.to_owned(), state)));
    assert!(expendable(&mut tx, &web, &RetentionRule::newest(1), 100).await.is_empty());

    // Deleted, it is like any other that was.
    tx.delete_version(ids[4], now()).await.unwrap();
    let row = tx.version(ids[4]).await.unwrap().unwrap();
    assert_eq!((row.state, row.deleted_at), (VersionState::Deleted, Some(now())));
    for id in [ids[0], ids[1], ids[4]] {
        tx.restore_version(id, now()).await.unwrap();
    }
    let back = [("v4", published), ("v2", published), ("v1", VersionState::Quarantined), ("v0", published)];
    assert_eq!(listed(&mut tx, &web, false).await, back.map(|(name, state)| (name.to_owned(), state)));
    // Nothing of it is left: deleted again, it is not archived.
    tx.delete_version(ids[0], now()).await.unwrap();
    assert_eq!(tx.version(ids[0]).await.unwrap().unwrap().state, VersionState::Deleted);
}

async fn apps_are_gone_through_in_pages(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let principal = token(&mut tx, 1, &[(None, None)]).await;
    let mut apps = Vec::new();
    for (project, name) in [("shop", "a"), ("shop", "b"), ("gone", "c"), ("shop", "d"), ("wiki", "e")] {
        let row = app(&mut tx, project, name).await;
        versions(&mut tx, &row, principal, 3).await;
        apps.push(row);
    }
    tx.delete_app(apps[1].id, now()).await.unwrap();
    tx.delete_project(apps[2].project_id, now()).await.unwrap();

    let rule = RetentionRule::newest(1);
    let last = apps[4].id;
    assert_eq!(tx.last_of_apps(AppId(0), 2).await.unwrap(), Some(apps[1].id));
    assert_eq!(tx.last_of_apps(apps[1].id, 100).await.unwrap(), Some(last));
    assert_eq!(tx.last_of_apps(last, 2).await.unwrap(), None);
    let found = tx.apps_with_expendable(&rule, AppId(0), last).await.unwrap();
    assert_eq!(found, [apps[0].id, apps[3].id, last]);
    let found = tx.apps_with_expendable(&rule, apps[0].id, apps[3].id).await.unwrap();
    assert_eq!(found, [apps[3].id]);

    let (mut seen, mut after) = (Vec::new(), ExpendablePlace::START);
    loop {
        let rows = tx.expendable(&rule, &after, last, 2).await.unwrap();
        let Some(place) = rows.last().map(kkartifact_store::ExpendableRow::place) else { break };
        after = ExpendablePlace::decode(&place.encode()).unwrap();
        seen.extend(rows.into_iter().map(|row| {
            let item = Expendable::from(row);
            format!("{}/{}/{}", item.project, item.app, item.version)
        }));
    }
    assert_eq!(seen, ["shop/a/v0", "shop/a/v1", "shop/d/v0", "shop/d/v1", "wiki/e/v0", "wiki/e/v1"]);
    let behind = ExpendablePlace::behind(apps[3].id);
    assert_eq!(tx.expendable(&rule, &behind, last, 100).await.unwrap().len(), 2);
}

async fn the_setting_is_read_as_it_was_written(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    assert_eq!(tx.retention().await.unwrap(), Retention::default());
    let retention = Retention { keep: Some(5), keep_days: 30, action: RetentionAction::Archive };
    tx.put_setting(SETTING, &serde_json::to_value(retention).unwrap(), now()).await.unwrap();
    assert_eq!(tx.retention().await.unwrap(), retention);
    // As releases wrote it that could only delete.
    tx.put_setting(SETTING, &json!({ "keep": 5, "keep_days": 30 }), now()).await.unwrap();
    let deletes = Retention { action: RetentionAction::Delete, ..retention };
    assert_eq!(tx.retention().await.unwrap(), deletes);
    tx.put_setting(SETTING, &json!("five"), now()).await.unwrap();
    assert!(matches!(tx.retention().await, Err(StoreError::Corrupt(_))));
}

/// A job that was over at a time.
async fn job(tx: &mut Tx, job: &Job, state: JobState, at: DateTime<Utc>) -> JobId {
    let id = tx.insert_job(&NewJob::new(job, at), at).await.unwrap().unwrap();
    let row = tx.claim_jobs(&[id], "one", at).await.unwrap().pop().unwrap();
    let failed = state != JobState::Succeeded;
    let ending = Ending { state, failed, error: None, result: None, run_at: at };
    assert!(tx.end_job(&row, &ending, at).await.unwrap());
    id
}

async fn old_rows_go_and_the_last_change_stays(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let days = |days| now() - TimeDelta::days(days);
    let sweep = Job::SweepUploads {};
    let mut ids = Vec::new();
    for (state, age) in [
        (JobState::Succeeded, 8),
        (JobState::Failed, 29),
        (JobState::Failed, 8),
        (JobState::Succeeded, 6),
        (JobState::Succeeded, 9),
    ] {
        ids.push(job(&mut tx, &sweep, state, days(age)).await);
        tx.commit().await.unwrap();
        tx = database.begin().await.unwrap();
    }
    let old = OldJobs { done_before: days(7), failed_before: days(28), queries: false };
    assert_eq!(tx.delete_old_jobs(OldJobs { queries: true, ..old }, 10).await.unwrap(), 0);
    assert_eq!(tx.delete_old_jobs(old, 1).await.unwrap(), 1);
    assert_eq!(tx.delete_old_jobs(old, 10).await.unwrap(), 1);
    let mut left = Vec::new();
    for id in &ids {
        left.push(tx.find_job(*id).await.unwrap().is_some());
    }
    assert_eq!(left, [false, false, true, true, true], "the last one is old too, but changed last");

    let web = app(&mut tx, "shop", "web").await;
    for at in [days(401), days(399)] {
        let event = NewEvent {
            kind: EventKind::Push,
            app: Some((web.project_id, web.id)),
            project: None,
            payload: json!({}),
            trace_parent: None,
        };
        tx.insert_event(&event, at).await.unwrap();
    }
    assert_eq!(tx.delete_old_events(days(400), 10).await.unwrap(), 1);
    let left = tx.events_after(web.id, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|event| event.seq).collect::<Vec<_>>(), [2]);

    let principal = token(&mut tx, 1, &[(None, None)]).await;
    let base = versions(&mut tx, &web, principal, 1).await[0];
    let open = upload_told_by(&mut tx, &web, principal, base).await;
    let closed = upload_told_by(&mut tx, &web, principal, base).await;
    assert!(tx.close_upload(closed, UploadState::Aborted, None).await.unwrap());
    assert_eq!(tx.delete_closed_uploads(now() + TimeDelta::hours(1), 10).await.unwrap(), 0);
    assert_eq!(tx.delete_closed_uploads(now() + TimeDelta::hours(2), 10).await.unwrap(), 1);
    assert!(tx.find_upload(open, principal).await.unwrap().is_some());
}

async fn ends_are_announced_once_until_there_is_another(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let (web, wiki) = (app(&mut tx, "shop", "web").await, app(&mut tx, "wiki", "main").await);
    let (shop, in_web) = ((Some(web.project_id), None), (Some(web.project_id), Some(web.id)));
    let one = token(&mut tx, 1, &[shop, in_web]).await;
    let two = token(&mut tx, 2, &[shop, (Some(wiki.project_id), None)]).await;
    let three = token(&mut tx, 3, &[(None, None)]).await;
    let until = now() + TimeDelta::days(7);
    let found = tx.endings(EndingKind::Token, now(), until, PrincipalId(0), 10).await.unwrap();
    let shown: Vec<_> = found.iter().map(|row| (row.principal_id, row.project_id)).collect();
    assert_eq!(shown, [(one, Some(web.project_id)), (two, None), (three, None)]);
    assert_eq!(found[0].expires_at, now() + TimeDelta::days(3));
    assert_eq!(tx.endings(EndingKind::Token, now(), until, one, 1).await.unwrap()[0].principal_id, two);
    let soon = now() + TimeDelta::days(2);
    assert!(tx.endings(EndingKind::Token, now(), soon, PrincipalId(0), 10).await.unwrap().is_empty());
    assert!(
        tx.endings(EndingKind::Token, until, until, PrincipalId(0), 10).await.unwrap().is_empty(),
        "past"
    );
    assert!(tx.announce_ending(EndingKind::Token, &found[0]).await.unwrap());
    assert!(!tx.announce_ending(EndingKind::Token, &found[0]).await.unwrap(), "once");
    let left = tx.endings(EndingKind::Token, now(), until, PrincipalId(0), 10).await.unwrap();
    assert_eq!(left.len(), 2);

    let kind = EndingKind::ServiceAccount;
    let end = Some(now() + TimeDelta::days(1));
    let account = tx.insert_service_account("ci", "sa_ci_x", "hash", end, now()).await.unwrap();
    let found = tx.endings(kind, now(), until, PrincipalId(0), 10).await.unwrap();
    assert_eq!(
        (found[0].principal_id, found[0].id.as_str(), found[0].project_id),
        (account, "sa_ci_x", None)
    );
    assert!(tx.announce_ending(kind, &found[0]).await.unwrap());
    assert!(tx.endings(kind, now(), until, PrincipalId(0), 10).await.unwrap().is_empty());
    let end = Some(now() + TimeDelta::days(5));
    tx.set_client_secret(account, "hash", end).await.unwrap();
    assert!(!tx.announce_ending(kind, &found[0]).await.unwrap(), "that end is no longer coming");
    let again = tx.endings(kind, now(), until, PrincipalId(0), 10).await.unwrap();
    assert_eq!(again.iter().map(|row| Some(row.expires_at)).collect::<Vec<_>>(), [end]);
}
