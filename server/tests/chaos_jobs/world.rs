//! What is there in both forms: an app with two versions, a channel that moves between them, and receivers that are
//! told.

use std::path::Path;
use std::time::Duration;

use kkartifact_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::program::{Program, Variable};
use crate::{Dice, PATIENCE, PAUSE, text};

/// Where events are posted to, and how long each receiver takes: whoever delivers has always some in hand.
pub(crate) const RECEIVERS: [(&str, Duration); 4] = [
    ("/a", Duration::from_millis(30)),
    ("/b", Duration::from_millis(50)),
    ("/c", Duration::from_millis(75)),
    (SLOWEST, Duration::from_millis(100)),
];
const SLOWEST: &str = "/d";
/// How long deliveries are waited for that something holds up.
pub(crate) const HELD_UP: Duration = Duration::from_secs(2);
/// A worker that shows no sign of life for so long is taken for dead, in seconds.
pub(crate) const LEASE: u64 = 2;

/// What every process is told.
pub(crate) fn environment(dir: &Path) -> Vec<Variable> {
    vec![
        ("KKARTIFACT_SERVER__DATA_DIR", dir.join("data").display().to_string()),
        ("KKARTIFACT_STORAGE__RESERVE", "0".to_owned()),
        ("KKARTIFACT_AUTH__BCRYPT_COST", "4".to_owned()),
        ("KKARTIFACT_RATE__GUESSES_PER_MINUTE", "1000000".to_owned()),
        ("KKARTIFACT_RATE__REQUESTS_PER_SECOND", "1000000".to_owned()),
        ("KKARTIFACT_OUTBOUND__ALLOW", "[\"127.0.0.0/8\"]".to_owned()),
        ("KKARTIFACT_JOBS__LEASE_SECONDS", LEASE.to_string()),
        // Few at a time: there is something left to deliver when something dies.
        ("KKARTIFACT_JOBS__DELIVERIES", "24".to_owned()),
        ("KKARTIFACT_WEBHOOKS__PER_RECEIVER", "4".to_owned()),
    ]
}

/// A server with an app, and who is told of it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) receiver: Receiver,
    /// Paths of the receiver, and the webhooks that lead there.
    pub(crate) hooks: Vec<(&'static str, String)>,
    pub(crate) dice: Dice,
    pub(crate) started: Instant,
    orders: UnboundedSender<usize>,
    producing: JoinHandle<Vec<i64>>,
}

impl World {
    /// Starts a server, with everything that is needed for events to happen.
    pub(crate) async fn start(dir: &Path, environment: &[Variable], dice: Dice) -> (Self, Program) {
        let (started, ready) = (Instant::now(), dir.join("ready"));
        let args = ["serve", "--ready-file", ready.to_str().unwrap()];
        let server = Program::start("kkartifact", &args, dir, environment).await;
        let client = Client::bootstrap(&server.url(), &secret(&ready).await).await;
        client.post("/projects", &json!({ "name": "shop" })).await;
        client.post("/projects/shop/apps", &json!({ "name": "web" })).await;
        for version in VERSIONS {
            let init = json!({ "project": "shop", "app": "web", "version": version });
            let upload = client.post("/upload/init", &init).await;
            client.put(&format!("/file/shop/web/{version}?path=a"), version).await;
            client.post("/upload/finish", &json!({ "upload_id": upload["upload_id"] })).await;
        }
        let (receiver, mut hooks) = (Receiver::start().await, Vec::new());
        for (path, delay) in RECEIVERS {
            receiver.on(path, Behaviour::status(200).after(delay));
            let hook = json!({ "name": &path[1..], "url": receiver.url(path), "events": ["promote"] });
            hooks.push((path, text(&client.post("/webhooks", &hook).await["id"])));
        }
        let (orders, ordered) = unbounded_channel();
        let producing = tokio::spawn(produce(client.clone(), ordered));
        (Self { client, receiver, hooks, dice, started, orders, producing }, server)
    }

    /// Makes so many events happen, behind those that are to happen already.
    pub(crate) fn happen(&self, count: usize) {
        self.orders.send(count).unwrap();
    }

    /// Begins a round: events happen, of which one receiver fails a call now and then. Returns in the middle of their
    /// deliveries.
    pub(crate) async fn begin_round(&mut self, round: usize, events: usize) {
        if round.is_multiple_of(2) {
            let (path, delay) = RECEIVERS[round / 2 % RECEIVERS.len()];
            self.receiver.on(path, Behaviour::failing_first(1, 503).after(delay));
        }
        let came = || self.receiver.received(SLOWEST).len();
        let moment = came() + 1 + self.dice.below(events);
        self.happen(events);
        let began = Instant::now();
        while came() < moment && began.elapsed() < HELD_UP {
            sleep(PAUSE).await;
        }
    }

    /// Waits until everything has happened; the channel's revision after each event, as the answers have said it.
    pub(crate) async fn finish(self) -> (Ended, Vec<i64>) {
        let Self { client, receiver, hooks, dice, started, orders, producing } = self;
        drop(orders);
        (Ended { client, receiver, hooks, seed: dice.seed, started }, producing.await.unwrap())
    }
}

/// What is left when nothing happens any more.
pub(crate) struct Ended {
    pub(crate) client: Client,
    pub(crate) receiver: Receiver,
    pub(crate) hooks: Vec<(&'static str, String)>,
    pub(crate) seed: u64,
    pub(crate) started: Instant,
}

const VERSIONS: [&str; 2] = ["v1", "v2"];

/// Moves the channel to and fro, once for each event. A move that was made though its answer was lost is asked for
/// again, which makes no second event.
async fn produce(client: Client, mut orders: UnboundedReceiver<usize>) -> Vec<i64> {
    let mut revisions = Vec::new();
    while let Some(count) = orders.recv().await {
        for _ in 0..count {
            let version = VERSIONS[revisions.len() % VERSIONS.len()];
            let move_to = json!({ "project": "shop", "app": "web", "version": version });
            let channel = client.post("/promote", &move_to).await;
            revisions.push(channel["revision"].as_i64().unwrap());
        }
    }
    revisions
}

/// The one-time secret that a server has written down.
async fn secret(ready: &Path) -> String {
    let started = Instant::now();
    loop {
        if let Ok(written) = std::fs::read(ready) {
            let said: Value = serde_json::from_slice(&written).unwrap();
            return text(&said["bootstrap_secret"]);
        }
        assert!(started.elapsed() < PATIENCE, "the server says no secret");
        sleep(PAUSE).await;
    }
}
