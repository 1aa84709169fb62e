//! Going back, also when the server is gone.

use std::fs;

use kkartifact_agent::pull::{Outcome, RollbackOptions};
use kkartifact_agent::{Kind, commands};
use kkartifact_testkit::tree::{assert_same, noise, write};
use kkartifact_testkit::{TestAgent, TestDatabase, on_both_databases};

use super::{age, bench, copy};

async fn rollback_needs_neither_network_nor_arguments(db: TestDatabase) {
    let mut b = bench(db).await;
    age(&b.source);
    let before = b.server.dir().join("before");
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    copy(&b.source, &before);
    write(&b.source, "bin/app", &noise(77, 300_000));
    write(&b.source, "added", b"new");
    fs::remove_file(b.source.join("lib/empty")).unwrap();
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();

    let look = RollbackOptions { path: b.target.clone(), to: None, dry_run: true, show: 10 };
    let would = kkartifact_agent::pull::rollback(&b.agent.agent, &look).await.unwrap();
    let shown: Vec<_> = would.changes.iter().map(|c| format!("{} {}", c.change, c.path)).collect();
    assert_eq!(
        (would.version.unwrap().as_str(), shown),
        ("v1", vec!["- added".into(), "~ bin/app".into(), "+ lib/empty".into()])
    );

    // The server is gone: what is needed is on the host.
    b.server.stop().await;
    let back = b.agent.rollback(&b.target).await.unwrap();
    assert_eq!((back.outcome, back.bytes_received), (Outcome::RolledBack, 0));
    assert_same(&before, &b.target);
    // Rolling back again goes forward again: it is the version before.
    let forth = b.agent.rollback(&b.target).await.unwrap();
    assert_eq!(forth.version.unwrap().as_str(), "v2");
    assert_same(&b.source, &b.target);
}

async fn rollback_to_a_version_that_is_not_on_the_host_fetches_it(db: TestDatabase) {
    let b = bench(db).await;
    for version in ["v1", "v2", "v3"] {
        write(&b.source, "which", version.as_bytes());
        b.agent.push(&b.source, version).await.unwrap();
        b.agent.pull(&b.target, version).await.unwrap();
    }
    let options =
        RollbackOptions { path: b.target.clone(), to: Some("v1".parse().unwrap()), dry_run: false, show: 0 };
    let back = kkartifact_agent::pull::rollback(&b.agent.agent, &options).await.unwrap();
    assert_eq!((back.outcome, back.version.unwrap().as_str()), (Outcome::RolledBack, "v1"));
    assert_eq!(fs::read(b.target.join("which")).unwrap(), b"v1");
    let never = TestAgent::new(&b.server, "shop/web", &b.server.admin);
    let error = never.rollback(&b.server.dir().join("nothing-here")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
}

async fn a_report_that_could_not_be_sent_is_sent_by_the_next_run(db: TestDatabase) {
    let mut b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    write(&b.source, "more", b"x");
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();
    // Away: rolled back without being able to tell anybody.
    b.server.restart_with(|_| {}).await;
    let away = TestAgent::new(&b.server, "shop/web", &b.server.admin).with(|config| {
        config.server_url = "http://127.0.0.1:1".into();
    });
    away.rollback(&b.target).await.unwrap();
    assert!(b.target.with_file_name(".app.kkartifact").join("report.json").exists());
    // Not even of a second change, which doesn't replace the first.
    away.rollback(&b.target).await.unwrap();
    let agent = TestAgent::new(&b.server, "shop/web", &b.server.admin);
    agent.pull(&b.target, "v2").await.unwrap();
    let mut tx = b.server.resources().db.read().await.unwrap();
    let told: Vec<_> =
        tx.latest_audit(2).await.unwrap().into_iter().map(|row| (row.action, row.version.unwrap())).collect();
    let back = |version: &str| ("version.rollback-on-host".to_owned(), version.to_owned());
    assert_eq!(told, [back("v2"), back("v1")]);
}

async fn rollback_keeps_what_was_ignored_though_the_rules_are_not_at_hand(db: TestDatabase) {
    let b = bench(db).await;
    let agent = TestAgent::new(&b.server, "shop/web", &b.server.admin)
        .with(|config| config.ignore = vec!["uploads/".into()]);
    agent.push(&b.source, "v1").await.unwrap();
    agent.pull(&b.target, "v1").await.unwrap();
    write(&b.target, "uploads/precious.jpg", b"the users' own");
    write(&b.source, "more", b"x");
    agent.push(&b.source, "v2").await.unwrap();
    agent.pull(&b.target, "v2").await.unwrap();
    // At night, from another directory, without the configuration.
    b.agent.rollback(&b.target).await.unwrap();
    assert!(!b.target.join("more").exists());
    assert_eq!(fs::read(b.target.join("uploads/precious.jpg")).unwrap(), b"the users' own");
    let verified = commands::verify::verify(&b.agent.agent, &b.target).await.unwrap();
    assert!(verified.intact, "{verified}");
}

async fn what_was_adopted_can_be_gone_back_to(db: TestDatabase) {
    let mut b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    fs::create_dir_all(b.target.parent().unwrap()).unwrap();
    copy(&b.source, &b.target);
    write(&b.target, "README.md", b"as rsync left it");
    write(&b.target, "surplus", b"by hand");
    let before = b.server.dir().join("before");
    copy(&b.target, &before);
    assert!(commands::adopt::adopt(&b.agent.agent, &b.target).await.unwrap().version.is_none());
    b.agent.pull(&b.target, "v1").await.unwrap();
    assert_same(&b.source, &b.target);
    b.server.stop().await;
    let back = b.agent.rollback(&b.target).await.unwrap();
    assert_eq!((back.outcome, back.version), (Outcome::RolledBack, None));
    assert_same(&before, &b.target);
}

async fn mending_drift_does_not_cost_the_way_back(db: TestDatabase) {
    let mut b = bench(db).await;
    let before = b.server.dir().join("before");
    copy(&b.source, &before);
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    write(&b.source, "bin/app", &noise(78, 300_000));
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();
    write(&b.target, "README.md", b"edited on the host");
    assert_eq!(b.agent.pull(&b.target, "v2").await.unwrap().outcome, Outcome::Applied);
    assert_same(&b.source, &b.target);
    b.server.stop().await;
    b.agent.rollback(&b.target).await.unwrap();
    assert_same(&before, &b.target);
}

on_both_databases! {
    rollback_needs_neither_network_nor_arguments,
    rollback_to_a_version_that_is_not_on_the_host_fetches_it,
    rollback_keeps_what_was_ignored_though_the_rules_are_not_at_hand,
    what_was_adopted_can_be_gone_back_to,
    mending_drift_does_not_cost_the_way_back,
    a_report_that_could_not_be_sent_is_sent_by_the_next_run,
}
