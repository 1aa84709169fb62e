//! What moves between a build and a host, and how little.

use std::fs;

use kkartifact_agent::pull::Outcome;
use kkartifact_agent::push::Outcome as Pushed;
use kkartifact_agent::{Kind, commands};
use kkartifact_model::Code;
use kkartifact_testkit::tree::{assert_same, noise, write};
use kkartifact_testkit::{TestDatabase, on_both_databases};
use reqwest::Method;

use super::{age, bench};

async fn what_is_pulled_is_what_was_pushed(db: TestDatabase) {
    let b = bench(db).await;
    let pushed = b.agent.push(&b.source, "v1").await.unwrap();
    assert_eq!((pushed.outcome, pushed.files), (Pushed::Published, 6));
    let pulled = b.agent.pull(&b.target, "v1").await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Applied);
    assert_same(&b.source, &b.target);
    let verified = commands::verify::verify(&b.agent.agent, &b.target).await.unwrap();
    assert!(verified.intact, "{verified}");
    let report = kkartifact::verify::verify_all(b.server.resources()).await.unwrap();
    assert_eq!((report.versions, report.problems), (1, vec![]));
}

async fn a_second_push_and_a_second_pull_move_no_content(db: TestDatabase) {
    let b = bench(db).await;
    age(&b.source);
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    let again = b.agent.push(&b.source, "v1").await.unwrap();
    assert_eq!((again.outcome, again.chunks_sent), (Pushed::Unchanged, 0));
    assert!(again.bytes_sent < 2_000, "{}", again.bytes_sent);
    let again = b.agent.pull(&b.target, "v1").await.unwrap();
    assert_eq!(again.outcome, Outcome::Unchanged);
    assert!(again.bytes_received < 2_000, "{}", again.bytes_received);
    // Another name for the same content costs a manifest, and the host only learns the name.
    let renamed = b.agent.push(&b.source, "v2").await.unwrap();
    assert_eq!((renamed.outcome, renamed.chunks_sent), (Pushed::Published, 0));
    assert!(renamed.bytes_sent < 2_000, "{}", renamed.bytes_sent);
    let pulled = b.agent.pull(&b.target, "v2").await.unwrap();
    assert_eq!(pulled.outcome, Outcome::Unchanged);
    let status = commands::status::status(&b.agent.agent, &b.target).await.unwrap();
    assert_eq!(status.current.unwrap().shown(), "v2");
}

async fn an_edit_moves_about_the_edit(db: TestDatabase) {
    let b = bench(db).await;
    let mut large = noise(42, 8 << 20);
    write(&b.source, "model.bin", &large);
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    large.splice(4_000_000..4_000_000, *b"inserted");
    write(&b.source, "model.bin", &large);
    write(&b.source, "README.md", b"changed\n");
    let pushed = b.agent.push(&b.source, "v2").await.unwrap();
    assert!(pushed.bytes_sent < 250_000, "{}", pushed.bytes_sent);
    let pulled = b.agent.pull(&b.target, "v2").await.unwrap();
    assert!(pulled.bytes_received < 250_000, "{}", pulled.bytes_received);
    assert_same(&b.source, &b.target);
}

async fn a_moved_file_is_not_fetched_again_and_a_copy_only_once(db: TestDatabase) {
    let b = bench(db).await;
    write(&b.source, "old/name.bin", &noise(5, 500_000));
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    fs::rename(b.source.join("old"), b.source.join("new")).unwrap();
    let copied = noise(6, 300_000);
    write(&b.source, "copy/one", &copied);
    write(&b.source, "copy/two", &copied);
    let pushed = b.agent.push(&b.source, "v2").await.unwrap();
    assert!(pushed.bytes_sent < 320_000, "{}", pushed.bytes_sent);
    let pulled = b.agent.pull(&b.target, "v2").await.unwrap();
    assert!(pulled.bytes_received < 320_000, "{}", pulled.bytes_received);
    assert_same(&b.source, &b.target);
}

async fn pushes_and_pulls_are_audited_with_agent_and_host(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    write(&b.source, "more", b"x");
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();
    b.agent.rollback(&b.target).await.unwrap();
    let mut tx = b.server.resources().db.read().await.unwrap();
    let rows = tx.latest_audit(5).await.unwrap();
    let shown: Vec<_> =
        rows.iter().map(|row| (row.action.as_str(), row.version.as_deref().unwrap())).collect();
    let expected = [
        ("version.rollback-on-host", "v1"),
        ("version.pull", "v2"),
        ("version.publish", "v2"),
        ("version.pull", "v1"),
        ("version.publish", "v1"),
    ];
    assert_eq!(shown, expected);
    for row in &rows {
        assert_eq!((row.agent_id.as_deref(), row.host.as_deref()), (Some("agent-1"), Some("host-1")));
    }
}

async fn a_host_leaves_a_version_that_was_closed_meanwhile(db: TestDatabase) {
    let b = bench(db).await;
    for version in ["v1", "v2", "v3"] {
        write(&b.source, "which", version.as_bytes());
        b.agent.push(&b.source, version).await.unwrap();
    }
    b.agent.pull(&b.target, "v1").await.unwrap();
    // The version in place can't be what the next one is told by any more.
    for (closed, how, next) in [("v1", "archive", "v2"), ("v2", "quarantine", "v3")] {
        let path = format!("/projects/shop/apps/web/versions/{closed}/{how}");
        b.server.call(Method::POST, &path, &b.server.admin, None).await.expect(200);
        b.agent.pull(&b.target, next).await.unwrap();
        assert_eq!(fs::read(b.target.join("which")).unwrap(), next.as_bytes());
    }
    let elsewhere = b.server.dir().join("hosts/other");
    let error = b.agent.pull(&elsewhere, "v1").await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::NotFound, Some(Code::VersionArchived)), "{error}");
}

on_both_databases! {
    what_is_pulled_is_what_was_pushed,
    a_second_push_and_a_second_pull_move_no_content,
    an_edit_moves_about_the_edit,
    a_moved_file_is_not_fetched_again_and_a_copy_only_once,
    pushes_and_pulls_are_audited_with_agent_and_host,
    a_host_leaves_a_version_that_was_closed_meanwhile,
}
