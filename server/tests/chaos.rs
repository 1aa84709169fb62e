//! Killing the server at every durable step of a push and the agent at every durable step of a pull, and both at
//! random moments. Afterwards nothing that is published is damaged, no target is in an unknown state, and trying
//! again succeeds.
//!
//! `KKARTIFACT_CHAOS_ROUNDS` sets how many random moments are tried, `KKARTIFACT_CHAOS_SEED` which.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it does"
)]

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use kkartifact_model::failpoint;
use kkartifact_testkit::process::{AgentProcess, Programs, ServerProcess};
use kkartifact_testkit::tree::{assert_same_content, chmod, content, noise, sample, write};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use serde_json::Value;
use tempfile::TempDir;

struct World {
    _dir: TempDir,
    server: ServerProcess,
    agent: AgentProcess,
    builds: [PathBuf; 2],
    root: PathBuf,
}

/// A server that has version v1, and a second build that adds, changes and removes all kinds of things.
fn world(database: TestDatabase) -> World {
    let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let (server, token) = ServerProcess::start(&programs, &root.join("server"), database);
    let agent = AgentProcess::new(&programs, &root.join("home"), &server.url(), &token);
    let builds = ["build-1", "build-2"].map(|name| root.join(name));
    for (seed, build) in (1..).zip(&builds) {
        sample(build);
        for i in 0..120 {
            write(
                build,
                &format!("src/m{}/f{i}", i % 7),
                &noise(i * if i % 3 == 0 { seed } else { 1 }, 3000),
            );
        }
        let mut large = noise(99, 3 << 20);
        large[1_000_000..1_000_004].copy_from_slice(&[u8::try_from(seed).unwrap(); 4]);
        write(build, "large.bin", &large);
        write(build, &format!("only-in-{seed}/a/b"), b"x");
    }
    std::fs::remove_file(builds[1].join("current")).unwrap();
    write(&builds[1], "current/is/a/directory", b"now");
    std::fs::remove_dir_all(builds[1].join("lib")).unwrap();
    write(&builds[1], "lib", b"a file now");
    chmod(&builds[1], "bin/app", 0o700);
    let world = World { _dir: dir, server, agent, builds, root };
    world.push(0, "v1");
    world.wait_for_jobs();
    world
}

impl World {
    fn args(path: &Path, version: &str) -> [String; 4] {
        ["--path".into(), path.display().to_string(), "--version".into(), version.into()]
    }

    fn command<'a>(verb: &'a str, args: &'a [String; 4]) -> [&'a str; 5] {
        [verb, &args[0], &args[1], &args[2], &args[3]]
    }

    fn push(&self, build: usize, version: &str) -> String {
        self.agent.ok(&Self::command("push", &Self::args(&self.builds[build], version)))
    }

    fn pull(&self, target: &Path, version: &str) -> String {
        self.agent.ok(&Self::command("pull", &Self::args(target, version)))
    }

    /// Waits until the markers of what is published are written.
    fn wait_for_jobs(&self) {
        let markers = self.root.join("server/data/content/versions/shop/web");
        let start = Instant::now();
        while std::fs::read_dir(&markers).map_or(0, Iterator::count) == 0 {
            assert!(start.elapsed() < Duration::from_secs(30), "no marker was written");
        }
    }

    /// A version is published, whole, and what was built; and so is everything else that is published.
    fn check_published(&self, build: usize, version: &str) {
        self.server.verify();
        let check = self.root.join("check");
        self.pull(&check, version);
        assert_same_content(&self.builds[build], &check);
    }

    /// What has its final name in the store is whole: a pack ends with its trailer.
    fn check_no_torn_objects(&self) {
        let store = self.root.join("server/data/content");
        let mut packs = 0;
        for part in std::fs::read_dir(store.join("packs")).unwrap().map(Result::unwrap) {
            for pack in std::fs::read_dir(part.path()).unwrap().map(Result::unwrap) {
                let bytes = std::fs::read(pack.path()).unwrap();
                let whole = bytes.starts_with(b"kkpack1\n") && bytes.ends_with(b"kkpack1\n");
                assert!(whole && bytes.len() > 8, "{} is torn", pack.path().display());
                packs += 1;
            }
        }
        assert!(packs > 0);
    }

    /// The names of all versions.
    fn versions(&self) -> Vec<String> {
        let listed: Value =
            serde_json::from_str(&self.agent.ok(&["versions", "--json", "--limit", "500"])).unwrap();
        let items = listed["items"].as_array().unwrap();
        items.iter().map(|version| version["version"].as_str().unwrap().to_owned()).collect()
    }

    /// After an agent was killed: the target is one version, or a journal says that it is being changed.
    fn check_not_unnoticed(&self, target: &Path, versions: [usize; 2]) {
        let state =
            target.with_file_name(format!(".{}.kkartifact", target.file_name().unwrap().to_str().unwrap()));
        if state.join("journal").is_file() {
            let status = self.agent.ok(&["status", "--json", "--path", target.to_str().unwrap()]);
            let status: Value = serde_json::from_str(&status).unwrap();
            assert_eq!(status["interrupted"], true, "{status}");
            return;
        }
        let found = content(target);
        assert!(versions.iter().any(|build| content(&self.builds[*build]) == found), "a mix of two versions");
    }
}

