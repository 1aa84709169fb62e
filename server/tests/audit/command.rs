//! `kkartifact audit verify`

use std::process::Output;

use kkartifact_testkit::process::{Programs, ServerProcess};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use serde_json::Value;

/// Does blocking work with a server where it may block.
async fn blocking<T: Send + 'static>(
    mut server: ServerProcess,
    work: impl FnOnce(&mut ServerProcess) -> T + Send + 'static,
) -> (ServerProcess, T) {
    let done = tokio::task::spawn_blocking(move || {
        let value = work(&mut server);
        (server, value)
    });
    done.await.unwrap()
}

/// What the command prints, and whether it found nothing.
async fn verify(server: ServerProcess) -> (ServerProcess, (Option<i32>, String)) {
    let (server, done) = blocking(server, |server| server.run(&["audit", "verify"])).await;
    let Output { status, stdout, stderr } = done;
    let printed = String::from_utf8(stdout).unwrap();
    assert!(printed.contains("checked "), "{printed}{}", String::from_utf8_lossy(&stderr));
    (server, (status.code(), printed))
}

async fn the_command_verifies_and_names_what_was_changed(db: TestDatabase) {
    let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("server");
    let started = tokio::task::spawn_blocking(move || ServerProcess::start(&programs, &place, db));
    let (server, admin) = started.await.unwrap();
    let list = reqwest::Client::new().get(format!("{}/api/v1/audit", server.url())).bearer_auth(&admin);
    let audit: Value = list.send().await.unwrap().json().await.unwrap();
    let id = audit["items"][0]["id"].as_i64().unwrap();

    let (server, (code, printed)) = verify(server).await;
    assert_eq!(code, Some(0), "while it runs: {printed}");
    // It seals once more before it stops, and then nobody but the test writes.
    let (server, ()) = blocking(server, ServerProcess::stop).await;
    let (server, (code, printed)) = verify(server).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("sealed up to "), "{printed}");

    server.execute(&format!("UPDATE audit SET times = times + 1 WHERE id = {id}")).await;
    let (server, (code, printed)) = verify(server).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.lines().any(|line| line.starts_with(&format!("row {id}: "))), "{printed}");
    server.execute(&format!("UPDATE audit SET times = times - 1 WHERE id = {id}")).await;
    let (_server, (code, printed)) = verify(server).await;
    assert_eq!(code, Some(0), "{printed}");
}

on_both_databases! {
    the_command_verifies_and_names_what_was_changed,
}
