//! The store's questions and answers, the same on both databases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::channel::MoveAction;
use kkartifact_model::api::upload::UploadState;
use kkartifact_model::api::version::BuildInfo;
use kkartifact_model::event::EventKind;
use kkartifact_model::token::TokenText;
use kkartifact_model::{ChunkId, FileDigest, ManifestDigest, Permissions, TreeDigest, VersionRef};
use kkartifact_store::{
    Actor, AppRow, AuditKey, Database, NewAudit, NewChunk, NewEvent, NewPack, NewTokenRow, NewUpload,
    NewVersion, Outcome, PageQuery, PrincipalId, Reach, StoreError, Tx, VersionFilter, VersionId,
    VersionPack,
};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use uuid::Uuid;

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05.000006Z".parse().unwrap()
}

/// A project `shop`, an app `web`, and a token that may do everything.
async fn with_app(database: &Database) -> (AppRow, PrincipalId) {
    let mut tx = database.begin().await.unwrap();
    let project = tx.insert_project(&"shop".parse().unwrap(), "", now()).await.unwrap().unwrap();
    assert!(tx.insert_app(project.id, &"web".parse().unwrap(), "", now()).await.unwrap());
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let principal = token(&mut tx, 1, &[(None, None)]).await;
    tx.commit().await.unwrap();
    (app, principal)
}

async fn token(
    tx: &mut Tx,
    seed: u8,
    scopes: &[(Option<kkartifact_store::ProjectId>, Option<kkartifact_store::AppId>)],
) -> PrincipalId {
    let text = TokenText::from_random([seed; 10], [seed; 20]);
    let row = NewTokenRow {
        name: "t",
        token_id: text.id(),
        secret_hash: "hash",
        owner: None,
        made_by: None,
        personal: false,
        expires_at: Some(now() + TimeDelta::hours(1)),
        permissions: Permissions::ALL,
        scopes,
    };
    tx.insert_token(&row, now()).await.unwrap()
}

fn version(app: &AppRow, name: &str, principal: PrincipalId) -> NewVersion {
    let digest = *ChunkId::of(name.as_bytes()).as_bytes();
    NewVersion {
        app_id: app.id,
        name: name.parse().unwrap(),
        tree_digest: TreeDigest::from_bytes(digest),
        manifest_digest: ManifestDigest::from_bytes(digest),
        manifest_root: ChunkId::from_bytes(digest),
        meta_digest: ChunkId::from_bytes(digest),
        entry_count: 3,
        file_count: 2,
        bytes: 1 << 40,
        build: BuildInfo { git_commit: Some(format!("commit-{name}")), ..BuildInfo::default() },
        created_by: principal,
        created_by_name: "t".into(),
    }
}

async fn what_is_not_committed_never_happened(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    tx.insert_project(&"p".parse().unwrap(), "", now()).await.unwrap().unwrap();
    drop(tx);
    let mut tx = database.read().await.unwrap();
    assert!(tx.find_project(&"p".parse().unwrap()).await.unwrap().is_none());
}

async fn names_are_given_out_once(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    assert!(tx.insert_project(&"shop".parse().unwrap(), "", now()).await.unwrap().is_none());
    assert!(!tx.insert_app(app.project_id, &app.name, "", now()).await.unwrap());
    tx.insert_version(&version(&app, "v1", principal), now()).await.unwrap();
    let taken = tx.insert_version(&version(&app, "v1", principal), now()).await;
    assert!(matches!(taken, Err(StoreError::Conflict)));
}

async fn lists_are_paged_by_cursor_without_skipping_or_repeating(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    for i in 0..25i64 {
        // Some share their time: the id decides.
        let at = now() + TimeDelta::milliseconds(i / 3);
        tx.insert_version(&version(&app, &format!("v{i}"), principal), at).await.unwrap();
    }
    let (mut seen, mut page) = (Vec::new(), PageQuery::first(10));
    loop {
        let found = tx.list_versions(&app, &VersionFilter::default(), page).await.unwrap();
        assert_eq!(found.total, 25 + seen.len() as u64 / 10);
        seen.extend(found.items.into_iter().map(|version| version.version.to_string()));
        let Some(cursor) = found.next_cursor else { break };
        assert!(found.has_more);
        page.after = kkartifact_store::Cursor::decode(&cursor).unwrap();
        // Something new at the top of the list moves nothing below.
        let name = format!("new{}", seen.len());
        tx.insert_version(&version(&app, &name, principal), now() + TimeDelta::hours(1)).await.unwrap();
    }
    let expected: Vec<_> = (0..25).rev().map(|i| format!("v{i}")).collect();
    assert_eq!(seen, expected);

    let filter = VersionFilter { git_commit: Some("commit-v7".into()), ..VersionFilter::default() };
    let found = tx.list_versions(&app, &filter, PageQuery::default()).await.unwrap();
    assert_eq!((found.items.len(), found.total), (1, 1));
    let filter = VersionFilter { tree_digest: Some(found.items[0].tree_digest), ..VersionFilter::default() };
    assert_eq!(tx.list_versions(&app, &filter, PageQuery::default()).await.unwrap().total, 1);
    let skipped = PageQuery { offset: 24, ..PageQuery::first(10) };
    assert_eq!(tx.list_versions(&app, &VersionFilter::default(), skipped).await.unwrap().items.len(), 3);
}

