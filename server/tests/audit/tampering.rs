//! What somebody does to the log who can write to the database, and neither to the storage nor read the key.

use kkartifact_testkit::{TestDatabase, on_both_databases};

use crate::{Ledger, probes};

/// What a row of the log says, but for what proves it.
const COLUMNS: &str = "at, actor_id, actor_kind, actor_name, action, outcome, times, project, app, version, \
                       agent_id, host, address, request_id, detail";

/// Changes of a row, and what takes them back: for SQLite and PostgreSQL, or for both.
const CHANGES: [(&str, [&str; 2], [&str; 2]); 8] = [
    (
        "actor_name",
        BOTH,
        ["actor_name = actor_name || 'x'", "actor_name = substr(actor_name, 1, length(actor_name) - 1)"],
    ),
    ("times", BOTH, ["times = times + 1", "times = times - 1"]),
    ("outcome", BOTH, ["outcome = 'refused'", "outcome = 'done'"]),
    ("address", BOTH, ["address = '192.0.2.66'", "address = '127.0.0.1'"]),
    ("host", BOTH, ["host = ''", "host = NULL"]),
    ("action", BOTH, ["action = action || ' '", "action = substr(action, 1, length(action) - 1)"]),
    (
        "detail",
        ["detail = json_set(detail, '$.x', 1)", "detail = json_remove(detail, '$.x')"],
        ["detail = detail || '{\"x\": 1}'", "detail = detail - 'x'"],
    ),
    (
        "at",
        ["at = replace(at, '03:04:05', '03:04:06')", "at = replace(at, '03:04:06', '03:04:05')"],
        ["at = at + interval '1 microsecond'", "at = at - interval '1 microsecond'"],
    ),
];
/// SQLite does it as PostgreSQL does.
const BOTH: [&str; 2] = ["", ""];

async fn change(ledger: &Ledger, row: i64, sqlite: &str, postgres: &str) {
    let sqlite = if sqlite.is_empty() { postgres } else { sqlite };
    let update = |what: &str| format!("UPDATE audit SET {what} WHERE id = {row}");
    ledger.dialect(&update(sqlite), &update(postgres)).await;
}

async fn a_row_that_was_changed_is_named(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    for (column, sqlite, postgres) in CHANGES {
        for (_, row) in [ledger.links().await[2], *ledger.links().await.last().unwrap()] {
            change(&ledger, row, sqlite[0], postgres[0]).await;
            ledger.names(&format!("row {row}: "), column).await;
            assert_eq!(ledger.problems().await.len(), 1, "{column}: the others are as they were");
            // What the server does meanwhile does not make it good.
            ledger.seal().await;
            ledger.names(&format!("row {row}: "), column).await;
            change(&ledger, row, sqlite[1], postgres[1]).await;
            ledger.is_clean(column).await;
        }
    }
    // Nor does a row that pretends to be from before rows had MACs.
    let (_, first) = ledger.links().await[0];
    let (_, other) = ledger.links().await[3];
    ledger.sql(&format!("UPDATE audit SET mac = NULL WHERE id = {first}")).await;
    ledger.sql(&format!("UPDATE audit SET mac = NULL, nonce = NULL WHERE id = {other}")).await;
    ledger.names(&format!("row {other}: "), "without a MAC").await;
    ledger.sql(&format!("UPDATE audit SET actor_name = 'mallory' WHERE id = {first}")).await;
    ledger.names(&format!("row {first}: "), "without a MAC, the first one").await;
}

async fn a_row_that_was_changed_before_it_was_sealed_is_named(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    probes(&ledger.resources, 0..3, ledger.server.clock.now()).await;
    let row = ledger.newest().await - 1;
    ledger.is_clean("before").await;
    change(&ledger, row, "", "actor_name = 'mallory'").await;
    ledger.names(&format!("row {row}: "), "not sealed").await;
    ledger.seal().await;
    ledger.names(&format!("row {row}: "), "sealed").await;
    assert_eq!(ledger.problems().await.len(), 1);
}

