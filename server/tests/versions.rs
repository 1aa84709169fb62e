//! Versions and channels: lists, diff, promote, rollback, delete, restore, prune, reports of hosts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::TimeDelta;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

const APP: &str = "/projects/shop/apps/web";

/// Versions v1, v2, … with one file each that differs, a second apart.
async fn with_versions(server: &TestServer, count: usize) {
    for i in 1..=count {
        push(server, i).await;
        server.clock.advance(TimeDelta::seconds(1));
    }
}

async fn push(server: &TestServer, number: usize) {
    let content = format!("content of v{number}");
    let files: [(&str, &[u8]); 2] = [("changes", content.as_bytes()), ("stays", b"the same")];
    server.push_files("shop/web", &format!("v{number}"), &server.admin, &files).await.expect(201);
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["version"].as_str().unwrap()).collect()
}

async fn promote(server: &TestServer, version: &str) -> Value {
    let body = json!({ "project": "shop", "app": "web", "version": version });
    server.post("/promote", &server.admin, body).await.expect(200).json()
}

async fn lists_end_where_the_data_ends(db: TestDatabase) {
    let server = TestServer::start(db).await;
    with_versions(&server, 7).await;
    let mut seen = Vec::new();
    let mut path = format!("{APP}/versions?limit=3");
    loop {
        let page = server.get(&path, &server.admin).await.expect(200).json();
        assert_eq!((page["total"].as_u64(), page["limit"].as_u64()), (Some(7), Some(3)));
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        path = format!("{APP}/versions?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, ["v7", "v6", "v5", "v4", "v3", "v2", "v1"]);
    let page =
        server.get(&format!("{APP}/versions?limit=2&offset=5"), &server.admin).await.expect(200).json();
    assert_eq!(names(&page), ["v2", "v1"]);
    for i in 0..60 {
        let body = json!({ "name": format!("p{i}") });
        server.post("/projects", &server.admin, body).await.expect(201);
    }
    let page = server.get("/projects", &server.admin).await.expect(200).json();
    assert_eq!(
        (page["items"].as_array().unwrap().len(), page["total"].as_u64()),
        (50, Some(61)),
        "50 unless asked"
    );
}

async fn a_diff_says_what_changed(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let v1: [(&str, &[u8]); 4] = [("a", b"1"), ("gone", b"x"), ("same", b"s"), ("d/deep", b"1")];
    let v2: [(&str, &[u8]); 4] = [("a", b"22"), ("same", b"s"), ("d/deep", b"1"), ("new", b"n")];
    server.push_files("shop/web", "v1", &server.admin, &v1).await.expect(201);
    server.push_files("shop/web", "v2", &server.admin, &v2).await.expect(201);
    let diff = server.get(&format!("{APP}/diff?from=v1&to=v2"), &server.admin).await.expect(200).json();
    assert_eq!(
        diff["items"],
        json!([
            { "path": "a", "change": "changed", "old_size": 1, "new_size": 2 },
            { "path": "gone", "change": "removed", "old_size": 1 },
            { "path": "new", "change": "added", "new_size": 1 },
        ])
    );
    assert_eq!(
        (diff["added"].as_u64(), diff["removed"].as_u64(), diff["changed"].as_u64()),
        (Some(1), Some(1), Some(1))
    );
    let cut =
        server.get(&format!("{APP}/diff?from=v1&to=@latest&limit=1"), &server.admin).await.expect(200).json();
    assert_eq!((cut["items"].as_array().unwrap().len(), &cut["truncated"]), (1, &json!(true)));
    let none = server.get(&format!("{APP}/diff?from=v1&to=v1"), &server.admin).await.expect(200).json();
    assert_eq!(none["items"], json!([]));
}

async fn promote_moves_a_channel_and_rollback_moves_it_back(db: TestDatabase) {
    let server = TestServer::start(db).await;
    with_versions(&server, 3).await;
    for i in 1..=3 {
        assert_eq!(promote(&server, &format!("v{i}")).await["version"], format!("v{i}"));
    }
    assert_eq!(promote(&server, "v3").await["revision"], 3, "pointing to where it points changes nothing");
    let back = json!({ "project": "shop", "app": "web" });
    for expected in ["v2", "v1"] {
        assert_eq!(
            server.post("/rollback", &server.admin, back.clone()).await.expect(200).json()["version"],
            expected
        );
    }
    server.post("/rollback", &server.admin, back).await.refused(409, "nothing_to_roll_back");
    let to = json!({ "project": "shop", "app": "web", "to": "v3" });
    assert_eq!(server.post("/rollback", &server.admin, to).await.expect(200).json()["previous"], "v1");
    let history =
        server.get(&format!("{APP}/channels/stable/history?limit=3"), &server.admin).await.expect(200).json();
    let moves: Vec<_> =
        history.as_array().unwrap().iter().map(|m| (m["version"].clone(), m["action"].clone())).collect();
    assert_eq!(json!(moves), json!([["v3", "rollback"], ["v1", "rollback"], ["v2", "rollback"]]));
    let older = server
        .get(&format!("{APP}/channels/stable/history?before=4"), &server.admin)
        .await
        .expect(200)
        .json();
    assert_eq!(older.as_array().unwrap().len(), 3);
    let channels = server.get(&format!("{APP}/channels"), &server.admin).await.expect(200).json();
    assert_eq!(
        (channels[0]["channel"].as_str(), channels[0]["version"].as_str()),
        (Some("stable"), Some("v3"))
    );
    let listed = server.get(&format!("{APP}/versions/v3"), &server.admin).await.expect(200).json();
    assert_eq!(listed["channels"], json!(["stable"]));

    let other = json!({ "project": "shop", "app": "web", "version": "v9" });
    server.post("/promote", &server.admin, other).await.refused(404, "not_found");
    let bad = json!({ "project": "shop", "app": "web", "version": "v1", "channel": "a/b" });
    server.post("/promote", &server.admin, bad).await.refused(400, "invalid_request");
    let beta = json!({ "project": "shop", "app": "web", "channel": "beta" });
    server.post("/rollback", &server.admin, beta).await.refused(404, "not_found");
}

async fn a_deleted_version_keeps_its_name_and_comes_back_with_its_content(db: TestDatabase) {
    let server = TestServer::start(db).await;
    with_versions(&server, 2).await;
    promote(&server, "v2").await;
    let delete = |name: &str| format!("{APP}/versions/{name}");
    server.call(Method::DELETE, &delete("v2"), &server.admin, None).await.refused(409, "in_use");
    let deleted = server.call(Method::DELETE, &delete("v1"), &server.admin, None).await.expect(200).json();
    assert_eq!(deleted["state"], "deleted");
    server.call(Method::DELETE, &delete("v1"), &server.admin, None).await.expect(200);
    server.get("/file/shop/web/v1?path=stays", &server.admin).await.refused(410, "version_deleted");
    let list = server.get(&format!("{APP}/versions"), &server.admin).await.expect(200).json();
    assert_eq!(names(&list), ["v2"]);
    let list = server.get(&format!("{APP}/versions?deleted=true"), &server.admin).await.expect(200).json();
    assert_eq!(names(&list), ["v1"]);

    // The name is never given to other content…
    let other: [(&str, &[u8]); 1] = [("changes", b"other")];
    server.push_files("shop/web", "v1", &server.admin, &other).await.refused(409, "version_exists");
    // … and the same content brings it back.
    let same: [(&str, &[u8]); 2] = [("changes", b"content of v1"), ("stays", b"the same")];
    let back = server.push_files("shop/web", "v1", &server.admin, &same).await.expect(200).json();
    assert_eq!(back["state"], "published");
    server.get("/file/shop/web/v1?path=stays", &server.admin).await.expect(200);

    server.call(Method::DELETE, &delete("v1"), &server.admin, None).await.expect(200);
    // Already `init` brings it back, if it knows the content.
    let init =
        json!({ "project": "shop", "app": "web", "version": "v1", "tree_digest": back["tree_digest"] });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(200).json();
    assert_eq!(
        (opened["state"].as_str(), opened["version"]["state"].as_str()),
        (Some("published"), Some("published"))
    );
    server.call(Method::DELETE, &delete("v1"), &server.admin, None).await.expect(200);
    let restored =
        server.call(Method::POST, &format!("{APP}/versions/v1/restore"), &server.admin, None).await;
    assert_eq!(restored.expect(200).json()["state"], "published");
    server.settle().await;
    let markers = std::fs::read_dir(server.content_dir().join("versions/shop/web")).unwrap().count();
    assert!(markers >= 2, "each state has left its marker, {markers}");
}

async fn prune_keeps_the_newest_and_what_something_relies_on(db: TestDatabase) {
    let server = TestServer::start(db).await;
    with_versions(&server, 6).await;
    promote(&server, "v1").await;
    promote(&server, "v2").await;
    report(&server, "v3", "host-1").await;
    let prune = |keep: u32, dry_run: bool| json!({ "keep": keep, "dry_run": dry_run });
    let path = format!("{APP}/prune");
    let dry = server.post(&path, &server.admin, prune(1, true)).await.expect(200).json();
    let run = server.post(&path, &server.admin, prune(1, false)).await.expect(200).json();
    assert_eq!(dry["deleted"], json!(["v4", "v5"]));
    assert_eq!(dry["protected"], json!(["v1", "v2", "v3"]));
    assert_eq!(
        (&dry["deleted"], &dry["protected"]),
        (&run["deleted"], &run["protected"]),
        "a dry run says what a run does"
    );
    let list = server.get(&format!("{APP}/versions"), &server.admin).await.expect(200).json();
    assert_eq!(names(&list), ["v6", "v3", "v2", "v1"]);
    server.post(&path, &server.admin, prune(0, false)).await.refused(400, "invalid_request");
    let pusher = server.token(&["push"], "shop/web").await;
    server.post(&path, &pusher, prune(1, true)).await.expect(200);
    server.post(&path, &pusher, prune(1, false)).await.refused(403, "forbidden");
}

async fn report(server: &TestServer, version: &str, host: &str) {
    let body = json!({
        "agent": { "id": format!("agent-of-{host}"), "host": host }, "target": "/opt/app", "previous": null,
        "bytes_received": 17, "duration_ms": 5,
    });
    server.post(&format!("{APP}/versions/{version}/pulls"), &server.admin, body).await.expect(204);
}

async fn a_pull_is_reported_with_agent_and_host(db: TestDatabase) {
    let server = TestServer::start(db).await;
    with_versions(&server, 2).await;
    report(&server, "v1", "host-1").await;
    report(&server, "v2", "host-1").await;
    let mut tx = server.resources().db.read().await.unwrap();
    let rows = tx.latest_audit(2).await.unwrap();
    assert_eq!((rows[0].action.as_str(), rows[0].version.as_deref()), ("version.pull", Some("v2")));
    assert_eq!(
        (rows[0].agent_id.as_deref(), rows[0].host.as_deref()),
        (Some("agent-of-host-1"), Some("host-1"))
    );
    drop(tx);
    let bad =
        json!({ "agent": { "id": "", "host": "h" }, "target": "/", "bytes_received": 0, "duration_ms": 0 });
    server
        .post(&format!("{APP}/versions/v1/pulls"), &server.admin, bad)
        .await
        .refused(400, "invalid_request");
}

async fn versions_are_found_by_commit_and_content(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for (version, commit) in [("v1", "aaa"), ("v2", "bbb")] {
        let init = json!({
            "project": "shop", "app": "web", "version": version,
            "build": { "git_commit": commit, "builder": "build-01", "build_time": "2025-12-26T17:30:00Z" },
        });
        let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
        let put = server.request(Method::PUT, &format!("/file/shop/web/{version}?path=a"), &server.admin);
        server.send(put.body(commit)).await.expect(200);
        server
            .post("/upload/finish", &server.admin, json!({ "upload_id": opened["upload_id"] }))
            .await
            .expect(201);
    }
    let found = server.get(&format!("{APP}/versions?git_commit=bbb"), &server.admin).await.expect(200).json();
    assert_eq!((names(&found), found["items"][0]["builder"].as_str()), (vec!["v2"], Some("build-01")));
    let tree = found["items"][0]["tree_digest"].as_str().unwrap();
    let by_tree =
        server.get(&format!("{APP}/versions?tree_digest={tree}"), &server.admin).await.expect(200).json();
    assert_eq!(names(&by_tree), ["v2"]);
    let yaml = server.get("/manifest/shop/web/v2", &server.admin).await.expect(200).text();
    assert!(yaml.contains("builder: build-01\n") && yaml.contains("git_commit: \"bbb\"\n"), "{yaml}");
}

/// Reads an event stream until it has told so many events: their ids and kinds.
async fn events(server: &TestServer, after: &str, count: usize) -> Vec<(String, String)> {
    let request = server.request(Method::GET, &format!("{APP}/events"), &server.admin);
    let mut response = request.header("last-event-id", after).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let value = |event: &str, key: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().to_owned()
    };
    text.split("\n\n").take(count).map(|event| (value(event, "id:"), value(event, "event:"))).collect()
}

async fn an_event_stream_goes_on_where_it_was_left(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    with_versions(&server, 1).await;
    promote(&server, "v1").await;
    let pair = |id: &str, kind: &str| (id.to_owned(), kind.to_owned());
    assert_eq!(events(&server, "0", 2).await, [pair("1", "push"), pair("2", "promote")]);
    assert_eq!(events(&server, "1", 1).await, [pair("2", "promote")]);
    // What has not happened yet is waited for.
    let (waited, ()) = tokio::join!(events(&server, "2", 1), push(&server, 2));
    assert_eq!(waited, [pair("3", "push")]);
    let wrong = server.request(Method::GET, &format!("{APP}/events"), &server.admin);
    server.send(wrong.header("last-event-id", "x")).await.refused(400, "invalid_request");
}

on_both_databases! {
    an_event_stream_goes_on_where_it_was_left,
    lists_end_where_the_data_ends,
    a_diff_says_what_changed,
    promote_moves_a_channel_and_rollback_moves_it_back,
    a_deleted_version_keeps_its_name_and_comes_back_with_its_content,
    prune_keeps_the_newest_and_what_something_relies_on,
    a_pull_is_reported_with_agent_and_host,
    versions_are_found_by_commit_and_content,
}
