//! Lists of jobs, one job, and how many there are: each shows what its caller may see.

use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{get, ids, items, push, queue_for_later, shop, succeeded, text, time};

async fn jobs_are_listed_by_kind_state_and_place(db: TestDatabase) {
    let server = shop(db).await;
    for version in ["v1", "v2"] {
        push(&server, "shop/web", version).await;
    }
    push(&server, "shop/api", "v1").await;
    push(&server, "other/app", "v1").await;
    let markers = succeeded(&server, "kind=version_marker", 4).await;
    assert_eq!(markers.len(), 4, "{markers:?}");
    let newest_first = ids(&markers);
    assert!(newest_first.is_sorted_by(|newer, older| newer > older), "{newest_first:?}");
    let job = &markers[3];
    assert_eq!((&job["project"], &job["app"]), (&json!("shop"), &json!("web")), "{job}");
    assert_eq!((&job["kind"], &job["state"]), (&json!("version_marker"), &json!("succeeded")), "{job}");
    assert!(job["payload"]["version_id"].is_i64() && job["attempt"] == 1 && job["failures"] == 0, "{job}");
    for name in ["created_at", "run_at", "started_at", "finished_at"] {
        assert_eq!(time(&job[name]), server.clock.now(), "{name} of {job}");
    }
    let waiting = queue_for_later(&server, Some("shop/web")).await;
    let cases: [(&str, &[i64]); 8] = [
        ("kind=version_marker&project=shop", &newest_first[1..]),
        ("kind=version_marker&project=shop&app=web", &newest_first[2..]),
        ("kind=version_marker&project=other", &newest_first[..1]),
        ("kind=version_marker&state=queued", &[]),
        ("state=dead", &[]),
        ("project=shop&state=queued", &[waiting]),
        ("kind=sweep_uploads&project=shop", &[waiting]),
        ("project=shop&state=cancelled", &[]),
    ];
    for (query, expected) in cases {
        let page = get(&server, &format!("/jobs?{query}")).await;
        assert_eq!(ids(items(&page)), expected, "{query}");
        assert_eq!((&page["has_more"], &page["next_cursor"]), (&json!(false), &json!(null)), "{query}");
    }
    for bad in ["state=lost", "limit=0", "limit=501", "limit=x", "cursor=%00", "cursor=*", "project=../x"] {
        let answer = server.get(&format!("/jobs?{bad}"), &server.admin).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
}

async fn a_list_that_changes_while_it_is_paged_repeats_and_skips_nothing(db: TestDatabase) {
    let server = shop(db).await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(queue_for_later(&server, Some("shop/web")).await);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut path = "/jobs?project=shop&limit=3".to_owned();
    loop {
        let page = get(&server, &path).await;
        assert_eq!(page["limit"], 3, "{page}");
        seen.extend(ids(items(&page)));
        queue_for_later(&server, Some("shop/web")).await;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert_eq!(page["has_more"], true);
        path = format!("/jobs?project=shop&limit=3&cursor={cursor}");
    }
    assert_eq!(seen, made);
}

async fn a_job_is_shown_with_the_newest_of_its_log(db: TestDatabase) {
    let server = shop(db).await;
    let job = queue_for_later(&server, Some("shop/web")).await;
    let shown = get(&server, &format!("/jobs/{job}")).await;
    assert_eq!((&shown["id"], &shown["log"]), (&json!(job), &json!([])), "{shown}");
    server
        .execute(&format!(
            "INSERT INTO job_log (job_id, attempt, at, line)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
             SELECT {job}, 2, '2026-01-02T03:04:05+00:00', 'line ' || i FROM n"
        ))
        .await;
    let log = get(&server, &format!("/jobs/{job}")).await["log"].clone();
    let log = log.as_array().unwrap();
    assert_eq!(log.len(), 500);
    assert_eq!(log[0], json!({ "attempt": 2, "at": server.clock.now(), "line": "line 101" }));
    assert_eq!(log[499]["line"], "line 600");
    for unknown in ["0", "999999999", "-1"] {
        let answer = server.get(&format!("/jobs/{unknown}"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{unknown}: {}", answer.text());
    }
    for bad in ["x", "1e3", "%00", "99999999999999999999"] {
        let answer = server.get(&format!("/jobs/{bad}"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.text());
    }
}

/// A person of this role, by a token for scripts.
async fn person(server: &TestServer, role: &str) -> String {
    let password = "correct horse battery";
    let new = json!({ "login": role, "role": role, "password": password });
    server.post("/users", &server.admin, new).await.expect(201);
    let body = json!({ "login": role, "password": password, "cookie": false });
    text(&server.post("/login", "", body).await.expect(200).json()["access_token"])
}

async fn one_sees_the_jobs_of_what_one_sees(db: TestDatabase) {
    let server = shop(db).await;
    let mut jobs = Vec::new();
    for app in [Some("shop/web"), Some("shop/api"), Some("other/app"), None] {
        jobs.push(queue_for_later(&server, app).await);
    }
    let of_web = server.token(&["view"], "shop/web").await;
    let of_shop = server.token(&["promote"], "shop").await;
    let of_other = server.token(&["admin"], "other").await;
    let of_all = server.token(&["view"], "").await;
    let (readonly, nobody) = (person(&server, "readonly").await, person(&server, "none").await);
    let cases: [(&str, &str, &[usize]); 7] = [
        ("view of web", &of_web, &[0]),
        ("promote in shop", &of_shop, &[0, 1]),
        ("admin of other", &of_other, &[2]),
        ("view of all", &of_all, &[0, 1, 2]),
        ("readonly", &readonly, &[0, 1, 2]),
        ("nobody", &nobody, &[]),
        ("admin", &server.admin, &[0, 1, 2, 3]),
    ];
    for (who, token, seen) in cases {
        let page = server.get("/jobs?kind=sweep_uploads&state=queued", token).await.expect(200).json();
        let mut listed = ids(items(&page));
        // Those of the schedule are nobody's but the admin's.
        listed.retain(|id| jobs.contains(id) || token != server.admin);
        listed.reverse();
        assert_eq!(listed, seen.iter().map(|&number| jobs[number]).collect::<Vec<_>>(), "{who}");
        for (number, job) in jobs.iter().enumerate() {
            let answer = server.get(&format!("/jobs/{job}"), token).await;
            if seen.contains(&number) {
                answer.expect(200);
                continue;
            }
            // Word for word what one gets for something that does not exist.
            let fake = server.get("/jobs/999999999", token).await.expect(404).json();
            let real = answer.expect(404).json();
            let message = |body: &Value, id: &str| text(&body["error"]["message"]).replace(id, "…");
            assert_eq!(message(&real, &job.to_string()), message(&fake, "999999999"), "{who}");
        }
    }
    // What is not seen can't be asked for either.
    for project in ["other", "nix"] {
        let answer = server.get(&format!("/jobs?project={project}"), &of_web).await;
        assert!(answer.status == 404 || answer.json()["items"] == json!([]), "{}", answer.text());
    }
}

async fn counts_count_what_one_sees(db: TestDatabase) {
    let server = shop(db).await;
    for version in ["v1", "v2", "v3"] {
        push(&server, "shop/web", version).await;
    }
    push(&server, "other/app", "v1").await;
    succeeded(&server, "kind=version_marker", 4).await;
    queue_for_later(&server, Some("shop/web")).await;
    queue_for_later(&server, Some("other/app")).await;
    let none = json!({
        "queued": 0, "running": 0, "succeeded": 0, "failed": 0, "dead": 0, "cancelled": 0, "capped": [],
    });
    let with = |queued: u64, succeeded: u64| {
        let mut counts = none.clone();
        (counts["queued"], counts["succeeded"]) = (json!(queued), json!(succeeded));
        counts
    };
    for (scope, expected) in [
        ("shop/web", with(1, 3)),
        ("shop", with(1, 3)),
        ("other", with(1, 1)),
        ("shop/api", none.clone()),
        ("", with(2, 4)),
    ] {
        let token = server.token(&["view"], scope).await;
        let counts = server.get("/jobs/counts", &token).await.expect(200).json();
        assert_eq!(counts, expected, "{scope:?}");
    }
    let all = get(&server, "/jobs/counts").await;
    assert!(all["queued"].as_u64() >= Some(2) && all["succeeded"].as_u64() >= Some(4), "{all}");
}

async fn counts_say_where_they_end(db: TestDatabase) {
    let server = shop(db).await;
    server
        .execute(
            "INSERT INTO job (kind, payload, state, priority, run_at, attempt, max_attempts, project_id, lane,
                created_at, updated_at, finished_at)
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)
            SELECT 'version_marker', '{}', 'dead', 0, '2026-01-02T03:04:05+00:00', 10, 10,
                (SELECT id FROM project WHERE name = 'shop'), '', '2026-01-02T03:04:05+00:00',
                '2026-01-02T03:04:05+00:00', '2026-01-02T03:04:05+00:00' FROM n",
        )
        .await;
    let (of_shop, of_all) = (server.token(&["view"], "shop").await, server.token(&["view"], "").await);
    for token in [&of_shop, &of_all, &server.admin] {
        let counts = server.get("/jobs/counts", token).await.expect(200).json();
        assert_eq!((&counts["dead"], &counts["capped"]), (&json!(10_000), &json!(["dead"])), "{counts}");
    }
    let of_other = server.token(&["admin"], "other").await;
    let counts = server.get("/jobs/counts", &of_other).await.expect(200).json();
    assert_eq!((&counts["dead"], &counts["capped"]), (&json!(0), &json!([])), "{counts}");
}

/// Calls within a trace, and looks to which trace the marker belongs that follows.
async fn leaves_a_marker(server: &TestServer, number: u8, method: Method, path: &str, body: Option<Value>) {
    let trace = format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}");
    let request = server.request(method, path, &server.admin);
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = match body {
        Some(body) => server.send(request.json(&body)).await,
        None => server.send(request).await,
    };
    assert!(answer.status.is_success(), "{path}: {}", answer.text());
    let newest = get(server, "/jobs?kind=version_marker&limit=1").await["items"][0].clone();
    assert!(text(&newest["trace_parent"]).starts_with(&format!("00-{trace}-")), "{path}: {newest}");
}

async fn a_marker_belongs_to_the_trace_of_its_change(db: TestDatabase) {
    let server = shop(db).await;
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let put = server.request(Method::PUT, "/file/shop/web/v1", &server.admin);
    server.send(put.query(&[("path", "a")]).body("content")).await.expect(200);
    let finish = json!({ "upload_id": opened["upload_id"] });
    leaves_a_marker(&server, 1, Method::POST, "/upload/finish", Some(finish)).await;
    let version = "/projects/shop/apps/web/versions/v1";
    for (number, what) in [(2, "quarantine"), (3, "release")] {
        leaves_a_marker(&server, number, Method::POST, &format!("{version}/{what}"), None).await;
    }
    leaves_a_marker(&server, 4, Method::DELETE, version, None).await;
    leaves_a_marker(&server, 5, Method::POST, &format!("{version}/restore"), None).await;
}

on_both_databases! {
    jobs_are_listed_by_kind_state_and_place,
    a_list_that_changes_while_it_is_paged_repeats_and_skips_nothing,
    a_job_is_shown_with_the_newest_of_its_log,
    one_sees_the_jobs_of_what_one_sees,
    counts_count_what_one_sees,
    counts_say_where_they_end,
    a_marker_belongs_to_the_trace_of_its_change,
}
