//! Two things that have to happen during a collection: a read that goes on while what it reads is moved, and an upload
//! that is open.

use kkartifact_model::FileDigest;
use reqwest::{Method, Response};
use serde_json::json;

use crate::builds::{APPS, Build, DRAFTS, FILES};
use crate::traffic::{pull, push};
use crate::world::World;

/// How often a read is tried that kills cut.
const TRIES: u64 = 4;
/// Bytes of a file that is read slowly: below 8 MiB, so that its pack is one of the small ones that are merged, and
/// far above what waits between two processes.
const LARGE: usize = 7 << 20;
/// What is read of it before the others move it.
const BEGINNING: usize = 64 << 10;

/// Reads a file slowly while its pack is merged with others.
pub(crate) fn read_slowly(world: &World, round: u64) {
    for attempt in 0..TRIES {
        let names = [format!("r{round}-{attempt}-a"), format!("r{round}-{attempt}-b")];
        let is_read = read_once(world, round * TRIES + attempt, &names);
        for name in &names {
            world.delete(FILES, name);
        }
        if is_read {
            world.tally().reads_over_compaction += 1;
            return;
        }
        world.tally().reads_cut += 1;
    }
}

/// Pushes two versions with a file, begins to read it, and reads on when it lies in another pack; false if it was cut.
fn read_once(world: &World, number: u64, names: &[String; 2]) -> bool {
    let (path, [first, second]) = ("large.bin", names);
    let mut build = Build::default();
    build.add(path.to_owned(), world.seed, &[5, number], LARGE);
    let (_, expected) = build.files().next().unwrap();

    // No collection until the read has begun: the next one finds four small packs.
    let turn = world.gate.blocking_lock();
    push(world, "reader", FILES, first, &build);
    build.add("small.bin".to_owned(), world.seed, &[6, number], 100 << 10);
    push(world, "reader", FILES, second, &build);
    world.close_uploads(FILES);
    let before = world.until("the packs of a file", || world.storage.packs_of(FILES, second, path));
    let (project, app) = APPS[FILES];
    let begun = world.download(&format!("/file/{project}/{app}/{second}?path={path}"));
    let Some(mut download) = begun else { return false };
    let mut bytes = Vec::with_capacity(expected.len());
    if !read(world, &mut download, &mut bytes, BEGINNING) {
        return false;
    }
    drop(turn);

    world.until("a compaction of what is being read", || {
        world.storage.packs_of(FILES, second, path).filter(|now| now.is_disjoint(&before))
    });
    assert!(bytes.len() < LARGE / 2, "there was not much left to read");
    if !read(world, &mut download, &mut bytes, usize::MAX) {
        return false;
    }
    assert_eq!(bytes.len(), expected.len(), "a read ended early and was not cut");
    assert_eq!(FileDigest::of(&bytes), FileDigest::of(&expected), "what was read over a compaction");
    true
}

/// Reads on until there are so many bytes, or all; false if the answer was cut.
fn read(world: &World, download: &mut Response, bytes: &mut Vec<u8>, until: usize) -> bool {
    while bytes.len() < until {
        match world.handle.block_on(download.chunk()) {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Leaves an upload without the rest of its files during a whole collection, finishes it and compares what was
/// published. Gives up another one, whose packs nothing needs then.
pub(crate) fn draft(world: &World, round: u64) {
    litter(world, &format!("never-{round}"), 500 + round);
    let name = format!("draft-{round}");
    let mut build = Build::default();
    for i in 0..3 {
        build.add(format!("part/{i}.bin"), world.seed, &[7, round, i], world.scale.file);
    }
    let is_published = (0..TRIES).any(|_| draft_once(world, &name, &build));
    assert!(is_published, "{name} was closed again and again");
    world.model.add(DRAFTS, &name, &build);
    world.tally().drafts += 1;
    let published = world.model.live().into_iter().find(|version| version.name == name);
    pull(world, "drafter", &published.unwrap());
}

/// Uploads a build; false if the upload was closed because it took too long.
fn draft_once(world: &World, name: &str, build: &Build) -> bool {
    let upload = open(world, name);
    let files: Vec<_> = build.files().collect();
    let (last, others) = files.split_last().unwrap();
    if !others.iter().all(|(path, bytes)| put(world, name, &upload, path, bytes)) {
        return false;
    }
    // The first one may have begun before.
    let before = world.tally().collections;
    world.until("two collections", || (world.tally().collections >= before + 2).then_some(()));
    if !put(world, name, &upload, last.0, &last.1) {
        return false;
    }
    let answer = world.call(&Method::POST, "/upload/finish", Some(&json!({ "upload_id": upload })));
    let is_published = matches!(answer.status, 200 | 201);
    assert!(is_published || is_closed(&answer.json), "{name}: {} {}", answer.status, answer.json);
    is_published
}

/// Uploads some bytes and gives the upload up: garbage, and nothing else.
pub(crate) fn litter(world: &World, name: &str, number: u64) {
    let mut build = Build::default();
    build.add("litter.bin".to_owned(), world.seed, &[8, number], world.scale.file);
    let upload = open(world, name);
    for (path, bytes) in build.files() {
        assert!(put(world, name, &upload, path, &bytes), "{name} was closed at once");
    }
    world.give_up(&upload);
}

/// Opens an upload of a version.
fn open(world: &World, name: &str) -> String {
    let (project, app) = APPS[DRAFTS];
    let init = json!({ "project": project, "app": app, "version": name });
    let answer = world.call(&Method::POST, "/upload/init", Some(&init));
    assert_eq!(answer.status, 201, "{name}: {}", answer.json);
    answer.json["upload_id"].as_str().unwrap().to_owned()
}

/// Puts a file; false if the upload was closed.
fn put(world: &World, name: &str, upload: &str, path: &str, bytes: &[u8]) -> bool {
    let (project, app) = APPS[DRAFTS];
    let answer = world.send(&format!("PUT {path} of {name}"), |http, base| {
        let request = http.put(format!("{base}/file/{project}/{app}/{name}"));
        request.query(&[("path", path), ("upload_id", upload)]).body(bytes.to_vec())
    });
    assert!(answer.status == 200 || is_closed(&answer.json), "{path}: {} {}", answer.status, answer.json);
    answer.status == 200
}

fn is_closed(json: &serde_json::Value) -> bool {
    json["error"]["code"] == "upload_closed"
}
