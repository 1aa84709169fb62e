//! Taking the log away: as CSV, which spreadsheets must not run, and as lines of JSON.

use std::collections::BTreeSet;
use std::mem::take;

use chrono::{DateTime, Utc};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{probes, rows};

/// Reads CSV as RFC 4180 has it.
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => {
                assert!(quoted || cell.is_empty(), "a quote within {cell:?}");
                quoted = !quoted;
            }
            character if quoted => cell.push(character),
            ',' => record.push(take(&mut cell)),
            '\r' => {}
            '\n' => {
                record.push(take(&mut cell));
                records.push(take(&mut record));
            }
            character => cell.push(character),
        }
    }
    assert!(!quoted && record.is_empty() && cell.is_empty(), "it breaks off");
    records
}

async fn export(server: &TestServer, format: &str, query: &str) -> String {
    let answer =
        server.get(&format!("/audit/export?format={format}&{query}"), &server.admin).await.expect(200);
    let kind = if format == "csv" { "text/csv" } else { "application/x-ndjson" };
    assert_eq!(answer.header("content-type").split(';').next(), Some(kind));
    answer.text()
}

/// Rows as both formats tell them, which must be the same.
async fn exported(server: &TestServer, query: &str) -> (Vec<String>, Vec<Vec<String>>, Vec<Value>) {
    let mut csv = records(&export(server, "csv", query).await);
    let header = csv.remove(0);
    let lines = export(server, "jsonl", query).await;
    assert!(lines.is_empty() || lines.ends_with('\n'), "the last line ends too");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(csv.iter().all(|record| record.len() == header.len()));
    let id = header.iter().position(|name| name == "id").unwrap();
    let ids: Vec<i64> = csv.iter().map(|record| record[id].parse().unwrap()).collect();
    assert!(lines.iter().map(|line| line["id"].as_i64().unwrap()).eq(ids));
    (header, csv, lines)
}

async fn every_row_is_exported_in_both_formats(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let at: DateTime<Utc> = "2025-06-01T00:00:00Z".parse().unwrap();
    probes(server.resources(), 0..1200, at).await;
    let (header, csv, lines) = exported(&server, "action=probe").await;
    assert_eq!((csv.len(), lines.len()), (1200, 1200));
    let numbers: BTreeSet<_> = lines.iter().map(|line| line["detail"]["number"].as_u64().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..1200));
    let columns: BTreeSet<_> = header.iter().map(String::as_str).collect();
    let fields: BTreeSet<_> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(columns, fields);

    // Filters are those of the list, and rows are told as the list tells them.
    server.make_app("shop", "web").await;
    let (_, csv, mut lines) = exported(&server, "project=shop").await;
    let mut listed = rows(&server, "project=shop").await;
    assert_eq!((csv.len(), listed.len()), (2, 2));
    for rows in [&mut lines, &mut listed] {
        rows.sort_by_key(|row| row["id"].as_i64());
    }
    assert_eq!(lines, listed);
    let (_, csv, lines) = exported(&server, "project=nothing").await;
    assert!(csv.is_empty() && lines.is_empty());
}

async fn no_cell_is_a_formula_and_every_cell_is_whole(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    let name = "=cmd|' /C \"calc\",1'!A0";
    let new = json!({ "name": name, "permissions": ["admin"], "scopes": [{ "project": "shop" }] });
    let made = server.post("/tokens", &server.admin, new).await.expect(201).json();
    let token = made["token"].as_str().unwrap();
    let change = Some(json!({ "description": "x" }));
    server.call(Method::PATCH, "/projects/shop", token, change).await.expect(200);
    let hosts = ["@SUM(A1)", "-2+3", "+1", "two\nlines, and \"quotes\"", "\t=1", "plain", "a=b"];
    for host in hosts {
        let agent = json!({ "id": "+agent", "host": host });
        let report = json!({ "agent": agent, "target": "/srv", "bytes_received": 1, "duration_ms": 1 });
        server.post("/projects/shop/apps/web/versions/v1/pulls", token, report).await.expect(204);
    }
    let (header, csv, lines) = exported(&server, "project=shop").await;
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (actor, host, agent) = (column("actor"), column("host"), column("agent_id"));
    for cell in csv.iter().flatten() {
        assert!(!cell.starts_with(['=', '+', '-', '@']), "{cell:?}");
    }
    let mut found = 0;
    for (record, line) in csv.iter().zip(&lines) {
        // Programs that read JSON run nothing: it says what is.
        let Some(said) = line["host"].as_str() else { continue };
        assert!(hosts.contains(&said), "{said:?}");
        let (plain, marked) = (record[host] == said, record[host] == format!("'{said}"));
        let good = match said.chars().next() {
            Some('=' | '+' | '-' | '@') => marked,
            Some('\t') => plain || marked,
            _ => plain,
        };
        assert!(good, "{said:?} became {:?}", record[host]);
        assert_eq!(record[actor], format!("'{name}"));
        assert_eq!((record[agent].as_str(), &line["agent_id"]), ("'+agent", &json!("+agent")));
        found += 1;
    }
    assert_eq!(found, hosts.len());
}

on_both_databases! {
    every_row_is_exported_in_both_formats,
    no_cell_is_a_formula_and_every_cell_is_whole,
}
