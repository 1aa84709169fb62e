//! Versions whose time is over.

use chrono::{DateTime, Utc};
use kkartifact_model::VersionRef;
use kkartifact_model::api::version::VersionState;
use kkartifact_store::{AppId, PackId, Purge, VersionId};
use kkartifact_testkit::{TestDatabase, on_both_databases};

use crate::world::{World, minutes, now};

const START: (DateTime<Utc>, VersionId) = (DateTime::UNIX_EPOCH, VersionId(0));

impl World {
    async fn delete(&self, version: VersionId, at: DateTime<Utc>) {
        let mut tx = self.tx().await;
        tx.delete_version(version, at).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn purge(&self, version: VersionId, cutoff: DateTime<Utc>) -> Purge {
        let mut tx = self.tx().await;
        tx.lock_app(self.web.id).await.unwrap();
        let purged = tx.purge_version(version, cutoff).await.unwrap();
        tx.commit().await.unwrap();
        purged
    }

    async fn purgeable(&self, cutoff: DateTime<Utc>) -> Vec<VersionId> {
        let mut tx = self.tx().await;
        let found = tx.purgeable_versions(cutoff, START, 10).await.unwrap();
        found.into_iter().map(|version| version.id).collect()
    }

    /// The versions of deleted apps and projects whose time is over, read in pages of one.
    async fn of_deleted_apps(&self, cutoff: DateTime<Utc>) -> Vec<VersionId> {
        let (mut seen, mut after) = (Vec::new(), (AppId(0), VersionId(0)));
        let mut tx = self.tx().await;
        while let Some(version) = tx.versions_of_deleted_apps(cutoff, after, 1).await.unwrap().pop() {
            after = (version.app_id, version.id);
            seen.push(version.id);
        }
        tx.commit().await.unwrap();
        seen
    }

    async fn state(&self, version: VersionId) -> VersionState {
        self.tx().await.version(version).await.unwrap().unwrap().state
    }
}

async fn a_deleted_version_lets_go_of_its_chunks_when_its_time_is_over(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a", "b", "c"]).await;
    let gone = world.version(&world.web, "v1", &[(pack, &[0, 1])]).await;
    world.version(&world.web, "v2", &[(pack, &[1, 2])]).await;
    assert_eq!(world.count(pack, 3).await, Some(400));
    assert_eq!(world.purge(gone, minutes(9)).await, Purge::Kept, "it is published");

    world.delete(gone, now()).await;
    assert!(world.purgeable(minutes(-1)).await.is_empty());
    assert_eq!(world.purge(gone, minutes(-1)).await, Purge::Kept, "it can still be restored");
    assert_eq!(world.purgeable(now()).await, [gone]);
    assert_eq!(world.needed(pack).await, [0, 1, 2]);
    assert_eq!(world.purge(gone, now()).await, Purge::Done);

    assert_eq!(world.needed(pack).await, [1, 2]);
    assert!(world.purgeable(minutes(9)).await.is_empty());
    let mut tx = world.tx().await;
    let row = tx.find_version(world.web.id, &VersionRef::Name("v1".parse().unwrap())).await.unwrap().unwrap();
    assert_eq!((row.state, row.revision), (VersionState::Purged, 3));
    let uncounted: Vec<_> = tx.uncounted_packs(PackId(0), 10).await.unwrap().iter().map(|p| p.id).collect();
    assert_eq!(uncounted, [pack], "less is needed of it than was counted");
    drop(tx);
    assert_eq!(world.purge(gone, minutes(9)).await, Purge::Kept, "once");
}

async fn what_is_restored_or_held_keeps_its_chunks(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a", "b"]).await;
    let restored = world.version(&world.web, "restored", &[(pack, &[0])]).await;
    let held = world.version(&world.web, "held", &[(pack, &[1])]).await;
    for version in [restored, held] {
        world.delete(version, now()).await;
    }
    assert_eq!(world.purgeable(now()).await, [restored, held]);
    let mut tx = world.tx().await;
    tx.set_version_state(restored, VersionState::Published).await.unwrap();
    tx.commit().await.unwrap();
    world.raw("UPDATE version SET legal_hold = TRUE WHERE name = 'held'").await;
    assert!(world.purgeable(minutes(9)).await.is_empty());
    for version in [restored, held] {
        assert_eq!(world.purge(version, minutes(9)).await, Purge::Kept);
    }
    assert_eq!(world.needed(pack).await, [0, 1]);
}

async fn pages_of_versions_go_on_behind_the_last_one(database: TestDatabase) {
    let world = World::new(database).await;
    let mut deleted = Vec::new();
    for (name, at) in [("a", 2), ("b", 1), ("c", 1), ("d", 0)] {
        let version = world.version(&world.web, name, &[]).await;
        world.delete(version, minutes(at)).await;
        deleted.insert(0, version);
    }
    // Those that were deleted at the same time, by id.
    deleted.swap(1, 2);
    let (mut seen, mut after) = (Vec::new(), START);
    while let Some(version) = world.tx().await.purgeable_versions(minutes(2), after, 1).await.unwrap().pop() {
        after = (version.deleted_at, version.id);
        seen.push(version.id);
    }
    assert_eq!(seen, deleted);
}

async fn an_archived_version_is_not_purged(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a"]).await;
    let version = world.version(&world.web, "v1", &[(pack, &[0])]).await;
    let mut tx = world.tx().await;
    tx.archive_version(version).await.unwrap();
    tx.commit().await.unwrap();
    // Whatever time stands there.
    world.raw("UPDATE version SET deleted_at = created_at").await;
    assert!(world.purgeable(minutes(9)).await.is_empty());
    assert_eq!(world.purge(version, minutes(9)).await, Purge::Kept);
    assert_eq!((world.state(version).await, world.needed(pack).await), (VersionState::Archived, vec![0]));
}

async fn what_a_deleted_app_has_is_purged_but_not_what_is_held(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a", "b", "c", "d", "e"]).await;
    let mut versions = Vec::new();
    for (name, chunk) in [("published", 0), ("archived", 1), ("deleted", 2)] {
        versions.push(world.version(&world.web, name, &[(pack, &[chunk])]).await);
    }
    let held = world.version(&world.web, "held", &[(pack, &[3])]).await;
    world.version(&world.api, "other", &[(pack, &[4])]).await;
    world.raw("UPDATE version SET legal_hold = TRUE WHERE name = 'held'").await;
    let sql = "INSERT INTO channel (app_id, name, version_id, revision, updated_at)
        SELECT app_id, 'stable', id, 1, created_at FROM version WHERE name = 'published'";
    assert_eq!(world.raw(sql).await, 1);
    let mut tx = world.tx().await;
    tx.archive_version(versions[1]).await.unwrap();
    // Later than its app: it need not wait for longer.
    tx.delete_version(versions[2], minutes(5)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(world.of_deleted_apps(minutes(9)).await.is_empty());
    assert_eq!(world.purge(versions[0], minutes(9)).await, Purge::Kept, "its app is there");

    let mut tx = world.tx().await;
    tx.delete_app(world.web.id, now()).await.unwrap();
    // It is deleted once: its time does not begin anew.
    tx.delete_app(world.web.id, minutes(3)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(world.of_deleted_apps(minutes(-1)).await.is_empty());
    assert_eq!(
        world.purge(versions[0], minutes(-1)).await,
        Purge::Kept,
        "its app has been there until just now"
    );
    assert_eq!(world.of_deleted_apps(now()).await, versions);
    for version in &versions {
        assert_eq!(world.purge(*version, now()).await, Purge::Done);
        assert_eq!(world.state(*version).await, VersionState::Purged);
    }
    assert_eq!(world.purge(held, minutes(9)).await, Purge::Kept);
    assert_eq!(world.purge(versions[0], minutes(9)).await, Purge::Kept, "once");
    assert!(world.of_deleted_apps(minutes(9)).await.is_empty());
    assert_eq!(world.needed(pack).await, [3, 4]);
}

async fn what_a_deleted_project_has_is_purged(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a", "b"]).await;
    let other = world.version(&world.api, "v1", &[(pack, &[0])]).await;
    let version = world.version(&world.web, "v1", &[(pack, &[1])]).await;
    let mut tx = world.tx().await;
    assert!(tx.delete_project(world.web.project_id, now()).await.unwrap());
    assert!(!tx.delete_project(world.web.project_id, minutes(3)).await.unwrap(), "it is deleted once");
    tx.commit().await.unwrap();
    assert!(world.of_deleted_apps(minutes(-1)).await.is_empty());
    assert_eq!(world.of_deleted_apps(now()).await, [version, other], "by app");
    assert_eq!(world.purge(version, now()).await, Purge::Done);
    assert_eq!(world.of_deleted_apps(now()).await, [other]);
    assert_eq!(world.needed(pack).await, [0]);
}

async fn holds_in_an_app_and_in_a_project_are_found(database: TestDatabase) {
    let world = World::new(database).await;
    for (app, name) in [(&world.web, "v1"), (&world.web, "v2"), (&world.api, "v3"), (&world.web, "purged")] {
        world.version(app, name, &[]).await;
    }
    world.raw("UPDATE version SET legal_hold = TRUE WHERE name = 'purged'").await;
    world.raw("UPDATE version SET state = 'purged' WHERE name = 'purged'").await;
    let project = world.web.project_id;
    let mut tx = world.tx().await;
    assert_eq!(tx.held_in_app(world.web.id).await.unwrap(), None);
    assert_eq!(tx.held_in_project(project).await.unwrap(), None);
    tx.commit().await.unwrap();

    world.raw("UPDATE version SET legal_hold = TRUE WHERE name <> 'v1'").await;
    let mut tx = world.tx().await;
    let held = tx.held_in_app(world.web.id).await.unwrap().unwrap();
    assert_eq!((held.count, held.app.as_str(), held.version.as_str()), (1, "web", "v2"));
    let held = tx.held_in_project(project).await.unwrap().unwrap();
    assert_eq!((held.count, held.app.as_str(), held.version.as_str()), (2, "api", "v3"));
    // Nobody can lift a hold in a deleted app.
    tx.delete_app(world.api.id, now()).await.unwrap();
    let held = tx.held_in_project(project).await.unwrap().unwrap();
    assert_eq!((held.count, held.app.as_str(), held.version.as_str()), (1, "web", "v2"));
    tx.commit().await.unwrap();
}

on_both_databases! {
    a_deleted_version_lets_go_of_its_chunks_when_its_time_is_over,
    what_is_restored_or_held_keeps_its_chunks,
    pages_of_versions_go_on_behind_the_last_one,
    an_archived_version_is_not_purged,
    what_a_deleted_app_has_is_purged_but_not_what_is_held,
    what_a_deleted_project_has_is_purged,
    holds_in_an_app_and_in_a_project_are_found,
}