async fn no_item_of_a_long_list_is_out_of_reach(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    for i in 0..520 {
        tx.insert_version(&version(&app, &format!("v{i}"), principal), now()).await.unwrap();
    }
    let filter = VersionFilter::default();
    let end = PageQuery { offset: 510, ..PageQuery::first(500) };
    assert_eq!(tx.list_versions(&app, &filter, end).await.unwrap().items.len(), 10);
    let (mut seen, mut query) = (std::collections::BTreeSet::new(), PageQuery::first(500));
    loop {
        let page = tx.list_versions(&app, &filter, query).await.unwrap();
        seen.extend(page.items.into_iter().map(|version| version.version.to_string()));
        let Some(next) = page.next_cursor else { break };
        query.after = kkartifact_store::Cursor::decode(&next).unwrap();
    }
    assert_eq!(seen.len(), 520);
}

async fn lists_show_only_what_is_within_reach(database: TestDatabase) {
    let database = database.open().await;
    let (app, _) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    tx.insert_app(app.project_id, &"api".parse().unwrap(), "", now()).await.unwrap();
    let other = tx.insert_project(&"other".parse().unwrap(), "", now()).await.unwrap().unwrap();
    let everything = Reach { everything: true, ..Reach::default() };
    let one_app = Reach { apps: vec![app.id.0], around: vec![app.project_id.0], ..Reach::default() };
    let one_project = Reach { projects: vec![other.id.0], ..Reach::default() };
    for (reach, projects, apps) in
        [(everything, 2, 2), (one_app, 1, 1), (one_project, 1, 0), (Reach::default(), 0, 0)]
    {
        assert_eq!(tx.list_projects(&reach, PageQuery::default()).await.unwrap().total, projects);
        let seen = tx.list_apps(&reach, app.project_id, PageQuery::default()).await.unwrap();
        assert_eq!(seen.items.len(), apps);
    }
}

