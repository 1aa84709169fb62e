//! When nobody works any more: what can go goes, what is told to be freed is free, and what stays is needed.

use std::collections::BTreeSet;

use kkartifact_testkit::process::ServerProcess;

use crate::builds::{APPS, FILES};
use crate::collect::collect;
use crate::model::State;
use crate::scenes::litter;
use crate::storage::{Objects, on_disk};
use crate::tally::Counts;
use crate::traffic::pull;
use crate::world::World;

/// After so many collections there is nothing left to do.
const MOST: u32 = 10;
/// What is stored is at most so many percent of what is needed.
const PERCENT: u64 = 110;

/// Collects everything and compares.
pub(crate) fn finish(world: &World, server: &mut ServerProcess) {
    for app in 0..APPS.len() {
        world.close_uploads(app);
    }
    while let Some(version) = world.model.take(2, |_| 0) {
        world.delete(version.app, &version.name);
        world.model.put(&version, State::Gone);
    }
    // At a start everything gets rows that crashes have left without.
    server.stop();
    server.restart(None);
    wait_for_jobs(world);
    let freed = collect_all(world);
    eprintln!("after the last push    {freed} bytes were freed, as the disk says too");

    // Garbage and nothing else: the count is exact.
    litter(world, "never-at-the-end", 0);
    let counts = collect_measured(world);
    assert!(counts.claimed >= 1 && counts.removed == counts.claimed, "{counts:?}");
    assert_eq!(counts.compacted, 0, "{counts:?}");
    assert_eq!(collect_all(world), 0, "nothing was left");

    server.verify();
    let live = world.model.live();
    for version in &live {
        pull(world, "checker", version);
    }
    assert!(world.listed(FILES).is_empty());
    server.stop();
    compare(world, live.len());
}

fn wait_for_jobs(world: &World) {
    world.until("all jobs to be done", || {
        let counts = world.get("/jobs/counts");
        (counts["queued"] == 0 && counts["running"] == 0).then_some(())
    });
}

/// Collects until a collection finds nothing to do; the bytes that were freed.
fn collect_all(world: &World) -> u64 {
    let mut freed = 0;
    for _ in 0..MOST {
        let counts = collect_measured(world);
        if counts == Counts::default() {
            return freed;
        }
        freed += counts.freed_bytes;
    }
    panic!("after {MOST} collections there is still something to do");
}

/// Collects once, and compares what the job says with the disk.
fn collect_measured(world: &World) -> Counts {
    let before = world.storage.objects();
    let counts = collect(world);
    let after = world.storage.objects();
    let (gone, new) = (without(&before, &after), without(&after, &before));
    let count = gone.len() as u64;
    let bytes: u64 = gone.values().map(|object| object.bytes).sum();
    let blocks: u64 = gone.values().map(|object| object.block).sum();
    let told = format!("{counts:?}; {count} packs of {bytes} bytes are gone");
    // A pack that was made and merged by this collection is in neither list.
    assert!(counts.removed >= count && counts.freed_bytes >= bytes, "{told}");
    if counts.removed == count {
        assert_eq!(counts.freed_bytes, bytes, "{told}");
        let shrunk = (on_disk(&before) + on_disk(&new)).saturating_sub(on_disk(&after));
        assert!(shrunk.abs_diff(counts.freed_bytes) <= blocks, "{told}; the disk has {shrunk} bytes more");
    }
    counts
}

/// The objects of one list that another has not.
fn without(objects: &Objects, others: &Objects) -> Objects {
    let only = objects.iter().filter(|(name, _)| !others.contains_key(*name));
    only.map(|(name, object)| (name.clone(), *object)).collect()
}

/// Compares what is stored with what versions need.
fn compare(world: &World, versions: usize) {
    let (objects, needed) = (world.storage.objects(), world.storage.needed());
    let stored: BTreeSet<_> = objects.keys().cloned().collect();
    assert_eq!(stored, needed.packs, "packs on disk and packs with rows");
    let on_disk = on_disk(&objects);
    let thousandths = on_disk * 1000 / needed.distinct;
    eprintln!("versions at the end    {versions} in {} packs", objects.len());
    eprintln!("needed                 {} bytes, {} with duplicates", needed.distinct, needed.bytes);
    eprintln!("on disk                {on_disk} bytes, and {} of documents", world.storage.documents());
    eprintln!("on disk / needed       {}.{:03}", thousandths / 1000, thousandths % 1000);
    assert!(on_disk >= needed.bytes, "something that is needed is not there");
    assert!(on_disk * 100 <= needed.distinct * PERCENT, "more than {PERCENT} % of what is needed is stored");
}
