//! What a request pays for its credential, beside the look-up of rows: the signature of a token, and the permission
//! check. Fails if both together take longer than they may.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a developer's tool")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use kkartifact_model::Permissions;
use kkartifact_model::time::Clock;
use kkartifact_service::{Config, Grants, Object, Resources};
use kkartifact_store::{AppId, BindingRow, BindingSubject, ProjectId};

/// What both together may take.
const MOST: Duration = Duration::from_micros(100);
const ROUNDS: u32 = 3000;
/// How many bindings the caller has: far more than usual.
const BINDINGS: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.data_dir = dir.path().join("data");
    let resources = Resources::open(config, Clock::System).await.unwrap();
    let keys = resources.auth.keys();
    let now = resources.clock.now();

    let mut tx = resources.db.begin().await.unwrap();
    let id = tx.insert_service_account("bench", "sa_bench_1", "hash", None, now).await.unwrap();
    let project = tx.insert_project(&"shop".parse().unwrap(), "", now).await.unwrap().unwrap().id;
    for _ in 0..BINDINGS {
        let subject = BindingSubject::Principal(id);
        tx.insert_binding(subject, Permissions::ALL, Some(project), None, now).await.unwrap();
    }
    tx.commit().await.unwrap();
    let claims = keys.claims((id.0, 1), "sa_bench_1", now, now + TimeDelta::hours(1));
    let token = keys.sign(&resources.db, &claims, now).await.unwrap();
    let mut tx = resources.db.read().await.unwrap();
    let key = tx.signing_keys(now).await.unwrap().remove(0).id;
    let bindings = tx.bindings(id, &[]).await.unwrap();

    let (mut whole, mut row) = (Duration::ZERO, Duration::ZERO);
    // By turns, so that both have the same luck.
    for _ in 0..ROUNDS {
        let start = Instant::now();
        assert!(black_box(keys.verify(&mut tx, &token, now).await.unwrap()).is_some());
        whole += start.elapsed();
        let start = Instant::now();
        assert!(black_box(tx.find_signing_key(&key, now).await.unwrap()).is_some());
        row += start.elapsed();
    }
    let signature = whole.saturating_sub(row) / ROUNDS;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(check(&bindings, project));
    }
    let permission = start.elapsed() / ROUNDS;
    println!("signature and claims of a token   {:>8.1} µs", micros(signature));
    println!("permission check, {BINDINGS} bindings      {:>8.1} µs", micros(permission));
    println!(
        "together                          {:>8.1} µs, at most {} µs",
        micros(signature + permission),
        MOST.as_micros()
    );
    println!("beside it, the look-up of a row   {:>8.1} µs", micros(row / ROUNDS));
    if signature + permission < MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As for a narrowed token of somebody who answers for it.
fn check(bindings: &[BindingRow], project: ProjectId) -> bool {
    let owner = Grants::new(vec![BindingRow::global(Permissions::ALL)]);
    let grants = Grants::new(bindings.to_vec()).narrowed(Permissions::ALL).within(&owner);
    grants.permissions(Object::App(project, AppId(1))).covers(Permissions::ALL)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
