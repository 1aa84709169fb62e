//! Places where a process can be made to die, so that tests can prove that dying there loses nothing.
//!
//! `KKARTIFACT_FAILPOINT=name` or `name:3` kills the process with SIGKILL when it comes to the place for the
//! first (third) time: no destructor runs, no buffer is flushed. The tested binary is the shipped one; whoever
//! can set a process's environment can kill it anyway.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The variable that arms a place.
pub const VARIABLE: &str = "KKARTIFACT_FAILPOINT";

/// The durable steps of a push on the server, in the order in which a push comes to them.
pub const PUSH: &[&str] = &[
    "upload.opened",
    "pack.created",
    "pack.written",
    "pack.synced",
    "pack.renamed",
    "pack.directory-synced",
    "pack.recorded",
    "manifest.recorded",
    "finish.verified",
    "meta.written",
    "meta.synced",
    "meta.renamed",
    "publish.before-commit",
    "publish.committed",
    "marker.written",
    "marker.recorded",
];

/// The durable steps of a pull on the host, in the order in which a pull comes to them.
pub const PULL: &[&str] = &[
    "pull.locked",
    "pull.manifest-stored",
    "pull.planned",
    "pull.first-file-staged",
    "pull.staging-synced",
    "pull.staged",
    "pull.journal-written",
    "pull.first-change",
    "pull.half-changed",
    "pull.changed",
    "pull.target-synced",
    "pull.state-recorded",
    "pull.journal-removed",
    "pull.cleaned",
    "pull.reported",
];

/// The durable steps of a garbage collection, in the order in which one comes to them.
pub const COLLECT: &[&str] = &[
    "gc.purged",
    "gc.claimed",
    "gc.compact-copied",
    "gc.compact-swapped",
    "gc.object-removed",
    "gc.row-removed",
];

struct Armed {
    name: String,
    left: AtomicU32,
}

/// Dies here if the place is armed.
pub fn reach(name: &'static str) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    debug_assert!([PUSH, PULL, COLLECT].iter().any(|list| list.contains(&name)), "{name} is not listed");
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().map(|value| parse(&value)));
    if let Some(armed) = armed
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        die();
    }
}

fn parse(value: &str) -> Armed {
    let (name, count) = value.split_once(':').unwrap_or((value, "1"));
    Armed { name: name.to_owned(), left: AtomicU32::new(count.parse().unwrap_or(1)) }
}

#[cfg(unix)]
fn die() {
    // If the signal can't be sent, aborting is the closest thing.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}

#[cfg(not(unix))]
fn die() {
    std::process::abort();
}
