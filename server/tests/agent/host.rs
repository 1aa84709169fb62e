//! What happens to a directory on a host: what is asked for, all of it, and nothing else.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use kkartifact_agent::pull::Outcome;
use kkartifact_agent::push::Outcome as Pushed;
use kkartifact_agent::{Kind, commands};
use kkartifact_testkit::tree::{assert_same, chmod, noise, write};
use kkartifact_testkit::{TestAgent, TestDatabase, on_both_databases};

use super::{bench, copy};

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

on_both_databases! {
    stale_files_go_and_ignored_ones_stay,
    kinds_and_modes_change_in_place,
    a_local_change_is_noticed_even_with_the_same_size_and_time,
    an_old_shorter_file_is_not_taken_for_a_partial_download,
    links_planted_in_the_target_are_not_followed,
    damage_on_the_server_is_noticed_and_nothing_is_applied,
    a_token_in_use_elsewhere_does_not_leak_into_state_or_report,
    half_a_release_is_never_live,
    two_agents_do_not_work_on_one_target,
    a_target_reached_by_a_link_is_the_directory_itself,
    adopt_takes_over_what_is_there_and_pulls_only_the_difference,
}
