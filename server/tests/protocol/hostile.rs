//! Broken and hostile streams.

use kkartifact_model::manifest::{Entry, FileNode, Node, RecordWriter, RefSet};
use kkartifact_model::wire::{BatchWriter, Compressor, Part, StoredChunk, encode_end, encode_records};
use kkartifact_model::{ChunkId, FileDigest, TreePath};
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

use super::{Upload, chunk_stream, fetch, file, manifest_stream};

async fn content_that_is_not_what_it_is_called_is_refused(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (real, lie) = (noise(1, 30_000), noise(2, 30_000));
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    upload.manifest(&[file("a", &[&real])]).await.expect(200);
    let mut batch = BatchWriter::with_ids();
    let chunk = StoredChunk { id: ChunkId::of(&real), len: 30_000, stored: lie.clone().into() };
    batch.push(&chunk, Part { first: true, last: true });
    let [head, data] = batch.take();
    let body = [head.as_ref(), data.as_ref(), &encode_end(1)].concat();
    upload.stream(Method::POST, "chunks", body).await.refused(422, "digest_mismatch");
    assert_eq!(upload.missing().await, [0]);

    // A manifest that lies about a digest, a size or a chunk's length.
    let Node::File(honest) = file("a", &[&real, &lie]).node else { panic!("a file") };
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    upload.chunks(&[&real, &lie]).await.expect(200);
    let with = |change: &dyn Fn(&mut FileNode)| {
        let mut node = honest.clone();
        change(&mut node);
        [Entry { path: TreePath::new("a").unwrap(), node: Node::File(node) }]
    };
    let wrong_digest = with(&|node| node.sha256 = FileDigest::of(b"else"));
    upload.manifest(&wrong_digest).await.expect(200);
    upload.finish().await.refused(422, "digest_mismatch");
    let wrong_order = with(&|node| node.chunks.reverse());
    upload.manifest(&wrong_order).await.expect(200);
    upload.finish().await.refused(422, "digest_mismatch");
    let wrong_size = with(&|node| node.size += 1);
    upload.manifest(&wrong_size).await.refused(422, "invalid_manifest");
    let wrong_length = with(&|node| {
        node.chunks[0].len += 1;
        node.chunks[1].len -= 1;
    });
    upload.manifest(&wrong_length).await.expect(200);
    upload.finish().await.refused(422, "invalid_manifest");
    let wrong_single = [Entry {
        path: TreePath::new("a").unwrap(),
        node: Node::File(FileNode {
            sha256: FileDigest::of(b"else"),
            ..file("a", &[&real]).file().unwrap().clone()
        }),
    }];
    upload.manifest(&wrong_single).await.expect(200);
    upload.finish().await.refused(422, "digest_mismatch");
    server.get("/projects/shop/apps/web/versions/v1", &server.admin).await.refused(404, "not_found");
    // The honest manifest still goes through.
    upload.manifest(&with(&|_| {})).await.expect(200);
    upload.finish().await.expect(201);
}

