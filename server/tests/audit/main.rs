//! The audit log: what stands in it, how it is read, and what shows that somebody has changed it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod atomic;
mod command;
mod export;
mod list;
mod people;
mod refusals;
mod retention;
mod rows;
mod tampering;

use chrono::{DateTime, Utc};
use kkartifact_service::Resources;
use kkartifact_service::audit::{seal, verify};
use kkartifact_store::{Actor, NewAudit, Outcome};
use kkartifact_testkit::{Answer, TestDatabase, TestServer};
use serde_json::{Value, json};

/// Who made the rows of [`probes`].
const PROBER: &str = "prober";

fn is_sqlite(server: &TestServer) -> bool {
    server.resources().config.database.url.is_none()
}

/// A server that writes what it has counted when it is told to, and not before.
async fn counting(db: TestDatabase) -> TestServer {
    TestServer::start_with(db, |config| {
        config.audit.window_seconds = 3600;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await
}

/// Writes down what has been counted.
async fn flush(server: &TestServer) {
    server.resources().tally.flush(server.resources()).await.unwrap();
}

/// The rows that a query lets through, newest first.
async fn rows(server: &TestServer, query: &str) -> Vec<Value> {
    let page = server.get(&format!("/audit?limit=500&{query}"), &server.admin).await.expect(200).json();
    assert_eq!(page["has_more"], false, "{query}");
    page["items"].as_array().unwrap().clone()
}

/// Asserts that a request left one row, which says what was done by whom (`kind name`); that row.
async fn left_one_row(server: &TestServer, answer: &Answer, action: &str, who: &str) -> Value {
    let said = answer.text();
    let found = rows(server, &format!("request_id={}", answer.header("x-request-id"))).await;
    assert_eq!(found.len(), 1, "{action}: {found:?}: {said}");
    let row = found[0].clone();
    let outcome = if answer.status.is_success() { "done" } else { "refused" };
    assert_eq!((&row["action"], &row["outcome"]), (&json!(action), &json!(outcome)), "{row}: {said}");
    let (kind, name) = (row["actor_kind"].as_str().unwrap(), row["actor"].as_str().unwrap());
    assert_eq!(format!("{kind} {name}"), who, "{row}");
    assert_eq!((&row["address"], &row["times"]), (&json!("127.0.0.1"), &json!(1)), "{row}");
    assert_eq!(row["at"], json!(server.clock.now()), "{row}");
    row
}

/// What a row is about: project, app and version, as far as it names them.
fn place(row: &Value) -> String {
    let names = ["project", "app", "version"].into_iter().filter_map(|name| row[name].as_str());
    names.collect::<Vec<_>>().join("/")
}

/// Asserts that none of these texts stands anywhere in the log.
async fn nowhere_in_the_log(server: &TestServer, secrets: &[String]) {
    flush(server).await;
    let log = serde_json::to_string(&rows(server, "").await).unwrap();
    assert!(log.contains("first-admin"), "{log}");
    for secret in secrets {
        assert!(secret.len() >= 12, "{secret}");
        // A part of it is as bad: the random one of a token, the signature of a JWT.
        for part in secret.split(['_', '.']).filter(|part| part.len() > 20).chain([secret.as_str()]) {
            assert!(!log.contains(part), "{secret}: {log}");
        }
    }
}

/// Writes rows, as the server does, whose detail counts them.
async fn probes(resources: &Resources, numbers: std::ops::Range<u32>, at: DateTime<Utc>) {
    let actor = Actor {
        id: None,
        kind: "token".into(),
        name: PROBER.into(),
        address: Some("192.0.2.1".into()),
        request_id: None,
        trace_parent: None,
        key: resources.auth.audit_key().clone(),
    };
    let mut tx = resources.db.begin().await.unwrap();
    for number in numbers {
        let row = NewAudit { action: "probe", detail: json!({ "number": number }), ..NewAudit::default() };
        tx.audit(&actor, Outcome::Done, &row, at).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// The sealed log of a server that has stopped: nobody but the test writes.
struct Ledger {
    server: TestServer,
    resources: Resources,
}

impl Ledger {
    /// Of a server that has done a few things and keeps rows for so many days.
    async fn of_a_few_deeds(db: TestDatabase, keep_days: u32) -> Self {
        let mut server = TestServer::start_with(db, |config| config.audit.keep_days = keep_days).await;
        server.make_app("shop", "web").await;
        for _ in 0..5 {
            server.token(&["view"], "shop").await;
        }
        let config = (*server.resources().config).clone();
        server.stop().await;
        let resources = Resources::open(config, server.clock.clone()).await.unwrap();
        let ledger = Self { server, resources };
        ledger.seal().await;
        ledger.is_clean("untouched").await;
        let rows = ledger.links().await.len() as u64;
        let report = verify(&ledger.resources).await.unwrap();
        assert_eq!((report.rows, report.waiting, report.problem_count), (rows, 0, 0));
        assert_eq!(report.sealed.map(|(seq, _)| seq), Some(i64::try_from(rows).unwrap()));
        assert!(rows >= 8, "{rows} rows");
        ledger
    }

    async fn seal(&self) {
        seal(&self.resources).await.unwrap();
    }

    /// Time goes by: more rows come, and the server seals what it finds. It may refuse to.
    async fn goes_on(&self, rows: u32) {
        probes(&self.resources, 0..rows, self.server.clock.now()).await;
        drop(seal(&self.resources).await);
    }

    async fn problems(&self) -> Vec<String> {
        let report = verify(&self.resources).await.unwrap();
        assert_eq!(report.problem_count, report.problems.len() as u64);
        report.problems
    }

    async fn is_clean(&self, when: &str) {
        assert_eq!(self.problems().await, [""; 0], "{when}");
    }

    /// Asserts that a problem is named that begins like this.
    async fn names(&self, beginning: &str, when: &str) {
        let problems = self.problems().await;
        assert!(problems.iter().any(|text| text.starts_with(beginning)), "{when}: {beginning}: {problems:?}");
    }

    /// Changes the database behind the server's back.
    async fn sql(&self, text: &str) {
        self.server.execute(text).await;
    }

    /// The same where the databases differ.
    async fn dialect(&self, sqlite: &str, postgres: &str) {
        let is_sqlite = self.resources.config.database.url.is_none();
        self.sql(if is_sqlite { sqlite } else { postgres }).await;
    }

    /// Each link's place, and the id of its row.
    async fn links(&self) -> Vec<(i64, i64)> {
        let mut tx = self.resources.db.read().await.unwrap();
        let links = tx.seals(0, 1000).await.unwrap();
        links.into_iter().map(|link| (link.seq, link.audit_id.0)).collect()
    }

    /// The id of the newest row.
    async fn newest(&self) -> i64 {
        let mut tx = self.resources.db.read().await.unwrap();
        tx.latest_audit(1).await.unwrap()[0].id.0
    }
}
