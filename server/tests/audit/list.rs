//! Reading the log: filters, pages, and who sees what.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_store::{Actor, NewAudit, Outcome};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use serde_json::{Value, json};

use crate::{probes, rows};

fn beginning() -> DateTime<Utc> {
    "2025-06-01T00:00:00Z".parse().unwrap()
}

/// Four rows of last year that differ in everything, an hour between two.
async fn four_rows(server: &TestServer) {
    let resources = server.resources();
    let mut tx = resources.db.begin().await.unwrap();
    let new = |action, project, app, version| NewAudit {
        action,
        project: Some(project),
        app: Some(app),
        version: Some(version),
        ..NewAudit::default()
    };
    let all = [
        ("ada", Outcome::Done, new("probe.one", "p1", "a1", "v1")),
        ("bob", Outcome::Refused, new("probe.two", "p1", "a2", "v2")),
        ("ada", Outcome::Done, new("probes", "p2", "a1", "v1")),
        ("carol", Outcome::Done, new("probe_one", "p2", "a2", "v3")),
    ];
    for (number, (name, outcome, row)) in (0..).zip(all) {
        let actor = Actor {
            id: None,
            kind: "user".into(),
            name: name.into(),
            address: Some(format!("192.0.2.{number}")),
            request_id: Some(format!("request-{number}")),
            trace_parent: None,
            key: resources.auth.audit_key().clone(),
        };
        let row = NewAudit { detail: json!({ "number": number }), ..row };
        tx.audit(&actor, outcome, &row, beginning() + TimeDelta::hours(number)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn numbers(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["detail"]["number"].as_i64().unwrap()).collect()
}

async fn each_filter_lets_through_what_it_names(db: TestDatabase) {
    let server = TestServer::start(db).await;
    four_rows(&server).await;
    let cases: [(&str, &[i64]); 22] = [
        ("", &[3, 2, 1, 0]),
        ("project=p1", &[1, 0]),
        ("project=p", &[]),
        ("app=a1", &[2, 0]),
        ("project=p1&app=a1", &[0]),
        ("version=v2", &[1]),
        ("actor=ada", &[2, 0]),
        ("actor=ADA", &[]),
        ("action=probe.one", &[0]),
        ("action=probe.*", &[1, 0]),
        ("action=probe*", &[3, 2, 1, 0]),
        ("action=*", &[3, 2, 1, 0]),
        ("action=probe", &[]),
        // What means something to the database means itself.
        ("action=probe_one", &[3]),
        ("action=probe_*", &[3]),
        ("action=probe%25", &[]),
        ("action=PROBE.*", &[]),
        ("outcome=refused", &[1]),
        ("address=192.0.2.2", &[2]),
        ("request_id=request-3", &[3]),
        ("from=2025-06-01T01:00:00Z", &[3, 2, 1]),
        ("from=2025-06-01T01:00:00.000001Z&project=p1", &[]),
    ];
    for (query, expected) in cases {
        let found = rows(&server, &format!("to=2025-12-31T00:00:00Z&{query}")).await;
        assert_eq!(numbers(&found), expected, "{query}");
    }
    let cases: [(&str, &[i64]); 3] = [
        ("to=2025-06-01T01:00:00Z", &[0]),
        ("to=2025-06-01T00:00:00Z", &[]),
        ("from=2025-06-01T01:00:00Z&to=2025-06-01T03:00:00Z&action=probe*", &[2, 1]),
    ];
    for (query, expected) in cases {
        assert_eq!(numbers(&rows(&server, query).await), expected, "{query}");
    }
    // A request is found by the id that its caller gave it.
    let request = server.request(reqwest::Method::POST, "/projects", &server.admin);
    let request = request.header("x-request-id", "ci-run-1234").json(&json!({ "name": "shop" }));
    server.send(request).await.expect(201);
    let found = rows(&server, "request_id=ci-run-1234").await;
    assert_eq!((found.len(), &found[0]["project"]), (1, &json!("shop")));
}

async fn pages_neither_skip_nor_repeat_while_rows_come(db: TestDatabase) {
    const ROWS: u32 = 1100;
    let server = TestServer::start(db).await;
    probes(server.resources(), 0..ROWS, beginning()).await;
    let (mut seen, mut sizes, mut cursor, mut next) = (Vec::new(), Vec::new(), String::new(), ROWS);
    loop {
        let path = format!("/audit?action=probe&limit=500{cursor}");
        let page = server.get(&path, &server.admin).await.expect(200).json();
        assert_eq!(page["limit"], 500);
        let items = page["items"].as_array().unwrap();
        seen.extend(numbers(items));
        sizes.push(items.len());
        // They come in front of what has been seen.
        probes(server.resources(), next..next + 70, beginning()).await;
        next += 70;
        assert_eq!(page["has_more"], page["next_cursor"].is_string());
        let Some(place) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={place}");
    }
    assert_eq!(sizes, [500, 500, 100]);
    let all: Vec<_> = (0..i64::from(ROWS)).rev().collect();
    assert!(seen == all, "{} rows", seen.len());
}

async fn what_is_asked_wrong_is_refused(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    for list in ["/audit?", "/projects/shop/audit?"] {
        for query in [
            "limit=0",
            "limit=501",
            "limit=-1",
            "limit=x",
            "cursor=x",
            "from=yesterday",
            "to=2025-13-01T00:00:00Z",
            "surprise=1",
            "offset=5",
        ] {
            server.get(&format!("{list}{query}"), &server.admin).await.refused(400, "invalid_request");
        }
        for limit in [1, 500] {
            let page = server.get(&format!("{list}limit={limit}"), &server.admin).await.expect(200).json();
            assert_eq!(page["limit"], limit);
        }
    }
    for query in ["format=xml", "format=csv&surprise=1", "format=csv&from=yesterday"] {
        let path = format!("/audit/export?{query}");
        server.get(&path, &server.admin).await.refused(400, "invalid_request");
    }
}

async fn a_projects_admin_sees_the_project_and_nothing_else(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    let admin = server.token(&["admin"], "shop").await;
    let all = server.get("/projects/shop/audit", &admin).await.expect(200).json();
    let all = all["items"].as_array().unwrap();
    let mut actions: Vec<_> = all.iter().map(|row| row["action"].as_str().unwrap()).collect();
    actions.sort_unstable();
    assert!(actions.contains(&"project.create") && actions.contains(&"app.create"), "{actions:?}");
    assert!(all.iter().all(|row| row["project"] == "shop"), "{all:?}");

    let some = server.get("/projects/shop/audit?action=app.*", &admin).await.expect(200).json();
    assert_eq!(some["items"].as_array().unwrap().len(), 1, "{some}");
    // No filter leads out, whether it is refused or not.
    let other = server.get("/projects/shop/audit?project=other", &admin).await;
    assert!(other.status == 400 || !other.text().contains("\"other\""), "{}", other.text());

    for path in ["/audit", "/audit/export?format=csv", "/audit/export?format=jsonl"] {
        server.get(path, &admin).await.refused(403, "forbidden");
        server.get(path, "").await.refused(401, "unauthenticated");
    }
    server.get("/projects/other/audit", &admin).await.refused(404, "not_found");
    for (permissions, scope) in
        [(&["push", "pull", "promote"][..], "shop"), (&["admin"][..], "shop/web"), (&["view"][..], "")]
    {
        let token = server.token(permissions, scope).await;
        server.get("/projects/shop/audit", &token).await.refused(403, "forbidden");
        server.get("/audit", &token).await.refused(403, "forbidden");
    }
}

on_both_databases! {
    each_filter_lets_through_what_it_names,
    pages_neither_skip_nor_repeat_while_rows_come,
    what_is_asked_wrong_is_refused,
    a_projects_admin_sees_the_project_and_nothing_else,
}
