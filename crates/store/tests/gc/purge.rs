//! Versions whose time is over.

use chrono::{DateTime, Utc};
use kkartifact_model::VersionRef;
use kkartifact_model::api::version::VersionState;
use kkartifact_store::{PackId, Purge, VersionId};
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

on_both_databases! {
    a_deleted_version_lets_go_of_its_chunks_when_its_time_is_over,
    what_is_restored_or_held_keeps_its_chunks,
    pages_of_versions_go_on_behind_the_last_one,
}