async fn manifests_that_break_the_rules_of_a_tree_are_refused(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.limits.manifest_entries = 4).await;
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    let link = |path: &str, target: &str| Entry {
        path: TreePath::new(path).unwrap(),
        node: Node::Symlink { target: target.into() },
    };
    for (entries, status, code) in [
        (vec![file("a", &[]), file("a", &[])], 422, "invalid_manifest"),
        (vec![file("b", &[]), file("a", &[])], 422, "invalid_manifest"),
        (vec![file("a", &[]), file("a/b", &[])], 422, "invalid_manifest"),
        (vec![file("a/b", &[])], 422, "invalid_manifest"),
        (vec![link("a", "/etc/passwd")], 422, "invalid_manifest"),
        (vec![link("a", "../outside")], 422, "invalid_manifest"),
        (vec![link("a", "b"), file("a/b", &[])], 422, "invalid_manifest"),
        (["a", "b", "c", "d", "e"].iter().map(|p| file(p, &[])).collect(), 413, "too_large"),
    ] {
        upload.manifest(&entries).await.refused(status, code);
    }
    // Paths that the type would not even let us write are patched into the bytes.
    for bad in
        ["../xxxxxxxxxxxxx", "/etc/xxxxxxxxxxx", "a//xxxxxxxxxxxxx", ".kkartifact.yml\0", ".kkartifact.ymL"]
    {
        let good = "aaaaaaaaaaaaaaaa";
        let mut records = RecordWriter::default();
        records.put(&file(&good[..bad.len()], &[]));
        let text = String::from_utf8_lossy(&records.take()).into_owned();
        assert!(text.contains(&good[..bad.len()]));
        let mut records = RecordWriter::default();
        records.put(&file(&good[..bad.len()], &[]));
        let mut bytes = records.take();
        bytes[2..2 + bad.len()].copy_from_slice(bad.as_bytes());
        let body = [encode_records(&bytes), encode_end(1)].concat();
        upload.stream(Method::PUT, "manifest", body).await.refused(422, "invalid_manifest");
    }
    let json = server
        .request(Method::PUT, &format!("/upload/{}/manifest", upload.id), &server.admin)
        .json(&json!([]));
    server.send(json).await.refused(415, "unsupported_media_type");
}

async fn broken_streams_are_refused_and_what_came_whole_is_kept(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (a, b) = (noise(1, 30_000), noise(2, 30_000));
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    let manifest = manifest_stream(&[file("a", &[&a]), file("b", &[&b])]);
    for cut in [0, 3, manifest.len() / 2, manifest.len() - 1] {
        let answer = upload.stream(Method::PUT, "manifest", manifest[..cut].to_vec()).await;
        answer.refused(400, "invalid_request");
    }
    let wrong_count = [&manifest[..manifest.len() - 13], &encode_end(7)[..]].concat();
    upload.stream(Method::PUT, "manifest", wrong_count).await.refused(400, "invalid_request");
    upload.stream(Method::PUT, "manifest", b"<html>".to_vec()).await.refused(400, "invalid_request");
    upload.stream(Method::PUT, "manifest", manifest).await.expect(200);

    let first = chunk_stream(&[&a]);
    let first = &first[..first.len() - 13];
    let second = chunk_stream(&[&b]);
    let cut = [first, &second[..second.len() / 2]].concat();
    upload.stream(Method::POST, "chunks", cut).await.refused(400, "invalid_request");
    assert_eq!(upload.missing().await, [1], "the first chunk came whole");
    let bomb = {
        let mut batch = BatchWriter::with_ids();
        let stored = Compressor::new().compress(&vec![0; 4 << 20]).unwrap();
        batch.push(&StoredChunk { id: ChunkId::of(b""), len: 1000, stored: stored.into() }, Part::default());
        let [head, data] = batch.take();
        [head.as_ref(), data.as_ref(), &encode_end(1)].concat()
    };
    upload.stream(Method::POST, "chunks", bomb).await.refused(400, "invalid_request");
    upload.stream(Method::POST, "chunks", vec![2, 255, 255, 255, 255]).await.refused(400, "invalid_request");
    upload.chunks(&[&b]).await.expect(200);
    upload.finish().await.expect(201);
}

async fn requests_for_chunks_that_are_not_there_are_refused(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    for body in [vec![0, 2], vec![5, 1], vec![0xff; 20], vec![0]] {
        let answer =
            server.send(server.request(Method::POST, "/chunks/shop/web/v1", &server.admin).body(body)).await;
        answer.refused(400, "invalid_request");
    }
    let huge = server.request(Method::POST, "/chunks/shop/web/v1", &server.admin).body(vec![0; 17 << 20]);
    server.send(huge).await.refused(413, "too_large");
    assert!(fetch(&server, "/chunks/shop/web/v1", &RefSet::new(1), &server.admin).await.is_empty());
}

on_both_databases! {
    content_that_is_not_what_it_is_called_is_refused,
    manifests_that_break_the_rules_of_a_tree_are_refused,
    broken_streams_are_refused_and_what_came_whole_is_kept,
    requests_for_chunks_that_are_not_there_are_refused,
}
