//! Who reads or pushes what is collected at the same time.

use std::io::Write as _;
use std::process::Command;

use chrono::TimeDelta;
use futures_util::future::join_all;
use kkartifact::verify;
use kkartifact_model::manifest::RefSet;
use kkartifact_model::wire::{Frame, FrameReader};
use kkartifact_model::{ChunkId, Code, VersionRef};
use kkartifact_service::{ApiError, lifecycle};
use kkartifact_store::{NewChunk, NewPack, Tx, VersionRow};
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::json;
use uuid::Uuid;

use crate::{FILE, by_hand, collect_later, delete, find, packs, push, until};

const V1: &str = "/projects/shop/apps/web/versions/v1";

/// The row of a version of shop/web.
async fn row(server: &TestServer, version: &str) -> VersionRow {
    let mut tx = server.resources().db.read().await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let version: VersionRef = version.parse().unwrap();
    tx.find_version(app.id, &version).await.unwrap().unwrap()
}

/// All references of a version of shop/web, as a body.
async fn all_chunks(server: &TestServer, version: &str) -> Vec<u8> {
    let row = row(server, version).await;
    let refs = server.resources().content.root(row.app_id, row.manifest_root).await.unwrap().refs();
    let mut wanted = RefSet::new(refs);
    (0..refs).for_each(|reference| wanted.insert(reference));
    wanted.encode()
}

/// Begins to store this chunk as somebody else would who pushes it to shop/web at the same time: until it is over,
/// nobody else records the chunk.
async fn store_elsewhere(server: &TestServer, content: &[u8]) -> Tx {
    let resources = server.resources();
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let len = u32::try_from(content.len()).unwrap();
    let chunk = NewChunk { id: ChunkId::of(content), offset: 8, stored_len: len, len, sha256: None };
    let (key, element) = (Uuid::now_v7(), resources.element);
    let pack =
        NewPack { key, element, project: app.project_id, app: app.id, size: 1 << 20, chunks: &[chunk] };
    tx.insert_pack(&pack, now).await.unwrap().unwrap();
    tx
}

async fn a_pack_that_was_collected_before_it_is_recorded_is_sent_again(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    server.make_app("shop", "web").await;
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let content = noise(1, FILE);
    server.clock.advance(TimeDelta::seconds(1));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let request = server.request(Method::PUT, "/file/shop/web/v1?path=own", &server.admin);
    let put = server.send(request.body(reqwest::Body::wrap_stream(body)));
    let meanwhile = async {
        sender.send(Ok(content[..FILE / 2].to_vec())).await.unwrap();
        // The file is being taken when the end of the upload has been put off.
        let upload = format!("/upload/{}", opened["upload_id"].as_str().unwrap());
        until("the upload to be used", async || {
            let now = server.get(&upload, &server.admin).await.expect(200).json();
            (now["expires_at"] != opened["expires_at"]).then_some(())
        })
        .await;
        let held = store_elsewhere(&server, &content).await;
        sender.send(Ok(content[FILE / 2..].to_vec())).await.unwrap();
        drop(sender);
        let pack = until("the pack", async || packs(&server).pop()).await;
        // Adopted, claimed and removed, row and all, before who has sealed it comes to record it.
        std::fs::remove_file(pack).unwrap();
        drop(held);
    };
    let (refused, ()) = tokio::join!(put, meanwhile);
    refused.refused(503, "unavailable");

    let request = server.request(Method::PUT, "/file/shop/web/v1?path=own", &server.admin);
    server.send(request.body(content.clone())).await.expect(200);
    let finish = json!({ "upload_id": opened["upload_id"] });
    server.post("/upload/finish", &server.admin, finish).await.expect(201);
    let report = verify::verify_all(server.resources()).await.unwrap();
    assert!(report.versions == 1 && report.problems.is_empty(), "{report:?}");
}

/// Begins an answer and leaves the rest of it for later.
async fn begin(request: RequestBuilder) -> (Response, Vec<u8>) {
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let first = response.chunk().await.unwrap().unwrap();
    (response, first.to_vec())
}

