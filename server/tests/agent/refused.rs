//! What the agent refuses, and how it says so.

use std::fs;
use std::os::unix::fs::symlink;

use kkartifact_agent::Kind;
use kkartifact_model::Code;
use kkartifact_testkit::tree::{noise, write};
use kkartifact_testkit::{TestAgent, TestDatabase, on_both_databases};

use super::bench;

async fn what_cannot_be_part_of_a_version_is_listed_all_at_once(db: TestDatabase) {
    use std::os::unix::ffi::OsStrExt as _;
    let b = bench(db).await;
    symlink("/etc/passwd", b.source.join("absolute")).unwrap();
    symlink("../../outside", b.source.join("lib/escaping")).unwrap();
    symlink("bin/../../x", b.source.join("sneaky")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(b.source.join("socket")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(b.source.join("pipe")).status().unwrap();
    assert!(fifo.success());
    fs::write(b.source.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
    let deep = "d/".repeat(130);
    fs::create_dir_all(b.source.join(&deep)).unwrap();
    let error = b.agent.push(&b.source, "v1").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    for part in [
        "7 paths",
        "\"absolute\"",
        "\"lib/escaping\"",
        "\"sneaky\"",
        "\"socket\" is a socket",
        "\"pipe\" is a named pipe",
        "not UTF-8",
        "deeper than",
    ] {
        assert!(error.message.contains(part), "{part} not in {}", error.message);
    }
    drop(socket);
    assert_eq!(
        b.server.get("/projects", &b.server.admin).await.expect(200).json()["total"],
        0,
        "nothing was sent"
    );
}

async fn the_agents_own_files_are_never_pushed(db: TestDatabase) {
    let b = bench(db).await;
    write(&b.source, ".kkartifact.yml", b"token: secret");
    write(&b.source, "sub/.kkartifact.yml", b"token: secret");
    write(&b.source, ".other.kkartifact/journal", b"state");
    b.agent.push(&b.source, "v1").await.unwrap();
    let manifest = b.server.get("/manifest/shop/web/v1", &b.server.admin).await.expect(200).text();
    assert!(!manifest.contains("kkartifact") && manifest.contains("sub"), "{manifest}");
}

async fn guards_stop_what_looks_like_a_mistake(db: TestDatabase) {
    let b = bench(db).await;
    let empty = b.server.dir().join("empty");
    fs::create_dir_all(empty.join("only/directories")).unwrap();
    assert_eq!(b.agent.push(&empty, "v0").await.unwrap_err().kind, Kind::Guard);
    for i in 0..30 {
        write(&b.source, &format!("many/f{i}"), b"x");
    }
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    // Also where this host has no memory of earlier pushes.
    let other = b.server.dir().join("other");
    write(&other, "one", b"left");
    let error = b.agent.push(&other, "v2").await.unwrap_err();
    assert_eq!(error.kind, Kind::Guard, "{error}");
    assert!(error.hint.unwrap().contains("--force"));
    fs::remove_dir_all(b.source.join("many")).unwrap();
    assert_eq!(b.agent.push(&b.source, "v2").await.unwrap_err().kind, Kind::Guard);
    let options = kkartifact_agent::push::PushOptions {
        path: b.source.clone(),
        version: Some("v2".parse().unwrap()),
        force: true,
        dry_run: false,
    };
    kkartifact_agent::push::push(&b.agent.agent, &options).await.unwrap();
    let error = b.agent.pull(&b.target, "v2").await.unwrap_err();
    assert_eq!(error.kind, Kind::Guard, "{error}");
    assert!(b.target.join("many/f7").exists(), "nothing was changed");

    // A directory that nobody gave to the agent is not emptied.
    let foreign = b.server.dir().join("foreign");
    write(&foreign, "precious", b"mine");
    let error = b.agent.pull(&foreign, "v1").await.unwrap_err();
    assert_eq!(error.kind, Kind::Guard, "{error}");
    let wrong_app = TestAgent::new(&b.server, "shop/api", &b.server.admin);
    assert_eq!(wrong_app.pull(&b.target, "v1").await.unwrap_err().kind, Kind::Guard);
    assert_eq!(fs::read(foreign.join("precious")).unwrap(), b"mine");
}

async fn a_version_that_exists_with_other_content_is_refused_before_anything_is_sent(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    write(&b.source, "more", &noise(1, 1 << 20));
    let error = b.agent.push(&b.source, "v1").await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Conflict, Some(Code::VersionExists)));
}

async fn errors_of_the_server_come_with_their_exit_code(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    let stranger = TestAgent::new(&b.server, "shop/web", "kka_nonsense");
    assert_eq!(stranger.pull(&b.target, "v1").await.unwrap_err().kind, Kind::Denied);
    b.server.make_app("other", "app").await;
    let other = b.server.token(&["admin"], "other").await;
    let other = TestAgent::new(&b.server, "shop/web", &other);
    assert_eq!(other.pull(&b.target, "v1").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(other.push(&b.source, "v2").await.unwrap_err().kind, Kind::NotFound);
    let viewer = b.server.token(&["view"], "shop/web").await;
    let viewer = TestAgent::new(&b.server, "shop/web", &viewer);
    assert_eq!(viewer.pull(&b.target, "v1").await.unwrap_err().kind, Kind::Denied);
    assert_eq!(b.agent.pull(&b.target, "v9").await.unwrap_err().kind, Kind::NotFound);
    assert!(!b.target.exists(), "nothing was applied");
}

async fn an_unreadable_answer_is_explained(db: TestDatabase) {
    let b = bench(db).await;
    // Something else listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.read(&mut [0; 4096]).await);
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nconnection: close\r\n\r\n<html";
            drop(stream.write_all(answer).await);
        }
    });
    let agent = TestAgent::new(&b.server, "shop/web", &b.server.admin).with(|config| config.server_url = url);
    let error = agent.pull(&b.target, "v1").await.unwrap_err();
    assert!(error.message.contains("proxy"), "{error}");
    assert_eq!(error.kind, Kind::NotFound);
    serving.abort();
}

on_both_databases! {
    what_cannot_be_part_of_a_version_is_listed_all_at_once,
    the_agents_own_files_are_never_pushed,
    guards_stop_what_looks_like_a_mistake,
    a_version_that_exists_with_other_content_is_refused_before_anything_is_sent,
    errors_of_the_server_come_with_their_exit_code,
    an_unreadable_answer_is_explained,
}
