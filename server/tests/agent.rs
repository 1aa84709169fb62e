//! The agent against a real server: what arrives is what was pushed, and nothing else happens to a host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kkartifact_agent::pull::{Outcome, RollbackOptions};
use kkartifact_agent::push::Outcome as Pushed;
use kkartifact_agent::{Kind, commands};
use kkartifact_model::Code;
use kkartifact_testkit::tree::{assert_same, chmod, noise, sample, write};
use kkartifact_testkit::{TestAgent, TestDatabase, TestServer, on_both_databases};

struct Bench {
    server: TestServer,
    agent: TestAgent,
    source: PathBuf,
    target: PathBuf,
}

async fn bench(db: TestDatabase) -> Bench {
    let server = TestServer::start(db).await;
    let agent = TestAgent::new(&server, "shop/web", &server.admin);
    let (source, target) = (server.dir().join("source"), server.dir().join("hosts/app"));
    fs::create_dir_all(&source).unwrap();
    sample(&source);
    Bench { server, agent, source, target }
}

/// Makes files look old enough that the stat cache can trust them.
fn age(root: &Path) {
    // The change time can't be set; the test waits until it lies behind.
    let newest = newest_change(root);
    while SystemTime::UNIX_EPOCH.elapsed().unwrap() < newest + Duration::from_millis(40) {
        std::hint::spin_loop();
    }
}

fn newest_change(dir: &Path) -> Duration {
    let mut newest = Duration::ZERO;
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        let changed = Duration::new(meta.ctime().unsigned_abs(), u32::try_from(meta.ctime_nsec()).unwrap());
        newest = newest.max(changed);
        if meta.is_dir() {
            newest = newest.max(newest_change(&entry.path()));
        }
    }
    newest
}

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

async fn stale_files_go_and_ignored_ones_stay(db: TestDatabase) {
    let b = bench(db).await;
    let ignore = |config: &mut kkartifact_agent::config::Config| {
        config.ignore = vec!["logs/".into(), "*.pid".into(), "/lib/deep/local".into()];
    };
    let agent = TestAgent::new(&b.server, "shop/web", &b.server.admin).with(ignore);
    write(&b.source, "logs/build.log", b"not part of the version");
    write(&b.source, "build.pid", b"17");
    agent.push(&b.source, "v1").await.unwrap();
    agent.pull(&b.target, "v1").await.unwrap();
    assert!(!b.target.join("logs").exists() && !b.target.join("build.pid").exists());

    write(&b.target, "logs/app.log", b"kept");
    write(&b.target, "lib/deep/local", b"kept");
    write(&b.target, "app.pid", b"kept");
    write(&b.target, ".kkartifact.yml", b"token: mine");
    write(&b.target, "stale/by/hand", b"goes");
    fs::remove_dir_all(b.source.join("lib")).unwrap();
    fs::remove_file(b.source.join("current")).unwrap();
    agent.push(&b.source, "v2").await.unwrap();
    agent.pull(&b.target, "v2").await.unwrap();
    for kept in ["logs/app.log", "lib/deep/local", "app.pid"] {
        assert_eq!(fs::read(b.target.join(kept)).unwrap(), b"kept", "{kept}");
    }
    assert_eq!(fs::read(b.target.join(".kkartifact.yml")).unwrap(), b"token: mine");
    for gone in ["stale", "lib/empty", "lib/deep/er", "current"] {
        assert!(fs::symlink_metadata(b.target.join(gone)).is_err(), "{gone}");
    }
    // A file where the host keeps ignored ones can't come.
    fs::remove_file(b.target.join("lib/deep/local")).unwrap();
    write(&b.target, "lib/deep/local", b"kept");
    write(&b.source, "lib", b"now a file");
    agent.push(&b.source, "v3").await.unwrap();
    let error = agent.pull(&b.target, "v3").await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    assert_eq!(fs::read(b.target.join("lib/deep/local")).unwrap(), b"kept");
}

