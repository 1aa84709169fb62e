//! Batch queries that become a job: the result is for who asked, and shows what they may see when they fetch it.

use chrono::TimeDelta;
use kkartifact_model::api::batch::BatchQuery;
use kkartifact_model::job::Job;
use kkartifact_store::{NewBatchLine, NewJob, PrincipalId, batch_lane};
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{call, done, job_is, make_apps, push, queue, queue_for_later, shop, text, until};

/// More apps than are answered at once: first those that are named, then many that aren't there.
fn many(named: &[(&str, &str)]) -> Value {
    let named = named.iter().map(|(project, app)| json!({ "project": project, "app": app }));
    let others = (0..501).map(|i| json!({ "project": "nix", "app": format!("a{i}") }));
    json!({ "apps": named.chain(others).collect::<Vec<_>>() })
}

/// Asks; the job that answers.
async fn ask(server: &TestServer, by: &str, query: Value) -> i64 {
    let answer = server.post("/batch/versions", by, query).await.expect(202).json();
    let job = answer["job_id"].as_i64().unwrap();
    assert_eq!(answer["result"], format!("/api/v1/batch/{job}"));
    job
}

/// Fetches the result as soon as it is there.
async fn fetch(server: &TestServer, by: &str, job: i64) -> Answer {
    until("the result", async || {
        let answer = server.get(&format!("/batch/{job}"), by).await;
        if answer.status != 409 {
            return Some(answer);
        }
        assert!(answer.header("retry-after").parse::<u32>().is_ok());
        answer.refused(409, "not_ready");
        None
    })
    .await
}

/// The lines of a result.
fn lines(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn a_large_question_is_answered_by_a_job_line_by_line(db: TestDatabase) {
    let server = shop(db).await;
    push(&server, "shop/web", "v1").await;
    push(&server, "other/app", "v1").await;
    let named = [("other", "app"), ("shop", "web"), ("..", "a b"), ("shop", "web")];
    let asked = many(&named);
    let job = ask(&server, &server.admin, asked.clone()).await;
    let answer = fetch(&server, &server.admin, job).await.expect(200);
    assert!(answer.header("content-type").starts_with("application/x-ndjson"));
    let found = lines(&answer);
    let place = |entry: &Value| json!({ "project": entry["project"], "app": entry["app"] });
    assert_eq!(json!(found.iter().map(place).collect::<Vec<_>>()), asked["apps"], "in the order asked");
    for (number, entry) in found.iter().enumerate() {
        let known = number < 4 && number != 2;
        assert_eq!(entry["versions"].as_array().unwrap().len(), usize::from(known), "{entry}");
        let error = if known { json!(null) } else { json!("not_found") };
        assert_eq!(entry["error"], error, "{entry}");
    }
    let one = server.get("/projects/shop/apps/web/versions/v1", &server.admin).await.expect(200).json();
    assert_eq!(found[1]["versions"][0], one);
    // It can be fetched again, and the job shows nothing of what it found.
    assert_eq!(fetch(&server, &server.admin, job).await.body, answer.body);
    job_is(&server, job, "succeeded").await;
}

async fn the_largest_question_is_answered(db: TestDatabase) {
    let server = shop(db).await;
    let apps: Vec<_> = (0..10_000).map(|i| json!({ "project": "nix", "app": format!("a{i}") })).collect();
    let huge = json!({ "apps": apps, "limit": 11 });
    server.post("/batch/versions", &server.admin, huge).await.refused(413, "too_large");
    let job = ask(&server, &server.admin, json!({ "apps": apps, "limit": 10 })).await;
    let found = lines(&fetch(&server, &server.admin, job).await.expect(200));
    assert_eq!(found.len(), 10_000);
    assert_eq!((&found[0]["app"], &found[9999]["app"]), (&json!("a0"), &json!("a9999")));
    let bad = json!({ "apps": apps, "limit": 101 });
    server.post("/batch/versions", &server.admin, bad).await.refused(400, "invalid_request");
}

async fn a_result_is_for_who_asked(db: TestDatabase) {
    let server = shop(db).await;
    push(&server, "shop/web", "v1").await;
    let maker = server.token(&["view"], "shop/web").await;
    let colleague = server.token(&["view"], "shop/web").await;
    let job = ask(&server, &maker, many(&[("shop", "web"), ("other", "app")])).await;
    let found = lines(&fetch(&server, &maker, job).await.expect(200));
    assert_eq!((&found[0]["error"], &found[1]["error"]), (&json!(null), &json!("not_found")));
    for other in [&colleague, &server.admin] {
        let real = server.get(&format!("/batch/{job}"), other).await.expect(404).json();
        let fake = server.get("/batch/999999999", other).await.expect(404).json();
        let message = |body: &Value, id: &str| text(&body["error"]["message"]).replace(id, "…");
        assert_eq!(message(&real, &job.to_string()), message(&fake, "999999999"));
    }
    // A job of another kind has no such result, also not for its maker.
    let principal = principal_of(&server, &maker).await;
    let later = server.clock.now() + TimeDelta::days(1);
    let other = queue(&server, &Job::SweepUploads {}, Some("shop/web"), Some(principal), later).await;
    server.get(&format!("/batch/{other}"), &maker).await.refused(404, "not_found");
    for bad in ["x", "-1", "%00"] {
        let answer = server.get(&format!("/batch/{bad}"), &maker).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.text());
    }
}

/// Who a token is.
async fn principal_of(server: &TestServer, token: &str) -> PrincipalId {
    let id = token.split('_').nth(1).unwrap().parse().unwrap();
    let mut tx = server.resources().db.read().await.unwrap();
    tx.find_token(&id).await.unwrap().unwrap().principal_id
}