async fn a_row_that_was_removed_is_named(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let links = ledger.links().await;
    let ((seq, row), (_, last)) = (links[3], *links.last().unwrap());
    for id in [row, last] {
        ledger.sql(&format!("DELETE FROM audit WHERE id = {id}")).await;
        ledger.names(&format!("row {id}: removed"), "without its link").await;
    }
    ledger.sql(&format!("DELETE FROM audit_seal WHERE seq = {seq}")).await;
    let gap = format!("links {seq} to {seq} were removed");
    ledger.names(&gap, "with its link").await;
    ledger.goes_on(5).await;
    ledger.names(&gap, "later").await;
    ledger.names(&format!("row {last}: removed"), "later").await;
    // A gap that is closed by counting anew is one all the same.
    ledger.sql(&format!("UPDATE audit_seal SET seq = -seq WHERE seq > {seq}")).await;
    ledger.sql("UPDATE audit_seal SET seq = -seq - 1 WHERE seq < 0").await;
    assert!(!ledger.problems().await.is_empty());
}

async fn a_row_that_was_inserted_is_named_before_and_after_it_is_sealed(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let (_, model) = ledger.links().await[2];
    let mut forged = Vec::new();
    for (what, actor, sqlite, postgres) in [
        ("without a MAC", "'mallory'", "NULL, NULL", "NULL, NULL"),
        ("with a nonce only", "'mallory'", "randomblob(16), NULL", "gen_random_uuid(), NULL"),
        (
            "with any MAC",
            "'mallory'",
            "randomblob(16), zeroblob(32)",
            "gen_random_uuid(), decode(repeat('00', 32), 'hex')",
        ),
        ("with another row's MAC", "'mallory'", "nonce, mac", "nonce, mac"),
        ("with another nonce", "actor_name", "randomblob(16), mac", "gen_random_uuid(), mac"),
        ("a copy", "actor_name", "nonce, mac", "nonce, mac"),
    ] {
        let insert = |proof: &str| {
            let said = COLUMNS.replace("actor_name", actor);
            let selected = format!("SELECT {said}, {proof} FROM audit WHERE id = {model}");
            format!("INSERT INTO audit ({COLUMNS}, nonce, mac) {selected}")
        };
        ledger.dialect(&insert(sqlite), &insert(postgres)).await;
        forged.push((what, format!("row {}: ", ledger.newest().await)));
        for (what, row) in &forged {
            ledger.names(row, what).await;
        }
        ledger.seal().await;
        for (what, row) in &forged {
            ledger.names(row, &format!("{what}, sealed")).await;
        }
    }
    // Whoever inserts it with a link of its own does not get further.
    let (seq, _) = *ledger.links().await.last().unwrap();
    let selected = format!("SELECT {COLUMNS}, TRUE FROM audit WHERE id = {model}");
    ledger.sql(&format!("INSERT INTO audit ({COLUMNS}, sealed) {selected}")).await;
    let id = ledger.newest().await;
    let selected = format!("SELECT {}, {id}, hash FROM audit_seal WHERE seq = {seq}", seq + 1);
    ledger.sql(&format!("INSERT INTO audit_seal (seq, audit_id, hash) {selected}")).await;
    ledger.names(&format!("row {id}: "), "with a link").await;
}

async fn an_end_that_was_cut_off_is_named_and_stays_so(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let links = ledger.links().await;
    let cut = &links[links.len() - 3..];
    let (seq, _) = cut[0];
    let ids: Vec<_> = cut.iter().map(|(_, id)| id.to_string()).collect();
    ledger.sql(&format!("DELETE FROM audit WHERE id IN ({})", ids.join(", "))).await;
    for id in ids {
        ledger.names(&format!("row {id}: removed"), "rows").await;
    }
    ledger.sql(&format!("DELETE FROM audit_seal WHERE seq >= {seq}")).await;
    ledger.names("the end is missing: 3 rows", "rows and links").await;
    // The log grows over what was cut.
    for round in 0..3 {
        ledger.goes_on(2).await;
        assert!(!ledger.problems().await.is_empty(), "{} rows later", (round + 1) * 2);
    }
}

