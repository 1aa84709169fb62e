//! Measurements of background work: how fast webhooks are delivered, whether one that hangs slows the others, and how
//! long questions about very many apps take. Not tests of every day: `make bench-jobs`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a measurement fails by panicking and says what it has found"
)]

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::future::join_all;
use kkartifact_model::api::retention::Retention;
use kkartifact_model::event::EventKind;
use kkartifact_store::{AppId, NewEvent, ProjectId, RetentionRule};
use kkartifact_testkit::{Behaviour, Receiver, TestDatabase, TestServer};
use serde_json::{Value, json};

/// How long anything here may take before it fails.
const PATIENCE: Duration = Duration::from_mins(2);
/// What is built for tests may be so many times slower than what is shipped.
const SLOWER: f64 = if cfg!(debug_assertions) { 4.0 } else { 1.0 };
/// How often deliveries are measured; the fastest run counts, since what else goes on only makes them slower.
const DELIVERED: usize = 3;
/// How often questions are measured; the median counts.
const ANSWERED: usize = 5;

macro_rules! measurements {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                #[ignore = "a measurement: make bench-jobs"]
                async fn $name() {
                    super::$name("SQLite", kkartifact_testkit::TestDatabase::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                #[ignore = "a measurement: make bench-jobs"]
                async fn $name() {
                    super::$name("PostgreSQL", kkartifact_testkit::TestDatabase::postgres().await).await;
                }
            )*
        }
    };
}

measurements! {
    deliveries_are_fast_also_beside_a_receiver_that_hangs,
    retention_and_batch_queries_are_fast_with_many_apps,
}

/// The least.
fn shortest(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The one in the middle.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Where the receivers are called.
const PATH: &str = "/hook";
/// How many events happen, each of which four receivers are told of.
const EVENTS: usize = 1000;
const RECEIVERS: usize = 4;
const DELIVERIES: f64 = 4000.0;
/// How many events are recorded in one transaction.
const TOGETHER: usize = 100;
/// How many deliveries have to arrive in a second.
const RATE: f64 = 1000.0;
/// How many times longer they may take beside a receiver that hangs.
const HANGING: f64 = 1.5;

/// A server that tells receivers of an app.
struct Told {
    server: TestServer,
    app: (ProjectId, AppId),
    receivers: Vec<Receiver>,
}

impl Told {
    async fn start(db: TestDatabase) -> Self {
        let server =
            TestServer::start_with(db, |config| config.outbound.allow = vec!["127.0.0.1".into()]).await;
        server.make_app("shop", "web").await;
        let mut tx = server.resources().db.read().await.unwrap();
        let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
        drop(tx);
        let receivers = join_all((0..RECEIVERS).map(|_| Receiver::start())).await;
        for receiver in &receivers {
            tell(&server, receiver).await;
        }
        Self { server, app: (app.project_id, app.id), receivers }
    }

    /// Lets events become due all at once; seconds from the first to the last arrival of what they are told by.
    async fn deliver(&self) -> f64 {
        let before: Vec<_> = self.receivers.iter().map(|receiver| receiver.received(PATH).len()).collect();
        let due = self.server.clock.now() + TimeDelta::minutes(1);
        let event = NewEvent {
            kind: EventKind::Promote,
            app: Some(self.app),
            project: None,
            payload: json!({ "version": "1.4.0", "channel": "stable", "actor": "bench" }),
            trace_parent: None,
        };
        for _ in 0..EVENTS / TOGETHER {
            let mut tx = self.server.resources().db.begin().await.unwrap();
            for _ in 0..TOGETHER {
                tx.insert_event(&event, due).await.unwrap();
            }
            tx.commit().await.unwrap();
        }
        self.server.clock.advance(TimeDelta::minutes(1));
        self.server.resources().jobs_queued.notify_waiters();
        let arrivals = self.receivers.iter().zip(before).map(|(receiver, before)| async move {
            receiver.wait_for(PATH, before + EVENTS, PATIENCE).await.split_off(before)
        });
        let times: Vec<_> = join_all(arrivals).await.iter().flatten().map(|one| one.at).collect();
        (*times.iter().max().unwrap() - *times.iter().min().unwrap()).as_secs_f64()
    }

    /// Seconds of each run.
    async fn deliver_often(&self) -> Vec<f64> {
        let mut seconds = Vec::new();
        for _ in 0..DELIVERED {
            seconds.push(self.deliver().await);
        }
        seconds
    }
}

/// Makes a webhook.
async fn tell(server: &TestServer, receiver: &Receiver) {
    let name = format!("to-{}", receiver.port());
    let body = json!({ "name": name, "url": receiver.url(PATH), "events": ["promote"] });
    server.post("/webhooks", &server.admin, body).await.expect(201);
}

async fn deliveries_are_fast_also_beside_a_receiver_that_hangs(name: &str, db: TestDatabase) {
    let told = Told::start(db).await;
    told.deliver().await;
    let alone = told.deliver_often().await;
    let hangs = Receiver::start().await;
    hangs.on(PATH, Behaviour::hanging());
    tell(&told.server, &hangs).await;
    let beside = told.deliver_often().await;
    eprintln!(
        "{name}: seconds for {DELIVERIES} deliveries: {alone:.2?}, beside a receiver that hangs {beside:.2?}"
    );
    let (alone, beside) = (shortest(&alone), shortest(&beside));
    let (rate, ratio) = (DELIVERIES / alone, beside / alone);
    eprintln!("{name}: {rate:.0} deliveries a second; {ratio:.2} times as long beside a receiver that hangs");
    assert!(rate >= RATE / SLOWER, "{rate:.0} deliveries a second");
    assert!(ratio < HANGING, "{ratio:.2} times as long beside a receiver that hangs");
}

const APPS: usize = 20_000;
const VERSIONS: usize = 20;
/// How many seconds it may take to find out what may go of all of them.
const DECISION: f64 = 10.0;
/// How many apps are asked for, in questions of so many.
const ASKED: usize = 2000;
const AT_ONCE: usize = 500;
/// How many seconds the answers may take, put together.
const ANSWERS: f64 = 0.1;

/// Fills the tables: nobody could push so much.
async fn fill(server: &TestServer, is_postgres: bool) {
    server.post("/projects", &server.admin, json!({ "name": "bulk" })).await.expect(201);
    let digest = "01".repeat(32);
    let digest = if is_postgres { format!("'\\x{digest}'") } else { format!("x'{digest}'") };
    let numbers = |count: usize| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) INSERT INTO"
        )
    };
    let apps = format!(
        "{} app (project_id, name, description, state, event_seq, created_at)
        SELECT p.id, 'a' || n.i, '', 'active', 0, '2025-01-01T00:00:00+00:00'
        FROM n CROSS JOIN project p WHERE p.name = 'bulk'",
        numbers(APPS)
    );
    let versions = format!(
        "{} version (app_id, name, state, revision, tree_digest, manifest_digest, manifest_root, meta_digest,
            entry_count, file_count, bytes, notes, created_at, created_by, created_by_name, legal_hold, pinned)
        SELECT a.id, 'v' || n.i, 'published', 1, {digest}, {digest}, {digest}, {digest}, 1, 1, 1, '',
            '2025-01-01T00:00:00+00:00', (SELECT MIN(id) FROM principal), 'bench', FALSE, FALSE
        FROM app a CROSS JOIN n",
        numbers(VERSIONS)
    );
    for sql in [&apps, &versions] {
        server.execute(sql).await;
    }
    if is_postgres {
        // Nobody waits here until it does so by itself.
        server.execute("ANALYZE").await;
    }
}

