//! Pushes that share chunks, pulls, deletions, restores, retention, compaction and garbage collection together, with
//! the built programs as processes, while the server is killed again and again. Nothing that is published is ever
//! damaged; what nobody needs is gone at the end, and nothing else.
//!
//! A round: agents push to four apps of two projects and pull what is there; versions are deleted and brought back; a
//! file is read while it is moved to another pack; an upload stays open during a collection; garbage is collected all
//! the time; and the server dies once, at a place of `failpoint::COLLECT` or `failpoint::PUSH` or at any moment. When
//! it is dead, `kkartifact admin verify` reads what it has left. After a round what is listed is compared with what was
//! done, and some of it with what was pushed.
//!
//! `KKARTIFACT_SOAK_SEED` sets what is pushed and chosen. `KKARTIFACT_SOAK_MINUTES` makes builds larger and goes on for
//! so long; else there are just as many rounds as the server needs to die at every place of a collection.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it does"
)]

mod builds;
mod collect;
mod end;
mod kill;
mod model;
mod scenes;
mod storage;
mod tally;
mod traffic;
mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kkartifact_testkit::process::{Programs, ServerProcess};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use tokio::runtime::Handle;

use crate::builds::{APPS, DRAFTS, FILES, PUSHED, Scale};
use crate::kill::{Death, ROUNDS};
use crate::storage::Storage;
use crate::world::{Place, World};

const SETTINGS: &[(&str, &str)] = &[
    // What is deleted is collected by the next run, and gone with it.
    ("KKARTIFACT_GC__GRACE_MINUTES", "0"),
    ("KKARTIFACT_GC__DELAY_MINUTES", "0"),
    ("KKARTIFACT_GC__DEAD_PERCENT", "5"),
    ("KKARTIFACT_UPLOAD__IDLE_SECONDS", "60"),
    // On PostgreSQL, what a killed server was doing waits for so long.
    ("KKARTIFACT_JOBS__LEASE_SECONDS", "2"),
];

/// How many of the newest versions of each app retention keeps.
const KEEP: u32 = 3;
/// How many versions are pulled after a round.
const SAMPLE: u64 = 2;

async fn nothing_is_lost_and_nothing_is_left(db: TestDatabase) {
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || soak(db, &handle)).await.unwrap();
}

fn seed() -> u64 {
    let given = std::env::var("KKARTIFACT_SOAK_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
    eprintln!("KKARTIFACT_SOAK_SEED={seed}");
    seed
}

/// For how long to go on, if not for a number of rounds.
fn length() -> Option<Duration> {
    let minutes = std::env::var("KKARTIFACT_SOAK_MINUTES").ok()?;
    Some(Duration::from_mins(minutes.parse().unwrap()))
}

fn soak(database: TestDatabase, handle: &Handle) {
    let (started, seed, length) = (Instant::now(), seed(), length());
    let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
    let dir = tempfile::tempdir().unwrap();
    let (root, database_url) = (dir.path().to_owned(), database.url());
    let (mut server, token) = ServerProcess::start_with(&programs, &root.join("server"), database, SETTINGS);
    let storage = Storage::open(handle, root.join("server/data"), database_url);
    let place = Place { programs, root, url: server.url(), token };
    let scale = if length.is_some() { Scale::LARGE } else { Scale::SMALL };
    let world = World::new(place, storage, handle, scale, seed);
    world.prepare(KEEP);
    // One after the other: two who push the same at the same moment both store it.
    for number in 0..traffic::SEEDED {
        for app in 0..PUSHED {
            traffic::push_number(&world, app, number);
        }
    }

    let mut number = 0;
    while number < ROUNDS || length.is_some_and(|length| started.elapsed() < length) {
        let death = Death::of(&world, number);
        eprintln!("round {number}: {death}");
        round(&world, &mut server, &death, number);
        check(&world, &server, length.is_some() || number % 3 == 2, number);
        number += 1;
    }
    world.tally().rounds = number;

    end::finish(&world, &mut server);
    let tally = world.tally();
    eprintln!("{tally}");
    eprintln!("seed                      {seed}, {:?}", started.elapsed());
    tally.check();
}

/// Counts who works, and tells the others if one fails.
struct Working<'a> {
    world: &'a World,
    busy: &'a AtomicUsize,
}

impl<'a> Working<'a> {
    fn new(world: &'a World, busy: &'a AtomicUsize) -> Self {
        busy.fetch_add(1, Ordering::SeqCst);
        Self { world, busy }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.world.fail();
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Everybody at once.
fn round(world: &World, server: &mut ServerProcess, death: &Death, number: u64) {
    server.stop();
    server.restart(death.failpoint().as_deref());
    let (busy, others, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let mut works: Vec<Box<dyn FnOnce() + Send + '_>> = Vec::new();
    for app in 0..PUSHED {
        works.push(Box::new(move || traffic::push_some(world, app, number)));
    }
    for who in ["puller-1", "puller-2"] {
        works.push(Box::new(move || traffic::pull_some(world, who, number)));
    }
    works.push(Box::new(move || traffic::delete_some(world, number)));
    works.push(Box::new(move || scenes::read_slowly(world, number)));
    works.push(Box::new(move || scenes::draft(world, number)));
    std::thread::scope(|scope| {
        for work in works {
            let working = Working::new(world, &busy);
            scope.spawn(move || {
                let _working = working;
                work();
            });
        }
        scope.spawn(|| {
            let _working = Working::new(world, &others);
            if number % 2 == 1 {
                collect::retain(world);
            }
            collect::collect_while(world, &busy);
            over.store(true, Ordering::SeqCst);
        });
        let _working = Working::new(world, &others);
        kill::kill(world, server, death, &over, number.is_multiple_of(2));
    });
}

/// While nothing goes on: what is listed is what must be there, and it is what was pushed.
fn check(world: &World, server: &ServerProcess, all: bool, round: u64) {
    for app in 0..APPS.len() {
        world.close_uploads(app);
    }
    for app in 0..=DRAFTS {
        world.model.settle(app, &world.listed(app));
    }
    assert!(world.listed(FILES).is_empty(), "what was read has been deleted");
    if all {
        server.verify();
    }
    let live = world.model.live();
    for i in 0..SAMPLE {
        traffic::pull(world, "checker", &live[world.pick(&[30, round, i], live.len())]);
    }
}

on_both_databases! {
    nothing_is_lost_and_nothing_is_left,
}
