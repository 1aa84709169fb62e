//! Labels, and questions about many apps at once, on both databases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::batch::{AppRef, BatchFilter};
use kkartifact_model::api::channel::MoveAction;
use kkartifact_model::api::job::JobState;
use kkartifact_model::api::version::{BuildInfo, Version, VersionState};
use kkartifact_model::job::Job;
use kkartifact_model::token::TokenText;
use kkartifact_model::{ChunkId, ManifestDigest, Permissions, TreeDigest};
use kkartifact_store::{
    Actor, AppId, AppRow, AuditKey, Ending, JobId, LabelFilter, NewBatchLine, NewJob, NewTokenRow,
    NewVersion, PageQuery, PrincipalId, Tx, VersionFilter, VersionId, batch_lane,
};
use kkartifact_testkit::{TestDatabase, on_both_databases};

on_both_databases! {
    versions_are_listed_by_label,
    apps_are_found_by_their_names_in_the_order_asked,
    the_newest_versions_of_many_apps_are_found_together,
    lines_are_made_once_and_read_in_order,
    each_query_of_one_is_counted_by_the_next,
    the_oldest_answer_of_one_is_forgotten,
}

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05.000006Z".parse().unwrap()
}

const ANY: BatchFilter = BatchFilter { limit: 2, channel: None, label: None, git_commit: None };

