//! A server that means harm, or is broken: nothing of what it sends reaches the host.

use std::fs;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse as _, Response};
use kkartifact_agent::Kind;
use kkartifact_model::manifest::{
    ChunkRef, Entry, FileNode, ManifestBuilder, Mode, Node, RecordWriter, TreeLimits,
};
use kkartifact_model::wire::{BatchWriter, Compressor, Part, StoredChunk, encode_end, encode_records};
use kkartifact_model::{ChunkId, FileDigest, TreePath};
use kkartifact_testkit::tree::write;
use kkartifact_testkit::{TestAgent, TestDatabase, on_both_databases};

use super::bench;

fn file(path: &str, content: &[u8]) -> Entry {
    let chunk = ChunkRef { id: ChunkId::of(content), len: u32::try_from(content.len()).unwrap() };
    let (size, sha256) = (content.len() as u64, FileDigest::of(content));
    let node = FileNode { mode: Mode::FILE, mtime: None, size, sha256, chunks: vec![chunk] };
    Entry { path: TreePath::new(path).unwrap(), node: Node::File(node) }
}

fn records(entries: &[Entry]) -> Vec<u8> {
    let mut records = RecordWriter::default();
    for entry in entries {
        records.put(entry);
    }
    records.take()
}

/// What the server answers.
#[derive(Clone)]
struct Script {
    version: serde_json::Value,
    manifest: Vec<u8>,
    chunks: Vec<u8>,
}

async fn answer(State(script): State<Script>, method: Method, uri: Uri, _: HeaderMap, _: Bytes) -> Response {
    match (method.as_str(), uri.path()) {
        ("GET", path) if path.contains("/versions/") => axum::Json(script.version).into_response(),
        ("GET", path) if path.contains("/manifest/") => script.manifest.into_response(),
        ("POST", path) if path.contains("/chunks/") => script.chunks.into_response(),
        _ => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve(script: Script) -> (String, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(script);
    (url, tokio::spawn(async move { axum::serve(listener, app).await }))
}

/// Replaces bytes in a run of records by others of the same length: paths that no library would write.
fn forge(run: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = run.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    let mut forged = run.to_vec();
    forged[at..at + to.len()].copy_from_slice(to.as_bytes());
    forged
}

async fn what_a_hostile_server_sends_does_not_reach_the_host(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    let real = b.server.get("/projects/shop/apps/web/versions/v1", &b.server.admin).await.expect(200).json();
    let good = [file("aaaa", b"one"), file("bbbb", b"two")];
    let mut builder = ManifestBuilder::new(TreeLimits::default());
    for entry in &good {
        builder.push(entry).unwrap();
    }
    let (_, root) = builder.finish();
    let mut version = real.clone();
    version["tree_digest"] = root.tree_digest.to_string().into();
    version["manifest_digest"] = root.manifest_digest.to_string().into();
    version["entry_count"] = 2.into();

    let chunks = |contents: &[&[u8]]| {
        let (mut batch, mut compressor) = (BatchWriter::in_order(), Compressor::new());
        for content in contents {
            batch.push(&StoredChunk::new(&mut compressor, content), Part::default());
        }
        let [head, data] = batch.take();
        [head.as_ref(), data.as_ref(), &encode_end(contents.len() as u64)].concat()
    };
    let manifest = |run: Vec<u8>, count| [encode_records(&run), encode_end(count)].concat();
    let honest = manifest(records(&good), 2);
    let told = chunks(&[b"one", b"two"]);
    let link = |target: &str| {
        let node = Node::Symlink { target: target.to_owned() };
        records(&[Entry { path: TreePath::new("aaaa").unwrap(), node }])
    };
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("a path above", manifest(forge(&records(&good), "aaaa", "../a"), 2), told.clone()),
        ("an absolute path", manifest(forge(&records(&good), "aaaa", "/aaa"), 2), told.clone()),
        ("a path below nothing", manifest(forge(&records(&good), "aaaa", "aa/a"), 2), told.clone()),
        ("a NUL", manifest(forge(&records(&good), "aaaa", "aa\0a"), 2), told.clone()),
        ("a path twice", manifest(records(&[file("aaaa", b"one"), file("aaaa", b"one")]), 2), told.clone()),
        (
            "the agent's own",
            manifest(
                forge(&records(&[file(".xxxxxxxxxx.yml", b"x")]), ".xxxxxxxxxx.yml", ".kkartifact.yml"),
                1,
            ),
            told.clone(),
        ),
        ("a link that leaves", manifest(link("../../etc/passwd"), 1), told.clone()),
        ("an absolute link", manifest(link("/etc/passwd"), 1), told.clone()),
        ("another manifest", manifest(records(&good[..1]), 1), told.clone()),
        ("a manifest that ends early", encode_records(&records(&good)), told.clone()),
        ("garbage", b"\xff\xff\xff\xff\xff garbage".to_vec(), told.clone()),
        ("a wrong chunk", honest.clone(), chunks(&[b"one", b"xxx"])),
        ("chunks in another order", honest.clone(), chunks(&[b"two", b"one"])),
        ("too few chunks", honest.clone(), chunks(&[b"one"])),
    ];
    write(b.target.parent().unwrap(), "neighbour", b"untouched");
    for (what, manifest, chunks) in cases {
        // Nothing of an earlier case is of use to this one.
        drop(fs::remove_dir_all(b.target.with_file_name(".app.kkartifact")));
        let (url, serving) = serve(Script { version: version.clone(), manifest, chunks }).await;
        let agent = TestAgent::new(&b.server, "shop/web", "any").with(|config| config.server_url = url);
        let error =
            agent.pull(&b.target, "v1").await.map_or_else(|error| error, |done| panic!("{what}: {done}"));
        assert!(matches!(error.kind, Kind::Invalid | Kind::Unavailable), "{what}: {error}");
        assert!(!b.target.exists(), "{what}");
        assert_eq!(fs::read(b.target.with_file_name("neighbour")).unwrap(), b"untouched");
        serving.abort();
    }
    // The same server, honest for once: the test tests something.
    drop(fs::remove_dir_all(b.target.with_file_name(".app.kkartifact")));
    let (url, serving) = serve(Script { version, manifest: honest, chunks: told }).await;
    let agent = TestAgent::new(&b.server, "shop/web", "any").with(|config| config.server_url = url);
    agent.pull(&b.target, "v1").await.unwrap();
    assert_eq!(fs::read(b.target.join("bbbb")).unwrap(), b"two");
    serving.abort();
}

on_both_databases! {
    what_a_hostile_server_sends_does_not_reach_the_host,
}
