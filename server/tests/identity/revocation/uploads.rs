//! Nothing is published with what was ended before.

use std::time::Duration;

use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};

/// When a stream must have ended.
const WITHIN: Duration = Duration::from_secs(10);
/// More than lies between a sender and a server that does not read.
const FILL: usize = 16 << 20;
const PIECE: usize = 64 << 10;

/// A server with an app, and a token that may push to it: the token and its id.
async fn with_pusher(db: TestDatabase) -> (TestServer, String, String) {
    let server = TestServer::start_with(db, |config| config.auth.recheck_seconds = 1).await;
    server.make_app("shop", "web").await;
    let new = json!({ "name": "ci", "permissions": ["push"], "scopes": [{ "project": "shop" }] });
    let made = server.post("/tokens", &server.admin, new).await.expect(201).json();
    let (token, id) = (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned());
    (server, token, id)
}

async fn open_upload(server: &TestServer, token: &str) -> Value {
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", token, init).await.expect(201).json();
    json!({ "upload_id": opened["upload_id"] })
}

async fn put_a_file(server: &TestServer, token: &str) {
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", token).body("content");
    server.send(put).await.expect(200);
}

async fn revoke(server: &TestServer, id: &str) {
    server.call(Method::DELETE, &format!("/tokens/{id}"), &server.admin, None).await.expect(200);
}

async fn nothing_is_published(server: &TestServer) {
    let versions = "/projects/shop/apps/web/versions";
    assert_eq!(server.get(versions, &server.admin).await.expect(200).json()["total"], 0);
    server.get(&format!("{versions}/v1"), &server.admin).await.refused(404, "not_found");
    let audit = server.get("/audit?action=version.publish", &server.admin).await.expect(200).json();
    assert_eq!(audit["items"], json!([]));
}

async fn what_was_uploaded_before_a_revocation_is_not_published_after_it(db: TestDatabase) {
    let (server, token, id) = with_pusher(db).await;
    let finish = open_upload(&server, &token).await;
    put_a_file(&server, &token).await;
    revoke(&server, &id).await;
    server.post("/upload/finish", &token, finish.clone()).await.refused(401, "unauthenticated");
    // Nobody else's either: an upload belongs to who opened it.
    server.post("/upload/finish", &server.admin, finish).await.refused(404, "not_found");
    nothing_is_published(&server).await;
}

/// A body that is more than all buffers hold, says when that was taken, and goes on slowly for ever.
fn endless(taken: oneshot::Sender<()>) -> Body {
    let piece = noise(3, PIECE);
    let state = (0, Some(taken), interval(Duration::from_millis(50)));
    Body::wrap_stream(futures_util::stream::unfold(state, move |(sent, mut taken, mut pauses)| {
        let piece = piece.clone();
        async move {
            if sent >= FILL {
                if let Some(taken) = taken.take() {
                    taken.send(()).unwrap();
                }
                pauses.tick().await;
            }
            Some((Ok::<_, std::io::Error>(piece), (sent + PIECE, taken, pauses)))
        }
    }))
}

async fn a_file_that_is_being_put_is_cut_when_its_token_is_revoked(db: TestDatabase) {
    let (server, token, id) = with_pusher(db).await;
    let finish = open_upload(&server, &token).await;
    let (begun, wait) = oneshot::channel();
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &token).body(endless(begun));
    let putting = tokio::spawn(put.send());
    wait.await.unwrap();
    assert!(!putting.is_finished(), "the file was refused");
    revoke(&server, &id).await;
    let over = timeout(WITHIN, putting).await;
    assert!(over.is_ok(), "the server still takes the file");
    // A client that is sending may see the end of the connection instead of the answer.
    if let Ok(answer) = over.unwrap().unwrap() {
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
    server.post("/upload/finish", &token, finish).await.refused(401, "unauthenticated");
    nothing_is_published(&server).await;
}

async fn a_finish_that_has_begun_does_not_publish_after_a_revocation(db: TestDatabase) {
    let (server, token, id) = with_pusher(db).await;
    let finish = open_upload(&server, &token).await.to_string();
    put_a_file(&server, &token).await;
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/upload/finish HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        finish.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body when the handler does, which is behind the gate: the token was still good there.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    revoke(&server, &id).await;
    stream.write_all(finish.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    nothing_is_published(&server).await;
}

on_both_databases! {
    what_was_uploaded_before_a_revocation_is_not_published_after_it,
    a_file_that_is_being_put_is_cut_when_its_token_is_revoked,
    a_finish_that_has_begun_does_not_publish_after_a_revocation,
}