async fn links_that_were_removed_are_missed(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let links = ledger.links().await;
    let (seq, _) = links[links.len() - 2];
    ledger.sql(&format!("DELETE FROM audit_seal WHERE seq >= {seq}")).await;
    ledger.names("the end is missing: 2 rows", "the last links").await;
    ledger.sql("DELETE FROM audit_seal").await;
    ledger.names(&format!("the end is missing: {} rows", links.len()), "all links").await;
    // The same rows make the same chain, though: who has only removed links has changed nothing.
    ledger.sql("UPDATE audit SET sealed = FALSE").await;
    ledger.seal().await;
    ledger.is_clean("chained again").await;
}

/// Who owns the database can drop the chain, and the server makes a new one of what it finds.
async fn a_chain_that_was_made_anew_is_not_the_one_that_was_signed(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let (_, row) = ledger.links().await[2];
    ledger.sql(&format!("DELETE FROM audit WHERE id = {row}")).await;
    ledger.sql("DELETE FROM audit_seal").await;
    ledger.sql("UPDATE audit SET sealed = FALSE").await;
    ledger.goes_on(0).await;
    assert!(!ledger.problems().await.is_empty(), "a row is missing");
    for round in 0..4 {
        ledger.goes_on(1).await;
        assert!(!ledger.problems().await.is_empty(), "{} rows later", round + 1);
    }
}

/// As many rows as before, and none has a MAC: a log from before there were any, if it were not for the head.
async fn a_log_that_was_written_anew_is_not_the_one_that_was_signed(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    ledger.sql("UPDATE audit SET mac = NULL, nonce = NULL, actor_name = 'mallory'").await;
    ledger.sql("DELETE FROM audit_seal").await;
    ledger.sql("UPDATE audit SET sealed = FALSE").await;
    assert!(!ledger.problems().await.is_empty(), "not sealed");
    ledger.goes_on(0).await;
    assert!(!ledger.problems().await.is_empty(), "sealed");
    for round in 0..3 {
        ledger.goes_on(1).await;
        assert!(!ledger.problems().await.is_empty(), "{} rows later", round + 1);
    }
}

async fn a_head_that_is_missing_or_not_the_servers_is_missed(db: TestDatabase) {
    let ledger = Ledger::of_a_few_deeds(db, 0).await;
    let file = ledger.server.content_dir().join("audit/head.json");
    let head = std::fs::read_to_string(&file).unwrap();
    let rows = ledger.links().await.len();
    std::fs::remove_file(&file).unwrap();
    ledger.names("the signed end in the storage is missing", "removed").await;
    let place = format!("\"seq\":{rows}");
    assert!(head.contains(&place), "{head}");
    let shorter = head.replace(&place, &format!("\"seq\":{}", rows - 1));
    for other in ["", "{}", "null", &head[..head.len() - 1], &shorter] {
        std::fs::write(&file, other).unwrap();
        ledger.names("the signed end in the storage is missing", other).await;
    }
    std::fs::write(&file, &head).unwrap();
    ledger.is_clean("there again").await;
}

on_both_databases! {
    a_row_that_was_changed_is_named,
    a_row_that_was_changed_before_it_was_sealed_is_named,
    a_row_that_was_removed_is_named,
    a_row_that_was_inserted_is_named_before_and_after_it_is_sealed,
    an_end_that_was_cut_off_is_named_and_stays_so,
    links_that_were_removed_are_missed,
    a_chain_that_was_made_anew_is_not_the_one_that_was_signed,
    a_log_that_was_written_anew_is_not_the_one_that_was_signed,
    a_head_that_is_missing_or_not_the_servers_is_missed,
}
