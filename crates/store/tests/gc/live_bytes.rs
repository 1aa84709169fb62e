//! How much of packs is needed, and which ones are worth compacting.

use kkartifact_store::{AppId, CompactablePack, DeadPlace, PackId, StoreError, StoredBytes};
use kkartifact_testkit::{TestDatabase, on_both_databases};

use crate::world::{World, chunk, minutes, now};

async fn what_any_version_needs_of_a_pack_is_live(database: TestDatabase) {
    let world = World::new(database).await;
    let pack = world.pack(&["a", "b", "c", "d"]).await;
    let unneeded = world.pack(&["e"]).await;
    for (app, name, needs) in
        [(&world.web, "v1", [0u32, 2]), (&world.api, "v2", [2, 0]), (&world.web, "v3", [2, 3])]
    {
        world.version(app, name, &[(pack, &needs)]).await;
    }
    assert_eq!(world.needed(pack).await, [0, 2, 3]);
    let uncounted = world.tx().await.uncounted_packs(PackId(0), 10).await.unwrap();
    assert_eq!(
        uncounted.iter().map(|pack| pack.id).collect::<Vec<_>>(),
        [pack],
        "what nothing needs is claimed"
    );
    assert_eq!(world.count(pack, 4).await, Some(400), "all but one chunk of 100 bytes");
    let mut tx = world.tx().await;
    assert!(tx.uncounted_packs(PackId(0), 10).await.unwrap().is_empty());
    // What was not counted is taken for needed.
    assert_eq!(tx.stored_bytes().await.unwrap(), StoredBytes { total: 500 + 200, dead: 100 });

    let short = tx.count_live_bytes(pack, 400, &[100; 3]).await;
    assert!(matches!(short, Err(StoreError::Corrupt(_))), "a version needs what the pack has not");
    assert_eq!(tx.count_live_bytes(PackId(999), 1, &[1]).await.unwrap(), None);
    drop(tx);
    let mut tx = world.tx().await;
    tx.claim_pack(unneeded, now()).await.unwrap();
    assert_eq!(tx.count_live_bytes(unneeded, 200, &[100]).await.unwrap(), None, "it is not live any more");
    assert_eq!(tx.stored_bytes().await.unwrap().total, 500);
}

async fn more_versions_than_a_page_are_all_looked_at(database: TestDatabase) {
    let world = World::new(database).await;
    let texts: Vec<_> = (0..600).map(|i| format!("chunk {i}")).collect();
    let pack = world.pack(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for i in 0..600 {
        world.version(&world.web, &format!("v{i}"), &[(pack, &[i])]).await;
    }
    assert_eq!(world.needed(pack).await, (0..600).collect::<Vec<_>>());
}

async fn the_packs_with_most_dead_bytes_come_first(database: TestDatabase) {
    let world = World::new(database).await;
    let mut packs = Vec::new();
    let needs = [vec![0, 1, 2, 3], vec![0, 1, 2], vec![0], vec![1], vec![0]];
    for (name, needs) in ["v0", "v1", "v2", "v3", "v4"].into_iter().zip(&needs) {
        let texts = ["a", "b", "c", "d"].map(|text| format!("{text} of {name}"));
        let pack = world.pack(&texts.each_ref().map(String::as_str)).await;
        world.version(&world.web, name, &[(pack, needs.as_slice())]).await;
        world.count(pack, 4).await;
        packs.push(pack);
    }
    world.upload(None, &[packs[4]]).await;
    let (mut seen, mut after) = (Vec::new(), DeadPlace::START);
    while let Some(pack) = world.tx().await.worst_packs(now(), 1, after, 1).await.unwrap().pop() {
        after = pack.place();
        seen.push((pack.id, pack.live_bytes, pack.dead));
    }
    // Not the one that is whole, nor the one that an upload relies on.
    assert_eq!(seen, [(packs[2], 200, 600), (packs[3], 200, 600), (packs[1], 400, 200)]);
    let mut tx = world.tx().await;
    let least = tx.worst_packs(now(), 201, DeadPlace::START, 10).await.unwrap();
    assert_eq!(least.iter().map(|pack| pack.id).collect::<Vec<_>>(), packs[2..4]);
    assert!(tx.worst_packs(minutes(-1), 1, DeadPlace::START, 10).await.unwrap().is_empty(), "they are young");
}

async fn the_versions_that_need_something_of_a_pack_are_counted(database: TestDatabase) {
    let world = World::new(database).await;
    let (many, one) = (world.pack(&["a", "b"]).await, world.pack(&["c", "d"]).await);
    for (app, name) in [(&world.web, "v1"), (&world.api, "v2"), (&world.web, "v3")] {
        world.version(app, name, &[(many, &[0])]).await;
    }
    world.version(&world.web, "v4", &[(one, &[1])]).await;
    for pack in [many, one] {
        world.count(pack, 2).await;
    }
    let versions = |found: Vec<CompactablePack>| {
        found.into_iter().map(|pack| (pack.id, pack.versions)).collect::<Vec<_>>()
    };
    let mut tx = world.tx().await;
    let worst = tx.worst_packs(now(), 1, DeadPlace::START, 10).await.unwrap();
    assert_eq!(versions(worst), [(many, 3), (one, 1)]);
    let small = tx.small_packs(now(), 1 << 20, world.web.id, PackId(0), 10).await.unwrap();
    assert_eq!(versions(small), [(many, 3), (one, 1)]);
}

async fn apps_with_many_small_packs_are_found(database: TestDatabase) {
    let world = World::new(database).await;
    let mut small = Vec::new();
    for i in 0..5 {
        let text = format!("small {i}");
        let pack = world.pack(&[&text]).await;
        world.version(&world.web, &text.replace(' ', "-"), &[(pack, &[0])]).await;
        small.push(pack);
    }
    world.upload(None, &[small[4]]).await;
    // These don't count: one that nothing needs, a young one, a large one.
    world.pack(&["unneeded"]).await;
    let young = world.pack_at(&[chunk("young", 0)], minutes(1)).await;
    let large = world.pack(&["l", "a", "r", "g", "e"]).await;
    world.version(&world.web, "rest", &[(young, &[0]), (large, &[0])]).await;

    let mut tx = world.tx().await;
    let web = world.web.id;
    assert_eq!(tx.apps_with_small_packs(now(), 300, 4, AppId(0), 10).await.unwrap(), [web]);
    assert!(tx.apps_with_small_packs(now(), 300, 5, AppId(0), 10).await.unwrap().is_empty());
    assert!(
        tx.apps_with_small_packs(now(), 200, 1, AppId(0), 10).await.unwrap().is_empty(),
        "none is so small"
    );
    assert!(tx.apps_with_small_packs(now(), 300, 4, web, 10).await.unwrap().is_empty());
    let (mut seen, mut after) = (Vec::new(), PackId(0));
    while let Some(pack) = tx.small_packs(now(), 300, web, after, 1).await.unwrap().pop() {
        assert_eq!((pack.size, pack.live_bytes, pack.chunk_count), (200, 200, 1));
        after = pack.id;
        seen.push(pack.id);
    }
    assert_eq!(seen, small[..4]);
}

on_both_databases! {
    what_any_version_needs_of_a_pack_is_live,
    more_versions_than_a_page_are_all_looked_at,
    the_packs_with_most_dead_bytes_come_first,
    the_versions_that_need_something_of_a_pack_are_counted,
    apps_with_many_small_packs_are_found,
}