async fn token(tx: &mut Tx) -> PrincipalId {
    let text = TokenText::from_random([1; 10], [1; 20]);
    let row = NewTokenRow {
        name: "t",
        token_id: text.id(),
        secret_hash: "hash",
        owner: None,
        made_by: None,
        personal: false,
        expires_at: None,
        permissions: Permissions::ALL,
        scopes: &[(None, None)],
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

/// Versions `v0`, `v1` and so on, of commits `c0`, `c1` and so on, a minute apart.
async fn versions(tx: &mut Tx, app: AppId, principal: PrincipalId, count: i32) -> Vec<VersionId> {
    let mut ids = Vec::new();
    for i in 0..count {
        let digest = *ChunkId::of(&i.to_le_bytes()).as_bytes();
        let new = NewVersion {
            app_id: app,
            name: format!("v{i}").parse().unwrap(),
            tree_digest: TreeDigest::from_bytes(digest),
            manifest_digest: ManifestDigest::from_bytes(digest),
            manifest_root: ChunkId::from_bytes(digest),
            meta_digest: ChunkId::from_bytes(digest),
            entry_count: 1,
            file_count: 1,
            bytes: 1,
            build: BuildInfo { git_commit: Some(format!("c{i}")), ..BuildInfo::default() },
            created_by: principal,
            created_by_name: "t".into(),
        };
        ids.push(tx.insert_version(&new, now() + TimeDelta::minutes(i.into())).await.unwrap());
    }
    ids
}

fn names(versions: &[Version]) -> Vec<&str> {
    versions.iter().map(|version| version.version.as_str()).collect()
}

fn label(text: &str) -> VersionFilter {
    VersionFilter { label: Some(LabelFilter::from(text)), ..VersionFilter::default() }
}

async fn versions_are_listed_by_label(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let web = app(&mut tx, "shop", "web").await;
    let principal = token(&mut tx).await;
    let ids = versions(&mut tx, web.id, principal, 3).await;
    for (id, value) in [(ids[0], "prod"), (ids[1], "test"), (ids[1], "stage")] {
        tx.set_version_label(id, "env", Some(value)).await.unwrap();
    }
    tx.set_version_label(ids[1], "team", Some("")).await.unwrap();
    let actor = Actor { id: Some(principal), ..Actor::system("t", &AuditKey::derive(b"test")) };
    for channel in ["stable", "edge"] {
        let channel = channel.parse().unwrap();
        tx.move_channel(web.id, &channel, ids[1], MoveAction::Promote, &actor, now()).await.unwrap();
    }
    tx.annotate_version(ids[0], "the first one", true, true).await.unwrap();

    let all = tx.list_versions(&web, &VersionFilter::default(), PageQuery::default()).await.unwrap();
    assert_eq!(names(&all.items), ["v2", "v1", "v0"]);
    let channels: Vec<_> = all.items[1].channels.iter().map(ToString::to_string).collect();
    assert_eq!(channels, ["edge", "stable"]);
    let labels = [("env".to_owned(), "stage".to_owned()), ("team".to_owned(), String::new())];
    assert_eq!(all.items[1].labels, labels.into());
    let first = &all.items[2];
    assert_eq!((first.notes.as_str(), first.pinned, first.legal_hold), ("the first one", true, true));
    assert!(all.items[0].labels.is_empty() && all.items[0].channels.is_empty());

    for (text, expected) in [
        ("env", vec!["v1", "v0"]),
        ("env=prod", vec!["v0"]),
        ("env=test", vec![]),
        ("team=", vec!["v1"]),
        ("Env", vec![]),
    ] {
        let page = tx.list_versions(&web, &label(text), PageQuery::default()).await.unwrap();
        assert_eq!((names(&page.items), page.total), (expected.clone(), expected.len() as u64), "{text}");
    }
    assert_eq!(tx.count_version_labels(ids[1]).await.unwrap(), 2);
    tx.set_version_label(ids[1], "env", None).await.unwrap();
    let left = tx.version(ids[1]).await.unwrap().unwrap();
    assert_eq!(tx.describe_version(left).await.unwrap().labels.len(), 1);
}

async fn apps_are_found_by_their_names_in_the_order_asked(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let web = app(&mut tx, "shop", "web").await;
    let other = app(&mut tx, "wiki", "web").await;
    let gone = app(&mut tx, "shop", "gone").await;
    tx.delete_app(gone.id, now()).await.unwrap();
    let asked: Vec<_> = [
        ("wiki", "web"),
        ("a/b", "web"),
        ("shop", "gone"),
        ("shop", "web"),
        ("shop", "a\0b"),
        ("shop", "WEB"),
        ("shop", "web"),
    ]
    .map(|(project, app)| AppRef { project: project.into(), app: app.into() })
    .into();
    let found = tx.find_apps(&asked).await.unwrap();
    let (web, other) = (Some((web.project_id, web.id)), Some((other.project_id, other.id)));
    assert_eq!(found, [other, None, None, web, None, None, web]);
    assert!(tx.find_apps(&[]).await.unwrap().is_empty());
}

async fn the_newest_versions_of_many_apps_are_found_together(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let principal = token(&mut tx).await;
    let mut apps = Vec::new();
    for (name, count) in [("a", 4), ("b", 1), ("c", 0)] {
        let row = app(&mut tx, "shop", name).await;
        apps.push((row.id, versions(&mut tx, row.id, principal, count).await));
    }
    let (a, of_a) = (apps[0].0, apps[0].1.clone());
    let ids: Vec<_> = apps.iter().map(|(id, _)| *id).chain([a]).collect();
    tx.delete_version(of_a[3], now()).await.unwrap();
    tx.set_version_state(of_a[2], VersionState::Quarantined).await.unwrap();
    tx.set_version_label(of_a[0], "env", Some("prod")).await.unwrap();
    let actor = Actor { id: Some(principal), ..Actor::system("t", &AuditKey::derive(b"test")) };
    let stable = "stable".parse().unwrap();
    tx.move_channel(a, &stable, of_a[1], MoveAction::Promote, &actor, now()).await.unwrap();

    let found = tx.newest_versions(&ids, &ANY).await.unwrap();
    assert_eq!(found.len(), 2, "an app without versions is absent");
    assert_eq!(names(&found[&a]), ["v2", "v1"], "seen though quarantined, but not deleted ones");
    assert_eq!(names(&found[&apps[1].0]), ["v0"]);
    assert_eq!(found[&a][1].channels, std::slice::from_ref(&stable));

    let of = |filter: BatchFilter| BatchFilter { limit: 10, ..filter };
    for (filter, expected) in [
        (of(ANY), vec!["v2", "v1", "v0"]),
        (of(BatchFilter { channel: Some(stable), ..ANY }), vec!["v1"]),
        (of(BatchFilter { label: Some("env=prod".into()), ..ANY }), vec!["v0"]),
        (of(BatchFilter { git_commit: Some("c2".into()), ..ANY }), vec!["v2"]),
    ] {
        let found = tx.newest_versions(&[a], &filter).await.unwrap();
        assert_eq!(names(&found[&a]), expected, "{filter:?}");
    }
    let none = of(BatchFilter { label: Some("env=test".into()), ..ANY });
    assert!(tx.newest_versions(&ids, &none).await.unwrap().is_empty());
    assert!(tx.newest_versions(&[], &ANY).await.unwrap().is_empty());
}

async fn lines_are_made_once_and_read_in_order(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let (web, gone) = (app(&mut tx, "shop", "web").await, app(&mut tx, "shop", "gone").await);
    let query = Job::QueryVersions(ANY);
    let job = tx.insert_job(&NewJob::new(&query, now()), now()).await.unwrap().unwrap();
    let line = |ordinal, app: Option<&AppRow>, text: &str| NewBatchLine {
        ordinal,
        app: app.map(|app| app.id),
        line: text.into(),
    };
    // As the text of a name with a NUL stands in JSON.
    let refused = r#"{"app":"a\u0000b"}"#;
    let first = [line(0, Some(&web), ""), line(1, None, refused), line(2, Some(&gone), "")];
    tx.put_batch_lines(job, &first).await.unwrap();
    tx.put_batch_lines(job, &[]).await.unwrap();
    assert_eq!(tx.count_batch_lines(job).await.unwrap(), 3);
    let open = tx.open_batch_lines(job, -1, 10).await.unwrap();
    let shown: Vec<_> = open.iter().map(|open| (open.ordinal, open.app_id, open.app.as_str())).collect();
    assert_eq!(shown, [(0, web.id, "web"), (2, gone.id, "gone")]);
    assert_eq!(tx.open_batch_lines(job, 0, 10).await.unwrap().len(), 1);

    tx.put_batch_lines(job, &[line(0, Some(&web), "{}"), line(2, Some(&gone), "{}")]).await.unwrap();
    assert!(tx.open_batch_lines(job, -1, 10).await.unwrap().is_empty());
    tx.delete_app(gone.id, now()).await.unwrap();
    let lines = tx.batch_lines(job, -1, 10).await.unwrap();
    let shown: Vec<_> = lines.iter().map(|l| (l.ordinal, l.project_id, l.gone, l.line.as_str())).collect();
    let project = Some(web.project_id);
    assert_eq!(shown, [(0, project, false, "{}"), (1, None, false, refused), (2, project, true, "{}")]);
    assert_eq!(tx.batch_lines(job, 1, 10).await.unwrap().len(), 1);
}

/// Queues a query of somebody.
async fn ask(tx: &mut Tx, principal: PrincipalId) -> JobId {
    let (job, lane) = (Job::QueryVersions(ANY), batch_lane(principal));
    let new = NewJob { principal: Some(principal), lane: &lane, ..NewJob::new(&job, now()) };
    tx.insert_job(&new, now()).await.unwrap().unwrap()
}

async fn each_query_of_one_is_counted_by_the_next(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let principal = token(&mut tx).await;
    tx.commit().await.unwrap();

    let mut first = database.begin().await.unwrap();
    assert_eq!(first.count_batch_queries(principal).await.unwrap(), 0);
    let again = database.clone();
    let mut second = tokio::spawn(async move {
        let mut tx = again.begin().await.unwrap();
        tx.count_batch_queries(principal).await.unwrap()
    });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
    assert!(early.is_err(), "it does not wait for what the first one queues: {early:?}");
    ask(&mut first, principal).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), 1);
}