/// Seconds that something takes, and what came of it.
async fn timed<T>(work: impl Future<Output = T>) -> (f64, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed().as_secs_f64(), done)
}

/// How many apps have something that may go, as the job finds out.
async fn decide(server: &TestServer, keep: u32) -> usize {
    let retention = Retention { keep: Some(keep), ..Retention::default() };
    let rule = RetentionRule::of(&retention, server.clock.now()).unwrap();
    let (mut found, mut after) = (0, AppId(0));
    loop {
        let mut tx = server.resources().db.read().await.unwrap();
        let Some(until) = tx.last_of_apps(after, 500).await.unwrap() else { return found };
        found += tx.apps_with_expendable(&rule, after, until).await.unwrap().len();
        after = until;
    }
}

/// How many versions may go, as people see it beforehand: page by page.
async fn preview(server: &TestServer, keep: usize) -> usize {
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let path = format!("/retention/preview?keep={keep}&limit=500{cursor}");
        let page = server.get(&path, &server.admin).await.expect(200).json();
        found += page["items"].as_array().unwrap().len();
        let Some(next) = page["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

/// Asks for the newest versions of many apps.
async fn ask(server: &TestServer) {
    let names: Vec<Value> =
        (1..=ASKED).map(|i| json!({ "project": "bulk", "app": format!("a{i}") })).collect();
    for apps in names.chunks(AT_ONCE) {
        let answer = server.post("/batch/versions", &server.admin, json!({ "apps": apps })).await;
        let answer = answer.expect(200).json();
        let is_there = |entry: &Value| entry["versions"].as_array().is_some_and(|all| all.len() == 1);
        assert!(answer["items"].as_array().unwrap().iter().all(is_there), "{answer}");
    }
}

/// How many seconds the server has worked on batch queries, as its metrics say.
async fn worked(server: &TestServer) -> f64 {
    let metrics = server.get("/metrics", "").await.expect(200).text();
    let is_sum = |line: &&str| {
        line.starts_with("kkartifact_request_seconds_sum{") && line.contains("route=\"batch.versions\"")
    };
    let seconds = |line: &str| -> f64 { line.rsplit_once(' ').unwrap().1.parse().unwrap() };
    metrics.lines().filter(is_sum).map(seconds).sum()
}

async fn retention_and_batch_queries_are_fast_with_many_apps(name: &str, db: TestDatabase) {
    let is_postgres = db.url().is_some();
    let server = TestServer::start(db).await;
    fill(&server, is_postgres).await;

    let (deciding, found) = timed(decide(&server, 10)).await;
    assert_eq!(found, APPS);
    // All but one version of each app stay.
    let (previewing, found) = timed(preview(&server, VERSIONS - 1)).await;
    assert_eq!(found, APPS);

    ask(&server).await;
    let (mut answering, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..ANSWERED {
        let before = worked(&server).await;
        answered.push(timed(ask(&server)).await.0);
        answering.push(worked(&server).await - before);
    }
    let (answering, answered) = (median(answering), median(answered));
    eprintln!(
        "{name}: of {APPS} apps with {VERSIONS} versions each, retention is decided in {deciding:.2} s and previewed \
         in {previewing:.2} s; {ASKED} of them are asked for in {:.0} ms, {:.0} ms for who asks",
        answering * 1000.0,
        answered * 1000.0
    );
    assert!(deciding < DECISION * SLOWER && previewing < DECISION * SLOWER);
    assert!(answering < ANSWERS * SLOWER, "{answering:.3} s");
}