/// Reads an answer to its end; whether it was cut.
async fn read(response: &mut Response, bytes: &mut Vec<u8>) -> bool {
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

async fn an_answer_whose_version_is_purged_is_cut_or_says_so(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    // Far above what waits between two processes.
    let content = noise(1, 32 << 20);
    server.push_files("shop/web", "v1", &server.admin, &[("own", &content)]).await.expect(201);
    let wanted = all_chunks(&server, "v1").await;
    let file = server.request(Method::GET, "/file/shop/web/v1?path=own", &server.admin);
    let chunks = server.request(Method::POST, "/chunks/shop/web/v1", &server.admin).body(wanted);
    let (mut file, mut file_bytes) = begin(file).await;
    let (mut chunks, mut chunk_bytes) = begin(chunks).await;

    delete(&server, V1, 200).await;
    collect_later(&server).await;
    collect_later(&server).await;
    assert!(packs(&server).is_empty());

    assert!(read(&mut file, &mut file_bytes).await, "the connection is cut");
    assert!(file_bytes.len() < content.len() && content.starts_with(&file_bytes));
    assert!(!read(&mut chunks, &mut chunk_bytes).await, "a stream of frames has an end of its own");
    let mut frames = FrameReader::default();
    frames.push(&chunk_bytes);
    let mut last = None;
    while let Some(frame) = frames.next_frame().unwrap() {
        last = Some(frame);
    }
    let Some(Frame::Error(body)) = last else { panic!("the stream ends with {last:?}") };
    assert_eq!(body.error.code, Code::VersionDeleted);
}

/// Only PostgreSQL has locks that readers wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_before_the_first_byte_is_gone_and_no_fault() {
    let mut server =
        by_hand(TestDatabase::postgres().await, |config| config.database.max_connections = Some(30)).await;
    push(&server, "shop/web", "v1", 1).await;
    push(&server, "shop/web", "v2", 2).await;
    let wanted = all_chunks(&server, "v1").await;
    // Of v1 the manifest is in memory, of v2 nothing.
    server.restart_with(|_| {}).await;
    let head = server.request(Method::HEAD, "/file/shop/web/v1?path=own", &server.admin);
    server.send(head).await.expect(200);

    let gets = [
        "/file/shop/web/v1?path=own",
        "/archive/shop/web/v1?format=zip",
        "/file/shop/web/v2?path=own",
        "/archive/shop/web/v2",
        "/manifest/shop/web/v2?format=stream",
        "/projects/shop/apps/web/diff?from=v2&to=v1",
    ];
    let posts = ["/chunks/shop/web/v1", "/chunks/shop/web/v2"];
    let gets = gets.map(|path| server.request(Method::GET, path, &server.admin));
    let posts = posts.map(|path| server.request(Method::POST, path, &server.admin).body(wanted.clone()));
    let requests: Vec<_> = gets.into_iter().chain(posts).collect();
    let locked = server.hold("LOCK TABLE chunk IN ACCESS EXCLUSIVE MODE").await;
    let count = requests.len();
    let asking = join_all(requests.into_iter().map(|request| server.send(request)));
    let purging = async {
        // All of them have been let in, and wait to be told where the chunks are.
        let mut locked = locked;
        locked.waited_for_by(count).await;
        let purge = "UPDATE version SET state = 'purged', revision = revision + 1; DELETE FROM version_pack;
            DELETE FROM chunk";
        locked.commit(purge).await;
    };
    let (answers, ()) = tokio::join!(asking, purging);
    for answer in answers {
        answer.refused(410, "version_deleted");
    }
}

async fn what_has_gone_is_told_and_what_is_damaged_is_not_hidden(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    push(&server, "shop/web", "v1", 1).await;
    let before = [row(&server, "v1").await];
    let db = &server.resources().db;
    let why = async || lifecycle::explain(db, &before, ApiError::internal("a chunk has no place")).await.code;
    assert_eq!(why().await, Code::Internal, "it is there, and should be whole");
    server.call(Method::POST, &format!("{V1}/quarantine"), &server.admin, None).await.expect(200);
    assert_eq!(why().await, Code::VersionQuarantined);
    server.call(Method::POST, &format!("{V1}/release"), &server.admin, None).await.expect(200);
    assert_eq!(why().await, Code::Unavailable, "it was away for a while");
    delete(&server, V1, 200).await;
    assert_eq!(why().await, Code::VersionDeleted);
    collect_later(&server).await;
    assert_eq!(why().await, Code::VersionDeleted);
    // What has nothing to do with it stays what it is.
    let other = lifecycle::explain(db, &before, ApiError::new(Code::TooLarge, "too large")).await;
    assert_eq!(other.code, Code::TooLarge);
}

async fn what_is_purged_while_it_is_verified_is_not_damaged(db: TestDatabase) {
    let server = by_hand(db, |_| {}).await;
    push(&server, "shop/web", "v1", 1).await;
    let list = |dir: std::path::PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let document = list(server.content_dir().join("meta")).flat_map(list).next().unwrap();
    push(&server, "shop/web", "v2", 2).await;
    // The document of v1 becomes a pipe: who verifies it waits until somebody writes.
    let bytes = std::fs::read(&document).unwrap();
    std::fs::remove_file(&document).unwrap();
    assert!(Command::new("mkfifo").arg(&document).status().unwrap().success());
    let resources = server.resources().clone();
    let verifying = tokio::spawn(async move { verify::verify_all(&resources).await.unwrap() });
    let open = move || std::fs::File::options().write(true).open(document).unwrap();
    let mut pipe = tokio::task::spawn_blocking(open).await.unwrap();
    delete(&server, V1, 200).await;
    collect_later(&server).await;
    collect_later(&server).await;
    assert!(find(&server, &noise(1, FILE)).is_none());
    pipe.write_all(&bytes).unwrap();
    drop(pipe);
    let report = verifying.await.unwrap();
    assert!(report.versions == 1 && report.problems.is_empty(), "{report:?}");
}

on_both_databases! {
    a_pack_that_was_collected_before_it_is_recorded_is_sent_again,
    an_answer_whose_version_is_purged_is_cut_or_says_so,
    what_has_gone_is_told_and_what_is_damaged_is_not_hidden,
    what_is_purged_while_it_is_verified_is_not_damaged,
}
