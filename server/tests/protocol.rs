//! The streams of the agent's protocol, spoken by hand: what the server makes of honest, broken and hostile ones.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use base64::Engine as _;
use kkartifact_model::manifest::{
    ChunkRef, Entry, FileNode, ManifestBuilder, Mode, Node, Record, RecordReader, RecordWriter, RefSet,
    TreeLimits,
};
use kkartifact_model::wire::{
    BatchWriter, Compressor, Frame, FrameReader, Part, STREAM_TYPE, StoredChunk, WireChunk, decompress,
    encode_end, encode_records,
};
use kkartifact_model::{ChunkId, FileDigest, TreePath};
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

fn file(path: &str, chunks: &[&[u8]]) -> Entry {
    let refs = chunks
        .iter()
        .map(|c| ChunkRef { id: ChunkId::of(c), len: u32::try_from(c.len()).unwrap() })
        .collect();
    let content = chunks.concat();
    let (size, sha256) = (content.len() as u64, FileDigest::of(&content));
    let node = FileNode { mode: Mode::FILE, mtime: None, size, sha256, chunks: refs };
    Entry { path: TreePath::new(path).unwrap(), node: Node::File(node) }
}

fn directory(path: &str) -> Entry {
    Entry { path: TreePath::new(path).unwrap(), node: Node::Directory { mode: Mode::EXECUTABLE } }
}

fn manifest_stream(entries: &[Entry]) -> Vec<u8> {
    let mut records = RecordWriter::default();
    for entry in entries {
        records.put(entry);
    }
    [encode_records(&records.take()), encode_end(entries.len() as u64)].concat()
}

fn chunk_stream(chunks: &[&[u8]]) -> Vec<u8> {
    let (mut batch, mut compressor) = (BatchWriter::with_ids(), Compressor::new());
    for chunk in chunks {
        batch.push(&StoredChunk::new(&mut compressor, chunk), Part { first: true, last: true });
    }
    let [head, data] = batch.take();
    [head.as_ref(), data.as_ref(), &encode_end(chunks.len() as u64)].concat()
}

struct Upload<'a> {
    server: &'a TestServer,
    token: String,
    id: String,
}

impl<'a> Upload<'a> {
    async fn open(server: &'a TestServer, app: &str, version: &str, token: &str) -> Self {
        Self::open_with(server, app, version, token, json!({})).await
    }

    async fn open_with(server: &'a TestServer, app: &str, version: &str, token: &str, more: Value) -> Self {
        let (project, name) = app.split_once('/').unwrap();
        let mut body = json!({ "project": project, "app": name, "version": version });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let opened = server.post("/upload/init", token, body).await.expect(201).json();
        Self { server, token: token.to_owned(), id: opened["upload_id"].as_str().unwrap().to_owned() }
    }

    async fn stream(&self, method: Method, what: &str, body: Vec<u8>) -> Answer {
        let request = self.server.request(method, &format!("/upload/{}/{what}", self.id), &self.token);
        self.server.send(request.header("content-type", STREAM_TYPE).body(body)).await
    }

    async fn manifest(&self, entries: &[Entry]) -> Answer {
        self.stream(Method::PUT, "manifest", manifest_stream(entries)).await
    }

    async fn chunks(&self, chunks: &[&[u8]]) -> Answer {
        self.stream(Method::POST, "chunks", chunk_stream(chunks)).await
    }

    async fn finish(&self) -> Answer {
        self.server.post("/upload/finish", &self.token, json!({ "upload_id": self.id })).await
    }

    async fn missing(&self) -> Vec<u64> {
        let path = format!("/upload/{}/missing", self.id);
        missing(&self.server.get(&path, &self.token).await.expect(200).json())
    }
}

fn missing(answer: &Value) -> Vec<u64> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(answer["set"].as_str().unwrap()).unwrap();
    let set = RefSet::decode(&bytes, answer["refs"].as_u64().unwrap()).unwrap();
    assert_eq!(set.count(), answer["count"].as_u64().unwrap());
    set.runs().flat_map(|(start, count)| start..start + count).collect()
}

