//! Old rows go, the rest still verifies, and nobody else can pass for retention.

use chrono::TimeDelta;
use kkartifact_service::audit::retain;
use kkartifact_testkit::{TestDatabase, on_both_databases};
use serde_json::json;

use crate::{Ledger, probes};

/// A log that keeps a day, of which two days later the first rows have gone: it, and how many went.
async fn retained(db: TestDatabase) -> (Ledger, u64) {
    let ledger = Ledger::of_a_few_deeds(db, 1).await;
    let old = ledger.links().await.len() as u64;
    ledger.server.clock.advance(TimeDelta::days(2));
    probes(&ledger.resources, 0..5, ledger.server.clock.now()).await;
    assert_eq!(retain(&ledger.resources).await.unwrap(), old);
    (ledger, old)
}

async fn actions(ledger: &Ledger) -> Vec<String> {
    let mut tx = ledger.resources.db.read().await.unwrap();
    let mut rows = tx.latest_audit(100).await.unwrap();
    rows.reverse();
    rows.into_iter().map(|row| row.action).collect()
}

async fn old_rows_go_and_the_rest_verifies(db: TestDatabase) {
    let (ledger, old) = retained(db).await;
    ledger.is_clean("after retention").await;
    let kept = ["probe", "probe", "probe", "probe", "probe", "audit.retain"];
    assert_eq!(actions(&ledger).await, kept);
    let mut tx = ledger.resources.db.read().await.unwrap();
    let row = tx.latest_audit(1).await.unwrap().remove(0);
    tx.commit().await.unwrap();
    assert_eq!((row.actor_kind.as_str(), &row.detail.0["rows"]), ("system", &json!(old)));
    // Nothing is old now: nothing is done, and nothing is written down.
    assert_eq!(retain(&ledger.resources).await.unwrap(), 0);
    assert_eq!(actions(&ledger).await, kept);
    ledger.seal().await;
    ledger.is_clean("sealed after retention").await;
    ledger.goes_on(3).await;
    ledger.is_clean("later").await;

    // A second time, now from where the first one ended. Everything is old.
    ledger.server.clock.advance(TimeDelta::days(2));
    assert_eq!(retain(&ledger.resources).await.unwrap(), kept.len() as u64 + 3);
    assert_eq!(actions(&ledger).await, ["audit.retain"]);
    ledger.is_clean("after everything went").await;
    ledger.seal().await;
    ledger.is_clean("sealed after everything went").await;
    ledger.sql("DELETE FROM audit").await;
    ledger.sql("DELETE FROM audit_seal").await;
    ledger.names("the end is missing: 1 rows", "the trace of retention was removed").await;
}

async fn rows_that_go_without_retention_are_named(db: TestDatabase) {
    let (ledger, _) = retained(db).await;
    ledger.seal().await;
    let (seq, row) = ledger.links().await[0];
    ledger.sql(&format!("DELETE FROM audit WHERE id = {row}")).await;
    ledger.names(&format!("row {row}: removed"), "the oldest row").await;
    ledger.sql(&format!("DELETE FROM audit_seal WHERE seq = {seq}")).await;
    ledger.names(&format!("links {seq} to {seq} were removed"), "with its link").await;
    // Where the chain starts is signed, and can't be put further on.
    ledger.sql(&format!("UPDATE audit_start SET seq = {seq}")).await;
    ledger.names(&format!("the start at link {seq} is not signed"), "and the start moved").await;
    let hash = format!("UPDATE audit_start SET hash = (SELECT hash FROM audit_seal WHERE seq = {})", seq + 1);
    ledger.sql(&hash).await;
    ledger.sql(&format!("UPDATE audit_start SET seq = {}", seq + 1)).await;
    ledger.names(&format!("the start at link {} is not signed", seq + 1), "to a link that is there").await;
}

async fn a_start_that_is_missing_is_missed(db: TestDatabase) {
    let (ledger, old) = retained(db).await;
    ledger.seal().await;
    ledger.sql("CREATE TABLE saved AS SELECT * FROM audit_start").await;
    ledger.sql("DELETE FROM audit_start").await;
    ledger.names(&format!("links 1 to {old} were removed"), "without a start").await;
    ledger.sql("INSERT INTO audit_start SELECT * FROM saved").await;
    ledger.is_clean("there again").await;
    ledger.sql("UPDATE audit_start SET signature = hash").await;
    ledger.names(&format!("the start at link {old} is not signed"), "with another signature").await;
}

async fn nothing_goes_where_everything_is_kept(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let before = actions(&ledger).await;
    ledger.server.clock.advance(TimeDelta::days(36_500));
    assert_eq!(retain(&ledger.resources).await.unwrap(), 0);
    assert_eq!(actions(&ledger).await, before);
    ledger.is_clean("a century later").await;
}

on_both_databases! {
    old_rows_go_and_the_rest_verifies,
    rows_that_go_without_retention_are_named,
    a_start_that_is_missing_is_missed,
    nothing_goes_where_everything_is_kept,
}