/// Does blocking work where it may block.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.unwrap();
}

async fn the_server_dies_at_every_step_of_a_push(db: TestDatabase) {
    blocking(move || {
        let mut world = world(db);
        for place in failpoint::PUSH {
            world.server.stop();
            world.server.restart(Some(place));
            let version = format!("at-{place}");
            // Each push has something new to store: at every step there is something to lose.
            write(&world.builds[1], "which", version.as_bytes());
            let args = World::args(&world.builds[1], &version);
            let mut pushing = world.agent.start(&World::command("push", &args));
            world.server.wait_until_killed();
            world.check_no_torn_objects();
            world.server.restart(None);
            // The push that was under way may make it, since it tries again. If it says so, it is there.
            if pushing.wait().unwrap().success() {
                assert!(world.versions().contains(&version), "{place}: a push said done");
            }
            world.push(1, &version);
            world.check_published(1, &version);
        }
        assert_eq!(world.versions().len(), 1 + failpoint::PUSH.len());
    })
    .await;
}

async fn the_agent_dies_at_every_step_of_a_pull(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        world.push(1, "v2");
        for place in failpoint::PULL {
            let target = world.root.join(format!("hosts/{place}"));
            world.pull(&target, "v1");
            let args = World::args(&target, "v2");
            let killed = world.agent.run(&World::command("pull", &args), Some(place)).status;
            assert_eq!(killed.signal(), Some(9), "{place} was not reached: {killed}");
            world.check_not_unnoticed(&target, [0, 1]);
            world.pull(&target, "v2");
            assert_same_content(&world.builds[1], &target);
            world.agent.ok(&["verify", "--path", target.to_str().unwrap()]);
            // And back, which has what it needs.
            world.agent.ok(&["rollback", "--path", target.to_str().unwrap()]);
            assert_same_content(&world.builds[0], &target);
        }
    })
    .await;
}

/// The first pull into a directory that does not exist is the same, with nothing to go back to.
async fn the_agent_dies_at_every_step_of_a_first_pull(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        for place in failpoint::PULL {
            let target = world.root.join(format!("new/{place}"));
            let args = World::args(&target, "v1");
            let killed = world.agent.run(&World::command("pull", &args), Some(place)).status;
            assert_eq!(killed.signal(), Some(9), "{place} was not reached: {killed}");
            world.pull(&target, "v1");
            assert_same_content(&world.builds[0], &target);
        }
    })
    .await;
}