async fn chunks_are_found_per_app_and_only_with_their_pack(database: TestDatabase) {
    let database = database.open().await;
    let (app, _) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    tx.insert_app(app.project_id, &"api".parse().unwrap(), "", now()).await.unwrap();
    let other = tx.find_app(&"shop".parse().unwrap(), &"api".parse().unwrap()).await.unwrap().unwrap();
    let element = tx.default_element(now()).await.unwrap();
    // More than one batch, and not a multiple of one.
    let ids: Vec<_> = (0..1234u32).map(|i| ChunkId::of(&i.to_le_bytes())).collect();
    let chunk = |(i, id): (u64, &ChunkId)| NewChunk {
        id: *id,
        offset: i * 10,
        stored_len: 10,
        len: 20,
        sha256: i.is_multiple_of(2).then(|| FileDigest::of(id.as_bytes())),
    };
    let chunks: Vec<_> = (0..).zip(&ids).map(chunk).collect();
    let key = Uuid::new_v4();
    let new = NewPack { key, element, project: app.project_id, app: app.id, size: 1 << 33, chunks: &chunks };
    let pack = tx.insert_pack(&new, now()).await.unwrap().unwrap();
    let again = tx.insert_pack(&new, now()).await.unwrap();
    assert_eq!(again, Some(pack), "recording a pack twice changes nothing");

    let mut asked = ids.clone();
    asked.push(ChunkId::of(b"nobody has this"));
    let found = tx.locate_chunks(app.id, &asked).await.unwrap();
    assert_eq!(found.len(), ids.len());
    let at = found[&ids[1001]];
    assert_eq!((at.pack, at.ordinal, at.offset, at.stored_len, at.len), (key, 1001, 10_010, 10, 20));
    assert_eq!((at.sha256, found[&ids[2]].sha256), (None, Some(FileDigest::of(ids[2].as_bytes()))));

    assert!(tx.locate_chunks(other.id, &asked).await.unwrap().is_empty(), "another app has nothing");
    let shared = tx.locate_chunks_in_project(app.project_id, other.id, &ids[..3]).await.unwrap();
    assert!(shared.len() == 3 && shared.values().all(|at| !at.own));
    tx.link_chunks(other.id, &shared.into_iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(tx.locate_chunks(other.id, &asked).await.unwrap().len(), 3);
    let mixed = tx.locate_chunks_in_project(app.project_id, other.id, &ids[..5]).await.unwrap();
    assert_eq!(mixed.values().filter(|at| at.own).count(), 3);
    assert_eq!(mixed.len(), 5);
    assert!(tx.lock_packs(&[pack]).await.unwrap().is_empty());
}

async fn channels_move_with_history_and_roll_back_one_by_one(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    let actor = Actor { id: Some(principal), ..Actor::system("t", &AuditKey::derive(b"test")) };
    let stable = "stable".parse().unwrap();
    let mut ids: Vec<VersionId> = Vec::new();
    for name in ["v1", "v2", "v3"] {
        ids.push(tx.insert_version(&version(&app, name, principal), now()).await.unwrap());
    }
    for id in &ids {
        tx.move_channel(app.id, &stable, *id, MoveAction::Promote, &actor, now()).await.unwrap();
    }
    let channel = tx.find_channel(app.id, &stable).await.unwrap().unwrap();
    assert_eq!(
        (channel.version_id, channel.previous_version_id, channel.revision),
        (ids[2], Some(ids[1]), 3)
    );
    assert_eq!(tx.rollback_target(&channel).await.unwrap(), Some(ids[1]));
    let back = tx.move_channel(app.id, &stable, ids[1], MoveAction::Rollback, &actor, now()).await.unwrap();
    assert_eq!(tx.rollback_target(&back).await.unwrap(), Some(ids[0]), "twice back is two versions back");
    let first = tx.move_channel(app.id, &stable, ids[0], MoveAction::Rollback, &actor, now()).await.unwrap();
    assert_eq!(tx.rollback_target(&first).await.unwrap(), None);
    let moves = tx.channel_moves(channel.id, i64::MAX, 10).await.unwrap();
    let names: Vec<_> = moves.iter().map(|m| m.version.to_string()).collect();
    assert_eq!(names, ["v1", "v2", "v3", "v2", "v1"]);
    let by_channel = tx.find_version(app.id, &VersionRef::Channel(stable)).await.unwrap().unwrap();
    assert_eq!(by_channel.id, ids[0]);
    // What is deleted is not gone back to.
    tx.delete_version(ids[1], now()).await.unwrap();
    let again =
        tx.move_channel(app.id, &"stable".parse().unwrap(), ids[2], MoveAction::Promote, &actor, now()).await;
    assert_eq!(tx.rollback_target(&again.unwrap()).await.unwrap(), Some(ids[0]));
}

async fn uploads_belong_to_their_principal_and_close_once(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    let stranger = token(&mut tx, 9, &[(None, None)]).await;
    let (id, name) = (Uuid::new_v4(), "v1".parse().unwrap());
    let expires_at = now() + TimeDelta::hours(1);
    let new = NewUpload {
        id,
        app: app.id,
        version: &name,
        principal,
        principal_name: "t",
        tree_digest: Some(TreeDigest::from_bytes([7; 32])),
        base: None,
        build: &BuildInfo::default(),
        agent: None,
        expires_at,
    };
    tx.insert_upload(&new, now()).await.unwrap();
    assert!(tx.find_upload(id, stranger).await.unwrap().is_none());
    let row = tx.find_upload(id, principal).await.unwrap().unwrap();
    assert!(row.is_open(now()) && !row.is_open(expires_at));
    assert_eq!(row.tree_digest(), Some(TreeDigest::from_bytes([7; 32])));
    let root = ChunkId::of(b"root");
    assert!(tx.set_upload_manifest(id, &root, expires_at).await.unwrap());
    assert_eq!(tx.find_upload(id, principal).await.unwrap().unwrap().manifest_root(), Some(root));
    assert!(tx.expired_uploads(now(), 10).await.unwrap().is_empty());
    assert_eq!(tx.expired_uploads(expires_at, 10).await.unwrap(), [id]);
    assert!(tx.close_upload(id, UploadState::Aborted, None).await.unwrap());
    assert!(!tx.close_upload(id, UploadState::Finished, None).await.unwrap());
    assert!(!tx.touch_upload(id, expires_at).await.unwrap());
}

async fn events_are_numbered_per_app_and_audit_rows_keep_names(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    for expected in 1..=3 {
        tx.lock_app(app.id).await.unwrap();
        let event = NewEvent {
            kind: EventKind::Push,
            app: Some((app.project_id, app.id)),
            project: None,
            payload: serde_json::json!({ "n": expected }),
            trace_parent: None,
        };
        assert_eq!(tx.insert_event(&event, now()).await.unwrap(), Some(expected));
    }
    let actor = Actor {
        id: Some(principal),
        address: Some("127.0.0.1".into()),
        ..Actor::system("t", &AuditKey::derive(b"test"))
    };
    let row = NewAudit { action: "x", project: Some("shop"), host: Some("h"), ..NewAudit::default() };
    tx.audit(&actor, Outcome::Refused, &row, now()).await.unwrap();
    let rows = tx.latest_audit(10).await.unwrap();
    assert_eq!((rows[0].action.as_str(), rows[0].outcome.as_str(), rows[0].at), ("x", "refused", now()));
    assert_eq!((rows[0].project.as_deref(), rows[0].host.as_deref()), (Some("shop"), Some("h")));
}

async fn settings_are_set_added_and_taken(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let value = serde_json::json!({ "keep": 5 });
    assert!(tx.add_setting("retention", &value, now()).await.unwrap());
    assert!(!tx.add_setting("retention", &serde_json::json!(0), now()).await.unwrap());
    assert_eq!(tx.setting("retention").await.unwrap(), Some(value));
    tx.put_setting("retention", &serde_json::json!(7), now()).await.unwrap();
    assert_eq!(tx.setting("retention").await.unwrap(), Some(serde_json::json!(7)));
    assert!(tx.take_setting("retention").await.unwrap());
    assert!(!tx.take_setting("retention").await.unwrap(), "taken once");
}

async fn files_found_to_have_a_digest_are_remembered(database: TestDatabase) {
    let database = database.open().await;
    let mut tx = database.begin().await.unwrap();
    let (list, digest) = ([3; 32], FileDigest::of(b"content"));
    assert!(!tx.is_verified_file(&list, &digest).await.unwrap());
    tx.add_verified_file(&list, &digest).await.unwrap();
    tx.add_verified_file(&list, &FileDigest::of(b"other")).await.unwrap();
    assert!(tx.is_verified_file(&list, &digest).await.unwrap(), "the first finding stands");
    assert!(!tx.is_verified_file(&list, &FileDigest::of(b"other")).await.unwrap());
}

async fn what_a_version_needs_of_packs_is_recorded(database: TestDatabase) {
    let database = database.open().await;
    let (app, principal) = with_app(&database).await;
    let mut tx = database.begin().await.unwrap();
    let element = tx.default_element(now()).await.unwrap();
    let key = Uuid::new_v4();
    let new = NewPack { key, element, project: app.project_id, app: app.id, size: 9, chunks: &[] };
    let pack = tx.insert_pack(&new, now()).await.unwrap().unwrap();
    let id = tx.insert_version(&version(&app, "v1", principal), now()).await.unwrap();
    let needs = [VersionPack { pack, chunks: vec![0b101] }];
    tx.insert_version_packs(id, &needs).await.unwrap();
    tx.insert_version_packs(id, &needs).await.unwrap();
    assert_eq!(tx.find_pack(key).await.unwrap().unwrap().size, 9);
    assert_eq!(tx.list_packs(kkartifact_store::PackId(0), 10).await.unwrap().len(), 1);
}

on_both_databases! {
    what_is_not_committed_never_happened,
    names_are_given_out_once,
    lists_are_paged_by_cursor_without_skipping_or_repeating,
    no_item_of_a_long_list_is_out_of_reach,
    lists_show_only_what_is_within_reach,
    chunks_are_found_per_app_and_only_with_their_pack,
    channels_move_with_history_and_roll_back_one_by_one,
    uploads_belong_to_their_principal_and_close_once,
    events_are_numbered_per_app_and_audit_rows_keep_names,
    settings_are_set_added_and_taken,
    files_found_to_have_a_digest_are_remembered,
    what_a_version_needs_of_packs_is_recorded,
}
