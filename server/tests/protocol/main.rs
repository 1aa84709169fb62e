//! The streams of the agent's protocol, spoken by hand: what the server makes of honest, broken and hostile ones.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod honest;
mod hostile;

use base64::Engine as _;
use kkartifact_model::manifest::{ChunkRef, Entry, FileNode, Mode, Node, RecordWriter, RefSet};
use kkartifact_model::wire::{
    BatchWriter, Compressor, Frame, FrameReader, Part, STREAM_TYPE, StoredChunk, WireChunk, decompress,
    encode_end, encode_records,
};
use kkartifact_model::{ChunkId, FileDigest, TreePath};
use kkartifact_testkit::{Answer, TestServer};
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