fn rounds() -> u64 {
    std::env::var("KKARTIFACT_CHAOS_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

fn seed() -> u64 {
    let given = std::env::var("KKARTIFACT_CHAOS_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
    eprintln!("KKARTIFACT_CHAOS_SEED={seed}");
    seed
}

/// A moment between nothing and a bit more than all of `length`.
fn moment(seed: u64, round: u64, length: Duration) -> Duration {
    let random = noise(seed ^ round.rotate_left(32), 4);
    let part = f64::from(u32::from_le_bytes(random.try_into().unwrap())) / f64::from(u32::MAX);
    length.mul_f64(part * 1.2)
}

fn sleep(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the moment is what the test is about; any is right")]
    std::thread::sleep(duration);
}

/// Pushes one new version after the other, and kills the server or the agent somewhere in each.
fn die_in_pushes(mut world: World, kill: impl Fn(&mut World, &mut Child)) {
    let (seed, mut length) = (seed(), Duration::from_millis(300));
    for round in 0..rounds() {
        let version = format!("r{round}");
        write(&world.builds[1], "which", version.as_bytes());
        write(&world.builds[1], "large.bin", &noise(seed ^ round, 2 << 20));
        let (args, after) = (World::args(&world.builds[1], &version), moment(seed, round, length));
        let start = Instant::now();
        let mut pushing = world.agent.start(&World::command("push", &args));
        sleep(after);
        let in_time = pushing.try_wait().unwrap().is_none();
        kill(&mut world, &mut pushing);
        eprintln!("push {round}: killed after {after:?}{}", if in_time { "" } else { ", too late" });
        if pushing.wait().unwrap().success() {
            assert!(world.versions().contains(&version), "a push said done");
        }
        if !in_time {
            length = start.elapsed().min(after);
        }
        world.server.verify();
        world.push(1, &version);
        world.check_published(1, &version);
    }
}

async fn the_server_dies_at_random_moments_of_pushes(db: TestDatabase) {
    blocking(move || {
        die_in_pushes(world(db), |world, _| {
            world.server.kill();
            world.check_no_torn_objects();
            world.server.restart(None);
        });
    })
    .await;
}

async fn the_agent_dies_at_random_moments_of_pushes(db: TestDatabase) {
    blocking(move || die_in_pushes(world(db), |_, pushing| pushing.kill().unwrap())).await;
}

async fn the_agent_dies_at_random_moments_of_pulls(db: TestDatabase) {
    blocking(move || {
        let (world, seed) = (world(db), seed());
        world.push(1, "v2");
        let target = world.root.join("hosts/app");
        let start = Instant::now();
        world.pull(&target, "v1");
        let mut length = start.elapsed();
        let mut now = 0;
        for round in 0..rounds() {
            let next = 1 - now;
            let (args, after) = (World::args(&target, ["v1", "v2"][next]), moment(seed, round, length));
            let start = Instant::now();
            let mut pulling = world.agent.start(&World::command("pull", &args));
            sleep(after);
            let in_time = pulling.try_wait().unwrap().is_none();
            pulling.kill().unwrap();
            pulling.wait().unwrap();
            eprintln!("pull {round}: killed after {after:?}{}", if in_time { "" } else { ", too late" });
            if !in_time {
                length = start.elapsed().min(after);
            }
            world.check_not_unnoticed(&target, [now, next]);
            world.pull(&target, ["v1", "v2"][next]);
            assert_same_content(&world.builds[next], &target);
            now = next;
        }
    })
    .await;
}

/// What lies in the target and in the staging tree may be changed between death and recovery, also by somebody who
/// wants the agent to write elsewhere.
async fn what_is_changed_while_the_agent_is_dead_is_neither_followed_nor_trusted(db: TestDatabase) {
    blocking(move || {
        let world = world(db);
        world.push(1, "v2");
        for place in ["pull.planned", "pull.staged", "pull.journal-written", "pull.half-changed"] {
            let outside = world.root.join(format!("outside-{place}"));
            sample(&outside);
            let before = content(&outside);
            let target = world.root.join(format!("hosts/{place}"));
            world.pull(&target, "v1");
            let args = World::args(&target, "v2");
            let killed = world.agent.run(&World::command("pull", &args), Some(place)).status;
            assert_eq!(killed.signal(), Some(9), "{place} was not reached: {killed}");
            // A directory of the target becomes a link that leads out.
            std::fs::rename(target.join("src"), world.root.join(format!("moved-{place}"))).unwrap();
            std::os::unix::fs::symlink(&outside, target.join("src")).unwrap();
            // A staged file has other bytes now, with the size and the time of before.
            let staged = target.with_file_name(format!(".{place}.kkartifact")).join("staging/tree/large.bin");
            if place == "pull.staged" {
                let time = std::fs::metadata(&staged).unwrap().modified().unwrap();
                let size = usize::try_from(std::fs::metadata(&staged).unwrap().len()).unwrap();
                std::fs::write(&staged, vec![0; size]).unwrap();
                std::fs::File::open(&staged).unwrap().set_modified(time).unwrap();
            }
            // The interrupted change may have to be undone, which the first call says; then it goes on.
            let first = world.agent.run(&World::command("pull", &args), None);
            if !first.status.success() {
                let said = String::from_utf8_lossy(&first.stderr).into_owned();
                assert!(said.contains("the change was undone"), "{place}: {said}");
                world.pull(&target, "v2");
            }
            assert_same_content(&world.builds[1], &target);
            assert_eq!(content(&outside), before, "{place}: outside the target");
        }
    })
    .await;
}

on_both_databases! {
    the_server_dies_at_every_step_of_a_push,
    the_agent_dies_at_every_step_of_a_pull,
    the_agent_dies_at_every_step_of_a_first_pull,
    the_server_dies_at_random_moments_of_pushes,
    the_agent_dies_at_random_moments_of_pulls,
    the_agent_dies_at_random_moments_of_pushes,
    what_is_changed_while_the_agent_is_dead_is_neither_followed_nor_trusted,
}