async fn kinds_and_modes_change_in_place(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    // File → directory, directory → file, file → link, link → file, and modes of both.
    fs::remove_file(b.source.join("README.md")).unwrap();
    write(&b.source, "README.md/now/a", b"directory");
    fs::remove_dir_all(b.source.join("lib")).unwrap();
    write(&b.source, "lib", b"a file");
    fs::remove_file(b.source.join("current")).unwrap();
    write(&b.source, "current", b"a file");
    fs::remove_file(b.source.join("dangling")).unwrap();
    symlink("elsewhere", b.source.join("dangling")).unwrap();
    chmod(&b.source, "bin/app", 0o700);
    chmod(&b.source, "var", 0o711);
    b.agent.push(&b.source, "v2").await.unwrap();
    let pulled = b.agent.pull(&b.target, "v2").await.unwrap();
    assert!(pulled.bytes_received < 5_000, "modes move no content: {}", pulled.bytes_received);
    assert_same(&b.source, &b.target);
    b.agent.rollback(&b.target).await.unwrap();
    assert!(b.target.join("lib/deep/er/text.txt").is_file() && b.target.join("README.md").is_file());
    assert_eq!(fs::metadata(b.target.join("bin/app")).unwrap().mode() & 0o777, 0o755);
}

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
        (would.version.as_str(), shown),
        ("v1", vec!["- added".into(), "~ bin/app".into(), "+ lib/empty".into()])
    );

    // The server is gone: what is needed is on the host.
    b.server.stop().await;
    let back = b.agent.rollback(&b.target).await.unwrap();
    assert_eq!((back.outcome, back.bytes_received), (Outcome::RolledBack, 0));
    assert_same(&before, &b.target);
    // Rolling back again goes forward again: it is the version before.
    let forth = b.agent.rollback(&b.target).await.unwrap();
    assert_eq!(forth.version.as_str(), "v2");
    assert_same(&b.source, &b.target);
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
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
    assert_eq!((back.outcome, back.version.as_str()), (Outcome::RolledBack, "v1"));
    assert_eq!(fs::read(b.target.join("which")).unwrap(), b"v1");
    let never = TestAgent::new(&b.server, "shop/web", &b.server.admin);
    let error = never.rollback(&b.server.dir().join("nothing-here")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
}

async fn a_local_change_is_noticed_even_with_the_same_size_and_time(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    for _ in 0..20 {
        b.agent.pull(&b.target, "v1").await.unwrap();
        let path = b.target.join("README.md");
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        // Right away, in place, with the size and the modification time of before.
        fs::write(&path, b"HELLO\n").unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        let pulled = b.agent.pull(&b.target, "v1").await.unwrap();
        assert_eq!((pulled.outcome, pulled.counts.changed), (Outcome::Applied, 1));
        assert_same(&b.source, &b.target);
    }
    // The same on the side of the push.
    for i in 0..20 {
        let path = b.source.join("README.md");
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, format!("{i:05}\n")).unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        let pushed = b.agent.push(&b.source, &format!("w{i}")).await.unwrap();
        assert_eq!(pushed.outcome, Pushed::Published);
        b.agent.pull(&b.target, &format!("w{i}")).await.unwrap();
        assert_eq!(fs::read(b.target.join("README.md")).unwrap(), format!("{i:05}\n").into_bytes());
    }
}

async fn an_old_shorter_file_is_not_taken_for_a_partial_download(db: TestDatabase) {
    let b = bench(db).await;
    let content = noise(8, 400_000);
    write(&b.source, "data.bin", &content);
    b.agent.push(&b.source, "v1").await.unwrap();
    // A file of the same name, shorter, with other bytes; and one that is a true prefix.
    for wrong in [noise(9, 150_000), content[..150_000].to_vec()] {
        drop(fs::remove_dir_all(&b.target));
        drop(fs::remove_dir_all(b.target.with_file_name(".app.kkartifact")));
        write(&b.target, "data.bin", &wrong);
        commands::adopt::adopt(&b.agent.agent, &b.target).await.unwrap();
        b.agent.pull(&b.target, "v1").await.unwrap();
        assert_same(&b.source, &b.target);
    }
}

