//! A new pack takes the place of old ones.

use kkartifact_model::FileDigest;
use kkartifact_store::{Claim, CompactedPack, Compaction, PackId, Purge, Swap};
use kkartifact_testkit::{TestDatabase, on_both_databases};

use crate::world::{World, chunk, file, minutes, now};

impl World {
    async fn swap(&self, new: &Compaction<'_>) -> Swap {
        let mut tx = self.tx().await;
        let swapped = tx.swap_packs(new, now()).await.unwrap();
        if swapped != Swap::Changed {
            tx.commit().await.unwrap();
        }
        swapped
    }

    /// Ids of the packs that were claimed.
    async fn claimed(&self) -> Vec<PackId> {
        let found = self.tx().await.claimed_packs(minutes(9), PackId(0), 100).await.unwrap();
        found.into_iter().map(|pack| pack.id).collect()
    }
}

fn moved(id: PackId, moved: &[Option<u32>]) -> CompactedPack {
    CompactedPack { id, moved: moved.to_vec() }
}

async fn rows_of_all_apps_follow_to_the_new_pack(database: TestDatabase) {
    let world = World::new(database).await;
    let one = world.pack(&["a", "dead", "c", "extra"]).await;
    let two = world.pack(&["dead too", "d"]).await;
    let other = world.pack(&["elsewhere"]).await;
    world.share(&["a", "c", "d", "dead"]).await;
    let web = world.version(&world.web, "v1", &[(one, &[0, 2]), (other, &[0])]).await;
    world.version(&world.api, "v2", &[(one, &[2]), (two, &[1])]).await;

    // "extra" was needed when the copy was made.
    let chunks = [file("a", 0), chunk("c", 1), chunk("extra", 2), chunk("d", 3)];
    let old = [moved(one, &[Some(0), None, Some(1), Some(2)]), moved(two, &[None, Some(3)])];
    let Swap::Done(new) = world.swap(&world.compaction(&chunks, &old)).await else { unreachable!() };

    for (app, text, place) in [
        (&world.web, "a", Some((new, 0))),
        (&world.web, "c", Some((new, 1))),
        (&world.web, "extra", Some((new, 2))),
        (&world.web, "d", Some((new, 3))),
        (&world.web, "dead", None),
        (&world.web, "dead too", None),
        (&world.web, "elsewhere", Some((other, 0))),
        (&world.api, "a", Some((new, 0))),
        (&world.api, "c", Some((new, 1))),
        (&world.api, "d", Some((new, 3))),
        (&world.api, "dead", None),
        (&world.api, "extra", None),
    ] {
        assert_eq!(world.place(app, text).await, place, "{text} of {}", app.name);
    }
    let mut tx = world.tx().await;
    let found = tx.locate_chunks(world.web.id, &[chunks[0].id, chunks[3].id]).await.unwrap();
    let (a, d) = (found[&chunks[0].id], found[&chunks[3].id]);
    assert_eq!((a.offset, a.stored_len, a.len), (8, 100, 200));
    assert_eq!((a.sha256, d.sha256), (Some(FileDigest::of(b"a")), None), "what the copy knows of it");
    assert_eq!(d.offset, 308);
    drop(tx);

    assert_eq!(world.claimed().await, [one, two]);
    assert_eq!((world.needed(one).await, world.needed(two).await), (vec![], vec![]));
    assert_eq!((world.needed(new).await, world.needed(other).await), (vec![0, 1, 3], vec![0]));
    let mut tx = world.tx().await;
    assert_eq!(tx.claim_pack(new, now()).await.unwrap(), Claim::Needed);
    assert_eq!(tx.uncounted_packs(PackId(0), 10).await.unwrap().len(), 2, "the new one was not counted");
    // Not just dropped: locks would be let go of some time later.
    tx.commit().await.unwrap();
    // Each version has its own part.
    world.raw("UPDATE version SET state = 'deleted', deleted_at = created_at WHERE name = 'v1'").await;
    let mut tx = world.tx().await;
    tx.lock_app(world.web.id).await.unwrap();
    assert_eq!(tx.purge_version(web, now()).await.unwrap(), Purge::Done);
    tx.commit().await.unwrap();
    assert_eq!(world.needed(new).await, [1, 3]);
}

async fn a_chunk_that_two_packs_have_is_one_afterwards(database: TestDatabase) {
    let world = World::new(database).await;
    let one = world.pack(&["same"]).await;
    // The row stays where the first one was.
    let two = world.pack(&["x", "same"]).await;
    world.version(&world.web, "v1", &[(one, &[0])]).await;
    world.version(&world.web, "v2", &[(two, &[0, 1])]).await;
    let chunks = [chunk("same", 0), chunk("x", 1)];
    let old = [moved(one, &[Some(0)]), moved(two, &[Some(1), Some(0)])];
    let Swap::Done(new) = world.swap(&world.compaction(&chunks, &old)).await else { unreachable!() };
    assert_eq!(world.place(&world.web, "same").await, Some((new, 0)));
    assert_eq!(world.place(&world.web, "x").await, Some((new, 1)));
    assert_eq!(world.needed(new).await, [0, 1]);
}

