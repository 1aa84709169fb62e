//! What happens too often for a row each: refusals and reads of content are counted.

use kkartifact_testkit::{TestDatabase, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{counting, flush, place, rows};

/// What a counted row says: action, outcome, times, who, from where, and about what.
fn said(row: &Value) -> (String, String) {
    let word = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let what = format!("{} {} times {}", word("action"), word("outcome"), row["times"]);
    (what, format!("{} {} {} {}", word("actor_kind"), word("actor"), word("address"), place(row)))
}

fn expected(what: &str, who: &str) -> (String, String) {
    (what.to_owned(), who.to_owned())
}

async fn refusals_of_one_caller_on_one_object_are_one_row(db: TestDatabase) {
    let mut server = counting(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    let viewer = server.token(&["view"], "shop").await;
    for round in 0..50 {
        let app = json!({ "name": format!("app{round}") });
        server.post("/projects/shop/apps", &viewer, app).await.refused(403, "forbidden");
    }
    for _ in 0..3 {
        server.call(Method::DELETE, "/projects/shop/apps/web", &viewer, None).await.refused(403, "forbidden");
        // What is there and hidden is a refusal, what never was is none.
        server.get("/projects/other", &viewer).await.refused(404, "not_found");
        server.get("/projects/nothing", &viewer).await.refused(404, "not_found");
    }
    assert!(rows(&server, "outcome=refused").await.is_empty(), "they are still being counted");
    flush(&server).await;
    flush(&server).await;
    let mut found: Vec<_> = rows(&server, "outcome=refused").await.iter().map(said).collect();
    found.sort();
    let who = "token test 127.0.0.1";
    let all = [
        expected("app.create refused times 50", &format!("{who} shop")),
        expected("app.delete refused times 3", &format!("{who} shop/web")),
        expected("project.get refused times 3", &format!("{who} other")),
    ];
    assert_eq!(found, all);
    let row = &rows(&server, "action=app.create&outcome=refused").await[0];
    assert_eq!((&row["detail"]["code"], &row["request_id"]), (&json!("forbidden"), &Value::Null), "{row}");

    // What comes later is a row of its own, and what is not yet written survives a stop.
    for _ in 0..2 {
        let app = json!({ "name": "app" });
        server.post("/projects/shop/apps", &viewer, app).await.refused(403, "forbidden");
    }
    server.restart_with(|_| {}).await;
    let times: Vec<_> = rows(&server, "action=app.create&outcome=refused").await;
    let times: Vec<_> = times.iter().map(|row| row["times"].as_i64().unwrap()).collect();
    assert_eq!(times, [2, 50]);
}

async fn strangers_are_counted_by_address(db: TestDatabase) {
    let server = counting(db).await;
    server.make_app("shop", "web").await;
    for _ in 0..20 {
        server.get("/projects", "").await.refused(401, "unauthenticated");
        server.get("/projects", "kka_nonsense").await.refused(401, "unauthenticated");
    }
    for _ in 0..10 {
        let request = server.request(Method::GET, "/projects", "").header("x-forwarded-for", "192.0.2.7");
        server.send(request).await.refused(401, "unauthenticated");
        // What the path names is nobody's business yet.
        let request = server.request(Method::GET, "/projects/shop", "");
        server.send(request.header("x-forwarded-for", "2001:db8::7")).await.refused(401, "unauthenticated");
    }
    flush(&server).await;
    let mut found: Vec<_> =
        rows(&server, "").await.iter().map(said).filter(|row| row.1.contains("anon")).collect();
    found.sort();
    let all = [
        expected("project.get refused times 10", "anonymous anonymous 2001:db8::7 "),
        expected("project.list refused times 10", "anonymous anonymous 192.0.2.7 "),
        expected("project.list refused times 40", "anonymous anonymous 127.0.0.1 "),
    ];
    assert_eq!(found, all);
}

async fn reads_of_content_are_counted_with_their_version(db: TestDatabase) {
    let server = counting(db).await;
    for version in ["v1", "v2"] {
        server.push_files("shop/web", version, &server.admin, &[("a", b"x")]).await.expect(201);
    }
    let puller = server.token(&["pull"], "shop/web").await;
    for _ in 0..30 {
        server.get("/file/shop/web/v1?path=a", &puller).await.expect(200);
    }
    for _ in 0..4 {
        server.get("/file/shop/web/v2?path=a", &puller).await.expect(200);
        server.get("/manifest/shop/web/v1", &puller).await.expect(200);
        // Neither a look at what is there nor a file that is not there is a read.
        server.get("/projects/shop/apps/web/versions/v1", &puller).await.expect(200);
        server.get("/file/shop/web/v1?path=b", &puller).await.expect(404);
    }
    // A pull that is reported has its own row: it is not counted as well.
    let agent = json!({ "id": "agent-1", "host": "host-1" });
    let report = json!({ "agent": agent, "target": "/srv/web", "bytes_received": 1, "duration_ms": 1 });
    server.post("/projects/shop/apps/web/versions/v1/pulls", &puller, report).await.expect(204);
    flush(&server).await;
    let mut found: Vec<_> = rows(&server, "actor=test").await.iter().map(said).collect();
    found.sort();
    let who = "token test 127.0.0.1 shop/web";
    let all = [
        expected("file.get done times 30", &format!("{who}/v1")),
        expected("file.get done times 4", &format!("{who}/v2")),
        expected("manifest.get done times 4", &format!("{who}/v1")),
        expected("version.pull done times 1", &format!("{who}/v1")),
    ];
    assert_eq!(found, all);
}

on_both_databases! {
    refusals_of_one_caller_on_one_object_are_one_row,
    strangers_are_counted_by_address,
    reads_of_content_are_counted_with_their_version,
}