async fn fetch(server: &TestServer, path: &str, wanted: &RefSet, token: &str) -> Vec<Vec<u8>> {
    let answer =
        server.send(server.request(Method::POST, path, token).body(wanted.encode())).await.expect(200);
    let mut reader = FrameReader::default();
    reader.push(&answer.body);
    let mut chunks = Vec::new();
    loop {
        match reader.next_frame().unwrap().unwrap() {
            Frame::Chunks(batch) => {
                chunks.extend(
                    batch
                        .iter()
                        .map(|WireChunk { stored, len, .. }| decompress(stored, *len).unwrap().to_vec()),
                );
            }
            Frame::End(count) => {
                assert_eq!(count, chunks.len() as u64);
                return chunks;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn only_what_is_missing_has_to_be_sent(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (a, b, c) = (noise(1, 40_000), noise(2, 50_000), b"text ".repeat(1000));
    let entries = [file("big", &[&a, &b, &a]), directory("d"), file("d/text", &[&c])];
    let upload = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    assert_eq!(missing(&upload.manifest(&entries).await.expect(200).json()), [0, 1, 2, 3]);
    upload.finish().await.refused(409, "upload_incomplete");
    let received = upload.chunks(&[&a, &c]).await.expect(200).json();
    assert_eq!((received["received"].as_u64(), received["durable"].as_u64()), (Some(2), Some(2)));
    assert_eq!(upload.missing().await, [1], "what has arrived need not be sent again");
    upload.finish().await.refused(409, "upload_incomplete");
    upload.chunks(&[&b]).await.expect(200);
    upload.chunks(&[&b]).await.expect(200);
    upload.finish().await.expect(201);

    let next = Upload::open(&server, "shop/web", "v2", &server.admin).await;
    let changed = [file("big", &[&a, &c, &b])];
    assert_eq!(missing(&next.manifest(&changed).await.expect(200).json()), [] as [u64; 0]);
    next.finish().await.expect(201);
    let mut wanted = RefSet::new(4);
    for index in [0, 1, 3] {
        wanted.insert(index);
    }
    assert_eq!(fetch(&server, "/chunks/shop/web/v1", &wanted, &server.admin).await, [a, b, c]);
}

async fn knowing_a_digest_grants_no_bytes(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = noise(7, 60_000);
    server.make_app("shop", "web").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.make_app("other", "app").await;
    let owner = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    owner.manifest(&[file("secret", &[&secret])]).await.expect(200);
    owner.chunks(&[&secret]).await.expect(200);
    owner.finish().await.expect(201);

    for app in ["shop/api", "other/app"] {
        let token = server.token(&["push", "pull"], app).await;
        let thief = Upload::open(&server, app, "v1", &token).await;
        // All that the thief knows is the digest. To them, the content is missing like any other.
        assert_eq!(
            missing(&thief.manifest(&[file("stolen", &[&secret])]).await.expect(200).json()),
            [0],
            "{app}"
        );
        thief.finish().await.refused(409, "upload_incomplete");
        server.get(&format!("/file/{app}/v1?path=stolen"), &token).await.refused(404, "not_found");
        // Who has the bytes may store them, of course, and then only they have them.
        thief.chunks(&[&secret]).await.expect(200);
        thief.finish().await.expect(201);
        server.get("/file/shop/web/v1?path=secret", &token).await.refused(404, "not_found");
    }
}

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

async fn a_manifest_can_be_told_by_a_base(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let texts: Vec<Vec<u8>> = (0..300).map(|i| format!("content {i}").into_bytes()).collect();
    let old: Vec<Entry> = (0..300).map(|i| file(&format!("f{i:03}"), &[&texts[i]])).collect();
    let first = Upload::open(&server, "shop/web", "v1", &server.admin).await;
    first.manifest(&old).await.expect(200);
    first.chunks(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>()).await.expect(200);
    let v1 = first.finish().await.expect(201).json();

    let mut new = old.clone();
    new[7] = file("f007", &[b"changed"]);
    new.remove(250);
    new.push(file("z", &[b"added"]));
    let mut builder = ManifestBuilder::new(TreeLimits::default());
    for entry in &new {
        builder.push(entry).unwrap();
    }
    let digest = builder.finish().1.tree_digest;
    let base = json!({ "tree_digest": digest, "base": { "version": "v1", "manifest_digest": v1["manifest_digest"] } });
    let second = Upload::open_with(&server, "shop/web", "v2", &server.admin, base.clone()).await;
    let mut records = RecordWriter::default();
    let changes = [
        Record::Put(new[7].clone()),
        Record::Removed(TreePath::new("f250").unwrap()),
        Record::Put(new.last().unwrap().clone()),
    ];
    for change in &changes {
        records.push(change);
    }
    let delta = [encode_records(&records.take()), encode_end(3)].concat();
    let missing_refs = missing(&second.stream(Method::PUT, "manifest", delta).await.expect(200).json());
    assert_eq!(missing_refs, [7, 299]);
    second.chunks(&[b"changed", b"added"]).await.expect(200);
    let v2 = second.finish().await.expect(201).json();
    assert_eq!((v2["file_count"].as_u64(), &v2["tree_digest"]), (Some(300), &json!(digest)));

    // The delta back is as short, and makes the same tree.
    let path = "/manifest/shop/web/v2?format=stream&base=v1&base_digest=";
    let answer =
        server.get(&format!("{path}{}", v1["manifest_digest"].as_str().unwrap()), &server.admin).await;
    let mut reader = FrameReader::default();
    reader.push(&answer.expect(200).body);
    let Frame::Records(run) = reader.next_frame().unwrap().unwrap() else { panic!("records") };
    let told: Vec<_> = RecordReader::new(&run).map(Result::unwrap).collect();
    assert_eq!(told, changes);
    let stranger = "0".repeat(64);
    server.get(&format!("{path}{stranger}"), &server.admin).await.refused(409, "base_mismatch");
    server
        .get("/manifest/shop/web/v2?format=stream&base=v1", &server.admin)
        .await
        .refused(400, "invalid_request");

    // A base that is not what the client thinks is not used; changes that don't fit it are refused.
    let mut wrong = base;
    wrong["base"]["manifest_digest"] = json!(stranger);
    wrong["project"] = json!("shop");
    wrong["app"] = json!("web");
    wrong["version"] = json!("v3");
    let opened = server.post("/upload/init", &server.admin, wrong).await.expect(201).json();
    assert_eq!(opened["base"], false);
    let third = Upload::open_with(
        &server,
        "shop/web",
        "v4",
        &server.admin,
        json!({ "base": { "version": "v1", "manifest_digest": v1["manifest_digest"] } }),
    )
    .await;
    let mut records = RecordWriter::default();
    records.push(&Record::Removed(TreePath::new("never-there").unwrap()));
    let delta = [encode_records(&records.take()), encode_end(1)].concat();
    third.stream(Method::PUT, "manifest", delta).await.refused(422, "invalid_manifest");
}

async fn an_announced_digest_must_be_the_manifests(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let more = json!({ "tree_digest": "1".repeat(64) });
    let upload = Upload::open_with(&server, "shop/web", "v1", &server.admin, more).await;
    upload.manifest(&[file("a", &[])]).await.refused(422, "invalid_manifest");
    upload.finish().await.refused(409, "upload_incomplete");
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &server.admin).body("x");
    server.send(put).await.expect(200);
    upload.finish().await.refused(422, "invalid_manifest");
    server.get("/projects/shop/apps/web/versions/v1", &server.admin).await.refused(404, "not_found");
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
    only_what_is_missing_has_to_be_sent,
    knowing_a_digest_grants_no_bytes,
    content_that_is_not_what_it_is_called_is_refused,
    manifests_that_break_the_rules_of_a_tree_are_refused,
    broken_streams_are_refused_and_what_came_whole_is_kept,
    a_manifest_can_be_told_by_a_base,
    an_announced_digest_must_be_the_manifests,
    requests_for_chunks_that_are_not_there_are_refused,
}