async fn nothing_is_swapped_when_something_has_changed(database: TestDatabase) {
    let world = World::new(database).await;
    let (one, two) = (world.pack(&["a", "b"]).await, world.pack(&["c"]).await);
    world.version(&world.web, "v1", &[(one, &[0]), (two, &[0])]).await;
    let chunks = [chunk("a", 0), chunk("c", 1)];
    let old = [moved(one, &[Some(0), None]), moved(two, &[Some(1)])];
    let new = world.compaction(&chunks, &old);
    let unchanged = async |why: &str| {
        assert_eq!(world.swap(&new).await, Swap::Changed, "{why}");
        assert_eq!(world.place(&world.web, "a").await, Some((one, 0)), "{why}");
        assert!(world.claimed().await.is_empty(), "{why}");
    };

    let upload = world.upload(None, &[two]).await;
    unchanged("an upload relies on one of them").await;
    let mut tx = world.tx().await;
    tx.close_upload(upload, kkartifact_model::api::upload::UploadState::Expired, None).await.unwrap();
    tx.commit().await.unwrap();

    world.version(&world.web, "v2", &[(one, &[1])]).await;
    unchanged("a version has come to need what was not copied").await;
    world.raw("DELETE FROM version_pack WHERE version_id = (SELECT id FROM version WHERE name = 'v2')").await;

    world.raw("UPDATE pack SET state = 'claimed', claimed_at = created_at WHERE id = 2").await;
    assert_eq!(world.swap(&new).await, Swap::Changed, "somebody has claimed one");
    world.raw("UPDATE pack SET state = 'live', claimed_at = NULL WHERE id = 2").await;

    // It is recorded so that it goes; if somebody has adopted it, it can't be used, and is theirs.
    let mut tx = world.tx().await;
    tx.abandon_compaction(&new, now()).await.unwrap();
    tx.abandon_compaction(&new, now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.claimed().await.len(), 1);
    assert_eq!(world.swap(&new).await, Swap::Changed, "its name is taken");
    assert_eq!(world.place(&world.web, "a").await, Some((one, 0)));

    assert!(matches!(world.swap(&world.compaction(&chunks, &old)).await, Swap::Done(_)));
}

async fn an_adopted_copy_stays_what_it_is(database: TestDatabase) {
    let world = World::new(database).await;
    let one = world.pack(&["a"]).await;
    world.version(&world.web, "v1", &[(one, &[0])]).await;
    let (chunks, old) = ([chunk("a", 0)], [moved(one, &[Some(0)])]);
    let new = world.compaction(&chunks, &old);
    let adopted = kkartifact_store::NewPack {
        key: new.key,
        element: new.element,
        project: new.project,
        app: new.app,
        size: new.size,
        chunks: &chunks,
    };
    let mut tx = world.tx().await;
    let adopted = tx.insert_pack(&adopted, now()).await.unwrap().unwrap();
    tx.abandon_compaction(&new, now()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(world.claimed().await.is_empty());
    // Nothing needs it, so it goes like any other.
    assert_eq!(world.tx().await.unneeded_packs(now(), PackId(0), 10).await.unwrap(), [adopted]);
    assert_eq!(world.place(&world.web, "a").await, Some((one, 0)));
}

async fn many_chunks_and_versions_are_moved(database: TestDatabase) {
    let world = World::new(database).await;
    // More than a batch and than a page, and not multiples of them. Every other chunk is needed.
    let texts: Vec<_> = (0..1234).map(|i| format!("chunk {i}")).collect();
    let pack = world.pack(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for i in 0..617 {
        world.version(&world.web, &format!("v{i}"), &[(pack, &[2 * i])]).await;
    }
    let kept: Vec<_> = texts.iter().step_by(2).collect();
    let chunks: Vec<_> = (0..).zip(&kept).map(|(ordinal, text)| chunk(text, ordinal)).collect();
    let ordinals: Vec<_> = (0..1234).map(|i: u32| i.is_multiple_of(2).then_some(i / 2)).collect();
    let old = [moved(pack, &ordinals)];
    let Swap::Done(new) = world.swap(&world.compaction(&chunks, &old)).await else { unreachable!() };

    assert_eq!(world.needed(new).await, (0..617).collect::<Vec<_>>());
    let mut tx = world.tx().await;
    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
    let found = tx.locate_chunks(world.web.id, &ids).await.unwrap();
    assert_eq!(found.len(), 617);
    for (ordinal, chunk) in (0..).zip(&chunks) {
        let at = found[&chunk.id];
        assert_eq!((at.pack_id, at.ordinal, at.offset), (new, ordinal, chunk.offset));
    }
    let dead: Vec<_> = (0..).zip(&texts).map(|(i, text)| chunk(text, i).id).skip(1).step_by(2).collect();
    assert!(tx.locate_chunks(world.web.id, &dead).await.unwrap().is_empty());
}

on_both_databases! {
    rows_of_all_apps_follow_to_the_new_pack,
    a_chunk_that_two_packs_have_is_one_afterwards,
    nothing_is_swapped_when_something_has_changed,
    an_adopted_copy_stays_what_it_is,
    many_chunks_and_versions_are_moved,
}
