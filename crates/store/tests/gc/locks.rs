//! Collection and pushes at the same time. Only PostgreSQL has more than one writer.

use std::time::Duration;

use kkartifact_store::{Claim, CompactedPack, Database, Purge, Swap};
use kkartifact_testkit::TestDatabase;

use crate::world::{World, chunk, minutes, now};

async fn world() -> World {
    World::new(TestDatabase::postgres().await).await
}

#[tokio::test]
async fn what_a_push_holds_is_left_alone_and_not_waited_for() {
    let world = world().await;
    let (free, needed) = (world.pack(&["free"]).await, world.pack(&["a", "b"]).await);
    let version = world.version(&world.web, "v1", &[(needed, &[0])]).await;
    world.raw("UPDATE version SET state = 'deleted', deleted_at = created_at").await;
    let upload = world.upload(None, &[]).await;

    let mut push = world.tx().await;
    assert!(push.lock_packs(&[free, needed]).await.unwrap().is_empty());
    push.pin_packs(upload, &[free]).await.unwrap();

    assert_eq!(world.tx().await.claim_pack(free, now()).await.unwrap(), Claim::Pinned);
    assert_eq!(world.tx().await.count_live_bytes(needed, 300, &[100; 2]).await.unwrap(), None);
    let mut tx = world.tx().await;
    tx.lock_app(world.web.id).await.unwrap();
    assert_eq!(tx.purge_version(version, minutes(9)).await.unwrap(), Purge::Busy);
    drop(tx);
    let (chunks, old) = ([chunk("a", 0)], [CompactedPack { id: needed, moved: vec![Some(0), None] }]);
    let new = world.compaction(&chunks, &old);
    assert_eq!(world.tx().await.swap_packs(&new, now()).await.unwrap(), Swap::Changed);

    push.commit().await.unwrap();
    assert_eq!(world.tx().await.claim_pack(free, now()).await.unwrap(), Claim::Pinned, "it is pinned now");
    let mut tx = world.tx().await;
    tx.lock_app(world.web.id).await.unwrap();
    assert_eq!(tx.purge_version(version, minutes(9)).await.unwrap(), Purge::Done);
}

#[tokio::test]
async fn a_push_that_comes_during_a_claim_learns_that_the_pack_is_gone() {
    let world = world().await;
    let pack = world.pack(&["a"]).await;
    let mut claim = world.tx().await;
    assert_eq!(claim.claim_pack(pack, now()).await.unwrap(), Claim::Claimed);
    let database = world.database.clone();
    let push = tokio::spawn(async move {
        let mut tx = database.begin().await.unwrap();
        tx.lock_packs(&[pack]).await.unwrap()
    });
    somebody_waits(&world).await;
    claim.commit().await.unwrap();
    assert_eq!(push.await.unwrap(), [pack], "it has seen how the claim ended");
}

#[tokio::test]
async fn a_push_of_the_same_chunk_during_a_claim_gets_its_own_place() {
    let world = world().await;
    let pack = world.pack(&["a"]).await;
    let mut claim = world.tx().await;
    assert_eq!(claim.claim_pack(pack, now()).await.unwrap(), Claim::Claimed);
    let ((), again) = tokio::join!(
        async {
            // For the row that is being deleted.
            somebody_waits(&world).await;
            claim.commit().await.unwrap();
        },
        world.pack(&["a"])
    );
    assert_eq!(world.place(&world.web, "a").await, Some((again, 0)));
}

#[tokio::test]
async fn an_upload_that_begins_during_a_compaction_pins_the_new_pack() {
    let world = world().await;
    let pack = world.pack(&["a"]).await;
    let version = world.version(&world.web, "v1", &[(pack, &[0])]).await;
    let (chunks, old) = ([chunk("a", 0)], [CompactedPack { id: pack, moved: vec![Some(0)] }]);
    let new = world.compaction(&chunks, &old);
    let mut swap = world.tx().await;
    let Swap::Done(id) = swap.swap_packs(&new, now()).await.unwrap() else { unreachable!() };
    let ((), ()) = tokio::join!(
        async {
            somebody_waits(&world).await;
            swap.commit().await.unwrap();
        },
        async {
            // As `init` does it: the app first.
            let mut tx = world.tx().await;
            tx.lock_app(world.web.id).await.unwrap();
            tx.commit().await.unwrap();
            world.upload(Some(version), &[]).await;
        }
    );
    let mut tx = world.tx().await;
    assert_eq!(tx.claim_pack(id, now()).await.unwrap(), Claim::Needed);
    assert!(
        tx.small_packs(minutes(9), 1 << 20, world.web.id, pack, 10).await.unwrap().is_empty(),
        "it is pinned"
    );
}

#[tokio::test]
async fn a_hold_and_the_deletion_of_its_project_wait_for_each_other() {
    let world = world().await;
    world.version(&world.web, "v1", &[]).await;
    let (project, app) = (world.web.project_id, world.web.id);
    // Whoever holds first is seen by who deletes, …
    let mut hold = world.tx().await;
    hold.keep_project(project).await.unwrap();
    let database = world.database.clone();
    let deletion = tokio::spawn(async move {
        let mut tx = database.begin().await.unwrap();
        assert!(tx.delete_project(project, now()).await.unwrap());
        tx.held_in_project(project).await.unwrap().map(|held| held.count)
    });
    somebody_waits(&world).await;
    let version = hold.find_version(app, &"v1".parse().unwrap()).await.unwrap().unwrap();
    hold.annotate_version(version.id, "", false, true).await.unwrap();
    hold.commit().await.unwrap();
    assert_eq!(deletion.await.unwrap(), Some(1));

    // … and who deletes first by who wants to hold.
    let mut deletion = world.tx().await;
    assert!(deletion.delete_project(project, now()).await.unwrap());
    let database = world.database.clone();
    let hold = tokio::spawn(async move {
        let mut tx = database.begin().await.unwrap();
        tx.keep_project(project).await.unwrap();
        tx.app(app).await.unwrap().unwrap().exists()
    });
    somebody_waits(&world).await;
    deletion.commit().await.unwrap();
    assert!(!hold.await.unwrap(), "there is nothing left to hold");
}

/// Returns when a transaction waits for another one.
async fn somebody_waits(world: &World) {
    let Database::Postgres(pool) = &world.database else { unreachable!() };
    let sql = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let wait = async {
        loop {
            let (waiting,): (i64,) = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}
