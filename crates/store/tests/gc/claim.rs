//! Packs that nothing needs.

use kkartifact_model::api::upload::UploadState;
use kkartifact_store::{Claim, NewPack, PackId, Purge};
use kkartifact_testkit::{TestDatabase, on_both_databases};

use crate::world::{World, chunk, minutes, now};

impl World {
    async fn claim(&self, pack: PackId) -> Claim {
        let mut tx = self.tx().await;
        let claimed = tx.claim_pack(pack, now()).await.unwrap();
        tx.commit().await.unwrap();
        claimed
    }

    async fn unneeded(&self) -> Vec<PackId> {
        self.tx().await.unneeded_packs(now(), PackId(0), 10).await.unwrap()
    }
}

async fn a_pack_is_claimed_when_neither_a_version_nor_an_upload_needs_it(database: TestDatabase) {
    let world = World::new(database).await;
    let free = world.pack(&["free", "shared"]).await;
    let (needed, pinned) = (world.pack(&["needed"]).await, world.pack(&["pinned"]).await);
    let young = world.pack_at(&[chunk("young", 0)], minutes(1)).await;
    world.version(&world.web, "v1", &[(needed, &[0])]).await;
    let upload = world.upload(None, &[pinned]).await;
    world.share(&["shared"]).await;

    assert_eq!(world.unneeded().await, [free, pinned], "young ones belong to pushes in progress");
    assert_eq!(world.claim(needed).await, Claim::Needed);
    assert_eq!(world.claim(pinned).await, Claim::Pinned);
    assert_eq!(world.claim(PackId(999)).await, Claim::Gone);
    assert_eq!(world.claim(free).await, Claim::Claimed);
    assert_eq!(world.claim(free).await, Claim::Gone);
    assert_eq!(world.unneeded().await, [pinned]);

    // Nothing can come to rely on it, and no app has its chunks.
    assert_eq!(world.tx().await.lock_packs(&[free, needed]).await.unwrap(), [free]);
    for (app, text) in [(&world.web, "free"), (&world.web, "shared"), (&world.api, "shared")] {
        assert_eq!(world.place(app, text).await, None, "{text}");
    }
    assert_eq!(world.place(&world.web, "needed").await, Some((needed, 0)));
    assert_eq!(world.place(&world.web, "young").await, Some((young, 0)));

    // Whoever sends them again finds their places free.
    let again = world.pack(&["shared"]).await;
    assert_eq!(world.place(&world.web, "shared").await, Some((again, 0)));

    // An upload that is over holds nothing.
    let mut tx = world.tx().await;
    assert!(tx.close_upload(upload, UploadState::Aborted, None).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(world.claim(pinned).await, Claim::Claimed);
}

async fn the_base_of_an_upload_is_needed_although_its_version_is_purged(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["base"]).await;
    let version = world.version(&world.web, "v1", &[(pack, &[0])]).await;
    world.upload(Some(version), &[]).await;
    world.raw("UPDATE version SET state = 'deleted', deleted_at = created_at").await;
    let mut tx = world.tx().await;
    tx.lock_app(world.web.id).await.unwrap();
    assert_eq!(tx.purge_version(version, now()).await.unwrap(), Purge::Done);
    tx.commit().await.unwrap();
    assert_eq!(world.claim(pack).await, Claim::Pinned);
    assert_eq!(world.place(&world.web, "base").await, Some((pack, 0)));
}

async fn a_claimed_pack_goes_after_the_delay(database: TestDatabase) {
    let world = World::new(database).await;
    let (pack, live) = (world.pack(&["a"]).await, world.pack(&["b"]).await);
    assert_eq!(world.claim(pack).await, Claim::Claimed);
    let mut tx = world.tx().await;
    assert!(tx.claimed_packs(minutes(-1), PackId(0), 10).await.unwrap().is_empty());
    let found = tx.claimed_packs(now(), PackId(0), 10).await.unwrap();
    let found: Vec<_> = found.iter().map(|pack| (pack.id, pack.size, pack.needed)).collect();
    assert_eq!(found, [(pack, 200, false)]);
    assert!(tx.claimed_packs(now(), pack, 10).await.unwrap().is_empty());
    assert!(!tx.delete_claimed_pack(live).await.unwrap(), "what is live stays");
    drop(tx);

    // A pin that came too late holds nothing, and one of a live pack stays.
    world.upload(None, &[pack, live]).await;
    let mut tx = world.tx().await;
    assert!(tx.delete_claimed_pack(pack).await.unwrap());
    assert!(!tx.delete_claimed_pack(pack).await.unwrap());
    assert_eq!(tx.list_packs(PackId(0), 10).await.unwrap().iter().map(|p| p.id).collect::<Vec<_>>(), [live]);
    tx.commit().await.unwrap();
    assert_eq!(world.claim(live).await, Claim::Pinned);
}

async fn a_pack_that_is_claimed_is_not_recorded_again(database: TestDatabase) {
    let world = World::new(database).await;
    let chunks = [chunk("a", 0)];
    let like = world.compaction(&chunks, &[]);
    let new = NewPack {
        key: like.key,
        element: like.element,
        project: like.project,
        app: like.app,
        size: like.size,
        chunks: &chunks,
    };
    let mut tx = world.tx().await;
    let pack = tx.insert_pack(&new, now()).await.unwrap().unwrap();
    assert_eq!(tx.insert_pack(&new, now()).await.unwrap(), Some(pack));
    tx.commit().await.unwrap();
    assert_eq!(world.claim(pack).await, Claim::Claimed);
    let mut tx = world.tx().await;
    assert_eq!(tx.insert_pack(&new, now()).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(world.place(&world.web, "a").await, None);
}

async fn a_needed_pack_that_is_claimed_all_the_same_is_told(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a"]).await;
    world.version(&world.web, "v1", &[(pack, &[0])]).await;
    world.raw("UPDATE pack SET state = 'claimed', claimed_at = created_at").await;
    let found = world.tx().await.claimed_packs(now(), PackId(0), 10).await.unwrap();
    assert!(found[0].needed);
}

on_both_databases! {
    a_pack_is_claimed_when_neither_a_version_nor_an_upload_needs_it,
    the_base_of_an_upload_is_needed_although_its_version_is_purged,
    a_claimed_pack_goes_after_the_delay,
    a_pack_that_is_claimed_is_not_recorded_again,
    a_needed_pack_that_is_claimed_all_the_same_is_told,
}
