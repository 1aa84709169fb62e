//! What must be so when everything has calmed down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kkartifact_store::Database;
use kkartifact_testkit::{Received, TestDatabase};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::world::World;
use crate::{PATIENCE, text};

/// How often it is looked whether there is something left to do.
const LOOK: Duration = Duration::from_millis(500);
/// The first wait before a delivery is tried again is over by then. Later ones take minutes: they are cut short.
const FIRST_WAIT: Duration = Duration::from_secs(7);
const HURRY: &str = "UPDATE job SET run_at = created_at WHERE kind = 'deliver_webhook' AND state = 'queued'";
/// What a job's log says of an attempt that was taken over.
const TAKEN_OVER: &str = "its worker gave no sign of life";

/// Waits until everything is delivered, asserts that it is as it should be, and says how much it was.
pub(crate) async fn everything(form: &str, world: World, database: &TestDatabase) {
    let (world, answered) = world.finish().await;
    let client = &world.client;
    settle(client, database).await;
    // Each move was answered once, with the next revision, and has its event.
    let events = promotions(database).await;
    assert!(answered.is_sorted_by(|before, after| *after == before + 1), "{answered:?}");
    assert_eq!(events.values().copied().collect::<Vec<_>>(), answered);
    let (mut deliveries, mut calls, mut whole) = (0, 0, 0);
    for (path, hook) in &world.hooks {
        let received = world.receiver.received(path);
        let messages = messages(&received);
        let mut told: Vec<_> = messages.values().map(|body| body["data"]["seq"].as_i64().unwrap()).collect();
        told.sort_unstable();
        assert!(told.iter().eq(events.keys()), "{path} was told of {told:?} of {:?}", events.keys());
        check_deliveries(client, hook, &messages).await;
        deliveries += messages.len();
        calls += received.len();
        whole += received.iter().filter(|one| is_whole(one)).count();
    }
    let (jobs, claims, takeovers) = check_jobs(client).await;
    assert_eq!(jobs, deliveries);
    assert!(calls <= claims, "{calls} calls by {claims} attempts");
    assert!(takeovers > 0, "nobody died with a job in hand");
    eprintln!(
        "chaos_jobs {form}: {deliveries} deliveries of {} events, {} duplicates, {claims} attempts, {takeovers} \
         takeovers, {:.1} s, KKARTIFACT_CHAOS_SEED={}",
        events.len(),
        whole - deliveries,
        world.started.elapsed().as_secs_f64(),
        world.seed
    );
}

/// Waits until no job is left to do.
async fn settle(client: &Client, database: &TestDatabase) {
    let began = Instant::now();
    loop {
        let counts = client.get("/jobs/counts").await;
        if counts["queued"] == 0 && counts["running"] == 0 {
            return;
        }
        if began.elapsed() > PATIENCE {
            let running = client.get("/jobs?state=running&limit=5").await;
            let queued = client.get("/jobs?state=queued&limit=5").await;
            panic!("jobs are left: {counts}, such as {running:#} and {queued:#}");
        }
        if began.elapsed() > FIRST_WAIT {
            database.execute(HURRY).await;
        }
        sleep(LOOK).await;
    }
}

/// The moves of the channel, as the table of events has them: revision by sequence.
async fn promotions(database: &TestDatabase) -> BTreeMap<i64, i64> {
    let database = Database::connect(database.config()).await.unwrap();
    let mut tx = database.read().await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let events = tx.events_after(app.id, 0, u32::MAX).await.unwrap();
    let promotions = events.iter().filter(|event| event.kind == "promote");
    promotions.map(|event| (event.seq, event.payload.0["revision"].as_i64().unwrap())).collect()
}

/// Whether a request came with its body: who sent it may have died in the middle.
fn is_whole(received: &Received) -> bool {
    !received.body.is_empty()
}

/// Bodies by message id: duplicates say the same.
fn messages(received: &[Received]) -> BTreeMap<String, Value> {
    let mut messages = BTreeMap::new();
    for one in received.iter().filter(|one| is_whole(one)) {
        let body = one.json();
        let first = messages.entry(one.header("webhook-id").to_owned()).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "the same id, and something else");
    }
    messages
}

/// What came is what was to be delivered, and the log has each attempt that was the job's own: one has succeeded.
async fn check_deliveries(client: &Client, hook: &str, messages: &BTreeMap<String, Value>) {
    let path = format!("/webhooks/{hook}/deliveries");
    let deliveries = client.all(&path, "").await;
    let ids: BTreeSet<_> = deliveries.iter().map(|one| format!("msg_{}", text(&one["id"]))).collect();
    assert!(ids.iter().eq(messages.keys()), "{ids:?} are to come, {:?} came", messages.keys());
    for delivery in &deliveries {
        let detail = client.get(&format!("{path}/{}", text(&delivery["id"]))).await;
        assert_eq!(detail["state"], "delivered", "{detail:#}");
        let log = detail["log"].as_array().unwrap();
        let numbers = log.iter().map(|attempt| attempt["attempt"].as_u64().unwrap());
        assert!(numbers.eq(1..=detail["attempts"].as_u64().unwrap()), "{detail:#}");
        let succeeded = log.iter().filter(|attempt| attempt["status"] == 200).count();
        assert_eq!(succeeded, 1, "{detail:#}");
    }
}

/// All deliveries' jobs have succeeded, and each attempt before was counted as a failure. How many jobs and attempts
/// there are, and how many of these were taken over.
async fn check_jobs(client: &Client) -> (usize, usize, usize) {
    let jobs = client.all("/jobs", "&kind=deliver_webhook").await;
    let (mut claims, mut takeovers) = (0, 0);
    for job in &jobs {
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let number = |name: &str| usize::try_from(job[name].as_u64().unwrap()).unwrap();
        let (attempts, failures) = (number("attempt"), number("failures"));
        assert_eq!(attempts, failures + 1, "{job:#}");
        claims += attempts;
        if failures > 0 {
            let detail = client.get(&format!("/jobs/{}", job["id"])).await;
            let log = detail["log"].as_array().unwrap();
            takeovers += log.iter().filter(|line| line["line"] == TAKEN_OVER).count();
        }
    }
    (jobs.len(), claims, takeovers)
}
