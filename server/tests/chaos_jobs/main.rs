//! Killing who delivers webhooks, and taking away what they need, while events happen. Afterwards every event has
//! arrived at every receiver, duplicates can be told by their id, and no attempt has written anything that was not
//! the job's own any more.
//!
//! `KKARTIFACT_CHAOS_JOBS` sets how many deliveries there are at least, `KKARTIFACT_CHAOS_OUTAGE` for how many seconds
//! Redis and the database are away, `KKARTIFACT_CHAOS_SEED` what happens when.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it does"
)]

mod check;
mod client;
mod cluster;
mod embedded;
mod program;
mod world;

use std::str::FromStr;
use std::time::Duration;

use kkartifact_testkit::tree::noise;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(5);
/// From so many deliveries on outages are long.
const MANY: usize = 1000;

/// The text that an answer has in this place.
#[track_caller]
fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// How much is done, and what happens when.
struct Form {
    /// How many deliveries there are at least.
    deliveries: usize,
    /// For how long something is away.
    outage: Duration,
    dice: Dice,
}

impl Form {
    /// As the environment says it: short, unless told otherwise.
    fn read() -> Self {
        let deliveries: usize = setting("KKARTIFACT_CHAOS_JOBS").unwrap_or(160);
        let seconds = setting("KKARTIFACT_CHAOS_OUTAGE").unwrap_or(if deliveries < MANY { 3 } else { 30 });
        let random = || uuid::Uuid::new_v4().as_u64_pair().0 >> 16;
        let seed = setting("KKARTIFACT_CHAOS_SEED").unwrap_or_else(random);
        eprintln!("KKARTIFACT_CHAOS_SEED={seed}");
        Self { deliveries, outage: Duration::from_secs(seconds), dice: Dice { seed, throws: 0 } }
    }
}

fn setting<T: FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Decides what is left to chance, the same for the same seed.
struct Dice {
    seed: u64,
    throws: u64,
}

impl Dice {
    /// A number below this one.
    fn below(&mut self, bound: usize) -> usize {
        self.throws += 1;
        let random = noise(self.seed ^ self.throws.rotate_left(32), 8);
        let random = u64::from_le_bytes(random.try_into().unwrap());
        usize::try_from(random % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// PostgreSQL and Redis, a server, and a jobs-service beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_service_redis_or_the_database_dies() {
    cluster::run(Form::read()).await;
}

/// One process with SQLite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_only_process_dies() {
    embedded::run(Form::read()).await;
}