async fn the_oldest_answer_of_one_is_forgotten(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let asker = token(&mut tx).await;
    let stranger = tx.insert_service_account("ci", "sa_ci_x", "hash", None, now()).await.unwrap();
    tx.commit().await.unwrap();
    let mut jobs = Vec::new();
    for (principal, state) in [
        (stranger, JobState::Succeeded),
        (asker, JobState::Succeeded),
        (asker, JobState::Dead),
        (asker, JobState::Succeeded),
        (asker, JobState::Queued),
        (stranger, JobState::Succeeded),
    ] {
        let mut tx = database.begin().await.unwrap();
        let id = ask(&mut tx, principal).await;
        let line = NewBatchLine { ordinal: 0, app: None, line: "{}".into() };
        tx.put_batch_lines(id, &[line]).await.unwrap();
        if state != JobState::Queued {
            let row = tx.claim_jobs(&[id], "one", now()).await.unwrap().pop().unwrap();
            let ending = Ending { state, failed: false, error: None, result: None, run_at: now() };
            assert!(tx.end_job(&row, &ending, now()).await.unwrap());
        }
        tx.commit().await.unwrap();
        jobs.push(id);
    }
    let mut tx = database.begin().await.unwrap();
    assert_eq!(tx.count_batch_queries(asker).await.unwrap(), 1);
    assert_eq!(tx.count_batch_queries(stranger).await.unwrap(), 0);
    assert!(!tx.forget_batch_query(asker, 3).await.unwrap());
    assert!(tx.forget_batch_query(asker, 1).await.unwrap());
    assert!(tx.forget_batch_query(asker, 1).await.unwrap());
    assert!(!tx.forget_batch_query(asker, 1).await.unwrap());
    let mut left = Vec::new();
    for job in jobs {
        left.push((tx.find_job(job).await.unwrap().is_some(), tx.count_batch_lines(job).await.unwrap()));
    }
    assert_eq!(left, [(true, 1), (false, 0), (false, 0), (true, 1), (true, 1), (true, 1)]);
}
