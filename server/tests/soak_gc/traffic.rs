//! What callers do: push, pull, delete and bring back. What fails because the server was killed is done again; what was
//! deleted meanwhile is said to be.

use std::process::Output;

use reqwest::Method;

use crate::builds::{APPS, Build};
use crate::model::{State, Version};
use crate::world::{World, version_path};

/// Versions of each app that are pushed before the first round.
pub(crate) const SEEDED: u64 = 2;

/// The exit code where the server can't be reached or can't serve now.
const UNAVAILABLE: i32 = 7;
/// The exit code where something is not there.
const NOT_FOUND: i32 = 4;
/// The exit code of a fault of the server.
const FAILED: i32 = 1;
/// The exit code where content is not what it should be.
const INVALID: i32 = 6;

fn said(done: &Output) -> String {
    format!("{}: {}", done.status, String::from_utf8_lossy(&done.stderr))
}

/// Pushes a build until the server says that it is there.
pub(crate) fn push(world: &World, who: &str, app: usize, name: &str, build: &Build) {
    let dir = world.fresh("builds", who);
    build.write(&dir);
    let agent = world.agent(who, app);
    let args = ["push", "--path", dir.to_str().unwrap(), "--version", name, "--force"];
    world.until(&format!("the push of {name}"), || {
        let done = agent.run(&args, None);
        if done.status.success() {
            return Some(());
        }
        assert_eq!(done.status.code(), Some(UNAVAILABLE), "push of {name}: {}", said(&done));
        world.tally().pushes_again += 1;
        None
    });
    world.tally().pushes += 1;
}

/// Pushes new versions of an app.
pub(crate) fn push_some(world: &World, app: usize, round: u64) {
    for i in 0..world.scale.pushes {
        push_number(world, app, SEEDED + round * world.scale.pushes + i);
    }
}

/// Pushes a version of an app by its number.
pub(crate) fn push_number(world: &World, app: usize, number: u64) {
    let (project, name) = APPS[app];
    let (who, version) = (format!("{project}-{name}"), format!("v{number}"));
    let build = Build::of(world.seed, &world.scale, app, number);
    push(world, &who, app, &version, &build);
    world.model.add(app, &version, &build);
}

/// Pulls a version into a directory that is not there and compares it; or the server says that it was deleted.
pub(crate) fn pull(world: &World, who: &str, version: &Version) {
    let agent = world.agent(who, version.app);
    let what = format!("{}/{} {}", APPS[version.app].0, APPS[version.app].1, version.name);
    world.until(&format!("the pull of {what}"), || {
        let target = world.fresh("hosts", who).join("app");
        let args = ["pull", "--path", target.to_str().unwrap(), "--version", &version.name];
        let done = agent.run(&args, None);
        if done.status.success() {
            version.build.check(&target, &what);
            world.tally().pulls += 1;
            return Some(());
        }
        let said = said(&done);
        match done.status.code() {
            Some(NOT_FOUND) if said.contains("was deleted") => {
                assert!(has_been_away(world, version), "{what} is there: {said}");
                world.tally().pulls_of_deleted += 1;
                return Some(());
            }
            Some(UNAVAILABLE) => {}
            // It lost its chunks while they were sent, or came back with other times. The next try is told why.
            Some(FAILED | INVALID) => assert!(has_been_away(world, version), "pull of {what}: {said}"),
            _ => panic!("pull of {what}: {said}"),
        }
        world.tally().pulls_again += 1;
        None
    });
}

/// Whether a version has been deleted since it was chosen.
fn has_been_away(world: &World, version: &Version) -> bool {
    world.model.deletions(version) != version.deletions || world.state_of(version) != "published"
}

/// Pulls some of the versions that are there.
pub(crate) fn pull_some(world: &World, who: &str, round: u64) {
    let worker: u64 = who.bytes().map(u64::from).sum();
    for i in 0..world.scale.pulls {
        let live = world.model.live();
        let chosen = world.pick(&[10, worker, round, i], live.len());
        pull(world, who, &live[chosen]);
    }
}

/// Deletes some versions, and brings some of them back.
pub(crate) fn delete_some(world: &World, round: u64) {
    for i in 0..world.scale.deletes {
        let taken = world.model.take(1, |many| world.pick(&[11, round, i], many));
        let Some(version) = taken else { return };
        world.delete(version.app, &version.name);
        // The first one stays away: there is something to purge in every round.
        if i == 0 {
            world.model.put(&version, State::Gone);
            continue;
        }
        if (round + i).is_multiple_of(2) || !restore(world, &version) {
            push(world, "deleter", version.app, &version.name, &version.build);
            world.tally().brought_back += 1;
        }
        world.model.put(&version, State::Live);
    }
}

/// Restores a deleted version; false if it has lost its bytes.
fn restore(world: &World, version: &Version) -> bool {
    let path = format!("{}/restore", version_path(version.app, &version.name));
    let answer = world.call(&Method::POST, &path, None);
    if answer.status == 200 {
        world.tally().restores += 1;
        return true;
    }
    assert_eq!(answer.json["error"]["code"], "version_deleted", "{}: {}", answer.status, answer.json);
    false
}