async fn a_result_that_is_not_there_yet_is_worth_another_try(db: TestDatabase) {
    let server = shop(db).await;
    let principal = principal_of(&server, &server.admin).await;
    let query: BatchQuery = serde_json::from_value(many(&[])).unwrap();
    let later = server.clock.now() + TimeDelta::days(1);
    let job = queue(&server, &Job::QueryVersions(query.filter()), None, Some(principal), later).await;
    let answer = server.get(&format!("/batch/{job}"), &server.admin).await;
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    answer.refused(409, "not_ready");
    let stranger = server.token(&["view"], "").await;
    server.get(&format!("/batch/{job}"), &stranger).await.refused(404, "not_found");
}

/// Queues a query of somebody whose time is far away, with a line of its answer.
async fn ask_for_later(server: &TestServer, by: PrincipalId) -> i64 {
    let query: BatchQuery = serde_json::from_value(many(&[])).unwrap();
    let (job, now) = (Job::QueryVersions(query.filter()), server.clock.now());
    let later = NewJob::new(&job, now + TimeDelta::days(3650));
    let new = NewJob { principal: Some(by), lane: &batch_lane(by), ..later };
    let mut tx = server.resources().db.begin().await.unwrap();
    let id = tx.insert_job(&new, now).await.unwrap().unwrap();
    let line = NewBatchLine { ordinal: 0, app: None, line: "{}".into() };
    tx.put_batch_lines(id, &[line]).await.unwrap();
    tx.commit().await.unwrap();
    id.0
}

async fn only_so_many_queries_of_one_are_under_way(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.jobs.batch_queries = 2).await;
    make_apps(&server).await;
    let asker = server.token(&["view"], "shop").await;
    let stranger = server.token(&["view"], "shop").await;
    let principal = principal_of(&server, &asker).await;
    let first = ask_for_later(&server, principal).await;
    ask_for_later(&server, principal).await;
    let answer = server.post("/batch/versions", &asker, many(&[])).await;
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    answer.refused(429, "too_many_requests");
    // Others go on asking, and so does who asks for less.
    ask(&server, &stranger, many(&[])).await;
    let few = json!({ "apps": [{ "project": "shop", "app": "web" }] });
    server.post("/batch/versions", &asker, few).await.expect(200);
    done(call(&server, Method::POST, &format!("/jobs/{first}/cancel")).await);
    let job = ask(&server, &asker, many(&[])).await;
    fetch(&server, &asker, job).await.expect(200);
}

async fn the_oldest_answers_of_one_make_room(db: TestDatabase) {
    let server = shop(db).await;
    let asker = server.token(&["view"], "shop").await;
    let principal = principal_of(&server, &asker).await;
    let mut jobs = Vec::new();
    for _ in 0..101 {
        jobs.push(ask_for_later(&server, principal).await);
    }
    let over = "UPDATE job SET state = 'succeeded', finished_at = '2026-01-02T03:04:05+00:00'
        WHERE kind = 'query_versions'";
    server.execute(over).await;
    // What has changed last stays in any case.
    queue_for_later(&server, None).await;
    let result = async |job: i64| server.get(&format!("/batch/{job}"), &asker).await;
    assert_eq!(result(jobs[0]).await.expect(200).text(), "{}\n");
    let job = ask(&server, &asker, many(&[])).await;
    result(jobs[0]).await.refused(404, "not_found");
    result(jobs[1]).await.expect(200);
    fetch(&server, &asker, job).await.expect(200);
}

async fn what_one_may_no_longer_see_is_gone_from_the_result(db: TestDatabase) {
    let server = shop(db).await;
    push(&server, "shop/web", "v1").await;
    push(&server, "other/app", "v1").await;
    let made = server.post("/service-accounts", &server.admin, json!({ "name": "robot" })).await;
    let made = made.expect(201).json();
    let mut bindings = Vec::new();
    for project in ["shop", "other"] {
        let subject = json!({ "service_account": made["client_id"] });
        let body = json!({ "subject": subject, "permissions": ["view"], "scope": { "project": project } });
        bindings
            .push(server.post("/role-bindings", &server.admin, body).await.expect(201).json()["id"].clone());
    }
    let request = server.request(Method::POST, "/oauth/token", "");
    let request = request.basic_auth(text(&made["client_id"]), Some(text(&made["client_secret"])));
    let answer = server.send(request.form(&[("grant_type", "client_credentials")])).await.expect(200).json();
    let robot = text(&answer["access_token"]);

    let job = ask(&server, &robot, many(&[("shop", "web"), ("other", "app")])).await;
    let before = lines(&fetch(&server, &robot, job).await.expect(200));
    for entry in &before[..2] {
        assert_eq!(
            (entry["versions"].as_array().unwrap().len(), &entry["error"]),
            (1, &json!(null)),
            "{entry}"
        );
    }
    let path = format!("/role-bindings/{}", bindings[1]);
    done(server.call(Method::DELETE, &path, &server.admin, None).await);
    let after = lines(&fetch(&server, &robot, job).await.expect(200));
    assert_eq!((after.len(), &after[0]), (before.len(), &before[0]));
    assert_eq!((&after[1]["versions"], &after[1]["error"]), (&json!([]), &json!("not_found")));
    // Word for word what is said of an app that never was.
    let mut gone = after[1].clone();
    (gone["project"], gone["app"]) = (after[2]["project"].clone(), after[2]["app"].clone());
    assert_eq!(gone, after[2]);
}

on_both_databases! {
    a_large_question_is_answered_by_a_job_line_by_line,
    the_largest_question_is_answered,
    a_result_is_for_who_asked,
    a_result_that_is_not_there_yet_is_worth_another_try,
    only_so_many_queries_of_one_are_under_way,
    the_oldest_answers_of_one_make_room,
    what_one_may_no_longer_see_is_gone_from_the_result,
}