async fn links_planted_in_the_target_are_not_followed(db: TestDatabase) {
    let b = bench(db).await;
    let outside = b.server.dir().join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    write(&outside, "precious", b"untouched");
    write(&outside, "deep/er", b"untouched");
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    // Directories and files of the version are replaced by links that lead out.
    fs::remove_dir_all(b.target.join("lib")).unwrap();
    symlink(&outside, b.target.join("lib")).unwrap();
    fs::remove_file(b.target.join("README.md")).unwrap();
    symlink(outside.join("precious"), b.target.join("README.md")).unwrap();
    symlink(&outside, b.target.join("stale-link")).unwrap();
    write(&b.source, "README.md", b"changed");
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();
    assert_same(&b.source, &b.target);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"untouched");
    assert_eq!(fs::read(outside.join("deep/er")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
}

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

async fn adopt_takes_over_what_is_there_and_pulls_only_the_difference(db: TestDatabase) {
    let b = bench(db).await;
    write(&b.source, "big.bin", &noise(3, 2 << 20));
    b.agent.push(&b.source, "v1").await.unwrap();
    // Deployed by hand, with a local change.
    fs::create_dir_all(b.target.parent().unwrap()).unwrap();
    copy(&b.source, &b.target);
    let adopted = commands::adopt::adopt(&b.agent.agent, &b.target).await.unwrap();
    assert_eq!(adopted.version.unwrap().as_str(), "v1");
    assert_eq!(b.agent.pull(&b.target, "v1").await.unwrap().outcome, Outcome::Unchanged);
    let error = commands::adopt::adopt(&b.agent.agent, &b.target).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);

    let other = b.server.dir().join("hosts/other");
    copy(&b.source, &other);
    write(&other, "README.md", b"edited on the host");
    write(&other, "surplus", b"by hand");
    assert!(commands::adopt::adopt(&b.agent.agent, &other).await.unwrap().version.is_none());
    let pulled = b.agent.pull(&other, "v1").await.unwrap();
    assert_eq!((pulled.counts.changed, pulled.counts.deleted), (1, 1));
    assert!(pulled.bytes_received < 10_000, "{}", pulled.bytes_received);
    assert_same(&b.source, &other);
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

async fn a_report_that_could_not_be_sent_is_sent_by_the_next_run(db: TestDatabase) {
    let mut b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    write(&b.source, "more", b"x");
    b.agent.push(&b.source, "v2").await.unwrap();
    b.agent.pull(&b.target, "v2").await.unwrap();
    // Down: rolled back without being able to tell anybody.
    b.server.restart_with(|_| {}).await;
    let away = TestAgent::new(&b.server, "shop/web", &b.server.admin).with(|config| {
        config.server_url = "http://127.0.0.1:1".into();
    });
    away.rollback(&b.target).await.unwrap();
    assert!(b.target.with_file_name(".app.kkartifact").join("report.json").exists());
    let agent = TestAgent::new(&b.server, "shop/web", &b.server.admin);
    agent.pull(&b.target, "v1").await.unwrap();
    let mut tx = b.server.resources().db.read().await.unwrap();
    assert_eq!(tx.latest_audit(1).await.unwrap()[0].action, "version.rollback-on-host");
}

async fn damage_on_the_server_is_noticed_and_nothing_is_applied(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    for part in fs::read_dir(b.server.content_dir().join("packs")).unwrap().map(Result::unwrap) {
        for pack in fs::read_dir(part.path()).unwrap().map(Result::unwrap) {
            let mut bytes = fs::read(pack.path()).unwrap();
            if bytes.len() > 200_000 {
                bytes[150_000] ^= 1;
                fs::write(pack.path(), bytes).unwrap();
            }
        }
    }
    let error = b.agent.pull(&b.target, "v1").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    assert!(!b.target.exists());
}

async fn a_token_in_use_elsewhere_does_not_leak_into_state_or_report(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    let state = b.target.with_file_name(".app.kkartifact");
    for file in ["state.json", "stats"] {
        let text = String::from_utf8_lossy(&fs::read(state.join(file)).unwrap()).into_owned();
        assert!(!text.contains(&b.server.admin), "{file}");
    }
}

async fn half_a_release_is_never_live(db: TestDatabase) {
    // What is staged lies beside the target; the target itself changes only when everything is there.
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    for i in 0..200 {
        write(&b.source, &format!("f{i}"), &noise(i, 20_000));
    }
    write(&b.source, "bin/app", &noise(1234, 300_000));
    b.agent.push(&b.source, "v2").await.unwrap();
    // One chunk of v2 is gone from the server: the download fails near its end.
    let before = b.server.dir().join("before");
    copy(&b.target, &before);
    let mut damaged = 0;
    for part in fs::read_dir(b.server.content_dir().join("packs")).unwrap().map(Result::unwrap) {
        for pack in fs::read_dir(part.path()).unwrap().map(Result::unwrap) {
            let mut bytes = fs::read(pack.path()).unwrap();
            if bytes.len() > 2_000_000 {
                let at = bytes.len() - 100_000;
                bytes[at] ^= 1;
                fs::write(pack.path(), bytes).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    b.agent.pull(&b.target, "v2").await.unwrap_err();
    assert_same(&before, &b.target);
    let status = commands::status::status(&b.agent.agent, &b.target).await.unwrap();
    assert_eq!((status.current.unwrap().shown(), status.interrupted), ("v1".into(), false));
}

async fn two_agents_do_not_work_on_one_target(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    let held = kkartifact_agent::pull::state::Target::open(&b.target).unwrap();
    assert_eq!(b.agent.pull(&b.target, "v1").await.unwrap_err().kind, Kind::Busy);
    drop(held);
    b.agent.pull(&b.target, "v1").await.unwrap();
}

async fn a_target_reached_by_a_link_is_the_directory_itself(db: TestDatabase) {
    let b = bench(db).await;
    b.agent.push(&b.source, "v1").await.unwrap();
    b.agent.pull(&b.target, "v1").await.unwrap();
    let link = b.server.dir().join("by-link");
    symlink(&b.target, &link).unwrap();
    assert_eq!(b.agent.pull(&link, "v1").await.unwrap().outcome, Outcome::Unchanged);
    assert_same(&b.source, &b.target);
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
    what_is_pulled_is_what_was_pushed,
    a_second_push_and_a_second_pull_move_no_content,
    an_edit_moves_about_the_edit,
    a_moved_file_is_not_fetched_again_and_a_copy_only_once,
    stale_files_go_and_ignored_ones_stay,
    kinds_and_modes_change_in_place,
    rollback_needs_neither_network_nor_arguments,
    rollback_to_a_version_that_is_not_on_the_host_fetches_it,
    a_local_change_is_noticed_even_with_the_same_size_and_time,
    an_old_shorter_file_is_not_taken_for_a_partial_download,
    links_planted_in_the_target_are_not_followed,
    what_cannot_be_part_of_a_version_is_listed_all_at_once,
    the_agents_own_files_are_never_pushed,
    guards_stop_what_looks_like_a_mistake,
    adopt_takes_over_what_is_there_and_pulls_only_the_difference,
    a_version_that_exists_with_other_content_is_refused_before_anything_is_sent,
    errors_of_the_server_come_with_their_exit_code,
    pushes_and_pulls_are_audited_with_agent_and_host,
    a_report_that_could_not_be_sent_is_sent_by_the_next_run,
    damage_on_the_server_is_noticed_and_nothing_is_applied,
    a_token_in_use_elsewhere_does_not_leak_into_state_or_report,
    half_a_release_is_never_live,
    two_agents_do_not_work_on_one_target,
    a_target_reached_by_a_link_is_the_directory_itself,
    an_unreadable_answer_is_explained,
}
