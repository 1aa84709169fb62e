//! Several processes: PostgreSQL and Redis, the server, and a jobs-service that works on the same jobs. What dies is
//! the jobs-service, Redis or PostgreSQL.

use std::collections::BTreeSet;
use std::time::Duration;

use kkartifact_testkit::{PostgresProcess, RedisProcess, TestDatabase};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::program::Program;
use crate::world::{HELD_UP, LEASE, RECEIVERS, World, environment};
use crate::{Dice, Form, PAUSE, check};

/// What can happen.
#[derive(Debug, Clone, Copy)]
enum Disaster {
    /// The jobs-service is killed with jobs in hand.
    ServiceDies,
    /// It stands still for longer than its lease with jobs in hand, and goes on with what it was doing.
    ServiceStandsStill,
    /// Redis forgets everything.
    RedisForgets,
    /// Redis is away for a while, and has forgotten everything when it is back.
    RedisIsAway,
    /// PostgreSQL crashes, and is away for a while.
    DatabaseCrashes,
    /// PostgreSQL does not answer for a while.
    DatabaseHangs,
}

const DISASTERS: [Disaster; 6] = [
    Disaster::ServiceDies,
    Disaster::ServiceStandsStill,
    Disaster::RedisForgets,
    Disaster::RedisIsAway,
    Disaster::DatabaseCrashes,
    Disaster::DatabaseHangs,
];

/// Each disaster so many times, in any order.
fn deck(times: usize, dice: &mut Dice) -> Vec<Disaster> {
    let mut deck = Vec::new();
    for _ in 0..times {
        let mut all = DISASTERS;
        for last in (1..all.len()).rev() {
            all.swap(last, dice.below(last + 1));
        }
        deck.extend(all);
    }
    deck
}

/// How often more events are made to happen when the jobs-service gets none of the deliveries.
const TRIES: usize = 10;

/// What dies, and whom it dies for. Ended in this order.
struct Cluster {
    jobs: Program,
    _server: Program,
    redis: RedisProcess,
    postgres: PostgresProcess,
    outage: Duration,
    _dir: TempDir,
}

impl Cluster {
    async fn start(outage: Duration, dice: Dice) -> (Self, World, TestDatabase) {
        let (dir, redis, postgres) =
            (tempfile::tempdir().unwrap(), RedisProcess::start(), PostgresProcess::start());
        let database = TestDatabase::on(&postgres.url()).await;
        let mut environment = environment(dir.path());
        environment.push(("KKARTIFACT_DATABASE__URL", database.url().unwrap()));
        environment.push(("KKARTIFACT_REDIS__URL", redis.url()));
        let (world, server) = World::start(dir.path(), &environment, dice).await;
        let jobs = Program::start("kkartifact-jobs-service", &[], dir.path(), &environment).await;
        (Self { jobs, _server: server, redis, postgres, outage, _dir: dir }, world, database)
    }

    async fn strike(&mut self, disaster: Disaster, world: &World) {
        match disaster {
            Disaster::ServiceDies => {
                self.mid_job(world).await;
                self.jobs.kill();
                self.jobs.restart().await;
            }
            Disaster::ServiceStandsStill => {
                self.mid_job(world).await;
                self.jobs.pause();
                taken_over(&world.client).await;
                self.jobs.resume();
            }
            Disaster::RedisForgets => self.redis.flush(),
            Disaster::RedisIsAway => {
                self.redis.stop();
                sleep(self.outage).await;
                self.redis.restart();
            }
            Disaster::DatabaseCrashes => {
                self.postgres.stop();
                sleep(self.outage).await;
                self.postgres.restart();
            }
            Disaster::DatabaseHangs => {
                self.postgres.pause();
                sleep(self.outage).await;
                self.postgres.resume();
            }
        }
    }

    /// Waits until the jobs-service has deliveries in hand, of which it shares with the server who comes first.
    async fn mid_job(&self, world: &World) {
        for _ in 0..TRIES {
            let began = Instant::now();
            while began.elapsed() < HELD_UP {
                if self.jobs.in_hand().await >= 2 {
                    return;
                }
                sleep(PAUSE).await;
            }
            world.happen(2);
        }
    }
}

/// Waits until the attempts that run now have ended or were taken over. Not for ever: who was stopped in the middle of
/// a transaction holds its rows until it goes on.
async fn taken_over(client: &Client) {
    let running = async || -> BTreeSet<(i64, i64)> {
        let jobs = client.all("/jobs", "&kind=deliver_webhook&state=running").await;
        let number = |value: &Value| value.as_i64().unwrap();
        jobs.iter().map(|job| (number(&job["id"]), number(&job["attempt"]))).collect()
    };
    let (before, began) = (running().await, Instant::now());
    while began.elapsed() < Duration::from_secs(4 * LEASE) && !before.is_disjoint(&running().await) {
        sleep(PAUSE).await;
    }
}

pub(crate) async fn run(mut form: Form) {
    let deck = deck((form.deliveries / 500).max(1), &mut form.dice);
    let (mut cluster, mut world, database) = Cluster::start(form.outage, form.dice).await;
    let events = form.deliveries.div_ceil(RECEIVERS.len() * deck.len());
    for (round, disaster) in deck.into_iter().enumerate() {
        world.begin_round(round, events).await;
        let began = Instant::now();
        cluster.strike(disaster, &world).await;
        eprintln!("round {round}: {disaster:?}, {:.1} s", began.elapsed().as_secs_f64());
    }
    check::everything("cluster", world, &database).await;
}
