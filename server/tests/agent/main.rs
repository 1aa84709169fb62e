//! The agent against a real server, through HTTP, on both databases.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod host;
mod hostile;
mod refused;
mod rollback;
mod transfer;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kkartifact_testkit::tree::sample;
use kkartifact_testkit::{TestAgent, TestDatabase, TestServer};

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

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}
