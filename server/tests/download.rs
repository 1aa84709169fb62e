//! Reading: one file with ranges and conditions, manifests in their forms, the gate before all of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kkartifact_model::FileDigest;
use kkartifact_model::api::version::VersionState;
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

const FILE: &str = "/file/shop/web/v1?path=bin/app";

async fn with_headers(server: &TestServer, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = server.request(method, path, &server.admin);
    server.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

async fn a_file_is_streamed_with_ranges(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let content = noise(1, 3_000_000);
    server
        .push_files("shop/web", "v1", &server.admin, &[("bin/app", &content), ("empty", b"")])
        .await
        .expect(201);
    let etag = format!("\"{}\"", FileDigest::of(&content));
    let whole = server.get(FILE, &server.admin).await.expect(200);
    assert_eq!((whole.header("etag"), whole.header("accept-ranges")), (etag.as_str(), "bytes"));
    assert_eq!(
        (whole.header("cache-control"), whole.header("content-length")),
        ("private, no-cache", "3000000")
    );
    assert!(whole.header("content-security-policy").contains("sandbox"));
    assert!(whole.body == content);

    for (range, expected, said) in [
        ("bytes=0-0", 0..1, "bytes 0-0/3000000"),
        ("bytes=99999-1500000", 99_999..1_500_001, "bytes 99999-1500000/3000000"),
        ("bytes=2999999-", 2_999_999..3_000_000, "bytes 2999999-2999999/3000000"),
        ("bytes=-70000", 2_930_000..3_000_000, "bytes 2930000-2999999/3000000"),
        ("bytes=0-99999999999", 0..3_000_000, "bytes 0-2999999/3000000"),
    ] {
        let part = with_headers(&server, Method::GET, FILE, &[("range", range)]).await.expect(206);
        assert_eq!(part.header("content-range"), said);
        assert!(part.body == content[expected], "{range}");
    }
    for range in ["bytes=3000000-", "bytes=-0", "bytes=9999999999999999999999-"] {
        let answer = with_headers(&server, Method::GET, FILE, &[("range", range)]).await;
        assert_eq!(answer.header("content-range"), "bytes */3000000");
        answer.refused(416, "range_not_satisfiable");
    }
    for ignored in ["bytes=5-2", "bytes=0-1,5-6", "pages=1-2", "bytes=x-"] {
        let answer = with_headers(&server, Method::GET, FILE, &[("range", ignored)]).await.expect(200);
        assert_eq!(answer.body.len(), content.len(), "{ignored}");
    }
    let empty = server.get("/file/shop/web/v1?path=empty", &server.admin).await.expect(200);
    assert_eq!((empty.body.len(), empty.header("content-length")), (0, "0"));
}

async fn conditions_save_the_transfer(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let content = noise(2, 100_000);
    server.push_files("shop/web", "v1", &server.admin, &[("bin/app", &content)]).await.expect(201);
    let etag = format!("\"{}\"", FileDigest::of(&content));
    let unchanged = with_headers(&server, Method::GET, FILE, &[("if-none-match", &etag)]).await.expect(304);
    assert!(unchanged.body.is_empty() && unchanged.header("etag") == etag);
    with_headers(&server, Method::GET, FILE, &[("if-none-match", "\"other\"")]).await.expect(200);
    let same = [("range", "bytes=1-2"), ("if-range", etag.as_str())];
    assert_eq!(with_headers(&server, Method::GET, FILE, &same).await.expect(206).body, content[1..3]);
    let other = [("range", "bytes=1-2"), ("if-range", "\"other\"")];
    assert_eq!(with_headers(&server, Method::GET, FILE, &other).await.expect(200).body.len(), content.len());

    let head = with_headers(&server, Method::HEAD, FILE, &[]).await.expect(200);
    assert_eq!(
        (head.body.len(), head.header("content-length"), head.header("etag")),
        (0, "100000", etag.as_str())
    );
    let head = with_headers(&server, Method::HEAD, FILE, &[("range", "bytes=0-9")]).await.expect(206);
    assert_eq!((head.body.len(), head.header("content-length")), (0, "10"));

    for format in ["yaml", "json", "stream"] {
        let path = format!("/manifest/shop/web/v1?format={format}");
        let first = server.get(&path, &server.admin).await.expect(200);
        let etag = first.header("etag").to_owned();
        assert!(!first.body.is_empty());
        with_headers(&server, Method::GET, &path, &[("if-none-match", &etag)]).await.expect(304);
        assert!(with_headers(&server, Method::HEAD, &path, &[]).await.expect(200).body.is_empty());
    }
}

async fn what_is_not_a_file_or_not_there_is_refused(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("d/a", b"x")]).await.expect(201);
    server.get("/file/shop/web/v1?path=d", &server.admin).await.refused(400, "invalid_path");
    server.get("/file/shop/web/v1?path=d/b", &server.admin).await.refused(404, "not_found");
    server.get("/file/shop/web/v1", &server.admin).await.refused(400, "invalid_request");
    server.get("/file/shop/web/v1?path=a&surprise=1", &server.admin).await.refused(400, "invalid_request");
    server.get("/file/shop/web/v9?path=d/a", &server.admin).await.refused(404, "not_found");
    server.get("/file/shop/web/@stable?path=d/a", &server.admin).await.refused(404, "not_found");
    server.get("/manifest/shop/web/v1?format=xml", &server.admin).await.refused(400, "invalid_request");
    assert_eq!(server.get("/file/shop/web/@latest?path=d/a", &server.admin).await.expect(200).body, b"x");
    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    server.post("/promote", &server.admin, promote).await.expect(200);
    assert_eq!(server.get("/file/shop/web/@stable?path=d/a", &server.admin).await.expect(200).body, b"x");
}

async fn quarantine_and_deletion_hold_on_every_read_path(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("bin/app", b"x")]).await.expect(201);
    server.push_files("shop/web", "v2", &server.admin, &[("bin/app", b"y")]).await.expect(201);
    let app = "/projects/shop/apps/web";
    let diff = format!("{app}/diff?from=v2&to=v1");
    let reads = [FILE, "/manifest/shop/web/v1", "/manifest/shop/web/v1?format=stream", diff.as_str()];
    for (state, status, code) in [
        (VersionState::Quarantined, 403, "version_quarantined"),
        (VersionState::Archived, 410, "version_archived"),
        (VersionState::Deleted, 410, "version_deleted"),
        (VersionState::Purged, 410, "version_deleted"),
    ] {
        let mut tx = server.resources().db.begin().await.unwrap();
        let row = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
        let version = tx.find_version(row.id, &"v1".parse().unwrap()).await.unwrap().unwrap();
        if state == VersionState::Archived {
            tx.archive_version(version.id).await.unwrap();
        } else {
            tx.set_version_state(version.id, state).await.unwrap();
        }
        tx.commit().await.unwrap();
        for path in reads {
            server.get(path, &server.admin).await.refused(status, code);
        }
        server
            .send(server.request(Method::POST, "/chunks/shop/web/v1", &server.admin))
            .await
            .refused(status, code);
        let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
        server.post("/promote", &server.admin, promote).await.refused(status, code);
        // It can still be seen that it is there.
        let seen = server.get(&format!("{app}/versions/v1"), &server.admin).await.expect(200).json();
        assert_eq!(seen["state"], state.as_str());
    }
}

async fn every_number_from_outside_has_a_bound(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    for query in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=99999999999999999999",
        "offset=-1",
        "offset=x",
        "cursor=x",
        "limit=5&offset=1&cursor=MS4x",
    ] {
        for list in ["/projects", "/projects/shop/apps", "/projects/shop/apps/web/versions", "/tokens"] {
            server.get(&format!("{list}?{query}"), &server.admin).await.refused(400, "invalid_request");
        }
    }
    let far = server.get("/projects?offset=18446744073709551615", &server.admin).await.expect(200).json();
    assert_eq!((far["items"].as_array().unwrap().len(), far["has_more"].as_bool()), (0, Some(false)));
    server
        .get("/projects/shop/apps/web/diff?from=v1&to=v1&limit=10001", &server.admin)
        .await
        .refused(400, "invalid_request");
}

async fn damaged_content_is_never_given_out(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let content = noise(5, 3_000_000);
    server.push_files("shop/web", "v1", &server.admin, &[("bin/app", &content)]).await.expect(201);
    let damaged = &content[2_500_000..2_500_064];
    for part in std::fs::read_dir(server.content_dir().join("packs")).unwrap().map(Result::unwrap) {
        for pack in std::fs::read_dir(part.path()).unwrap().map(Result::unwrap) {
            let mut bytes = std::fs::read(pack.path()).unwrap();
            if let Some(at) = bytes.windows(damaged.len()).position(|window| window == damaged) {
                bytes[at + 10] ^= 1;
                std::fs::write(pack.path(), bytes).unwrap();
            }
        }
    }
    // The head says how much is to come; the connection is cut where the damage begins.
    let response = server.request(Method::GET, FILE, &server.admin).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err(), "nobody takes damaged content for the whole");
    // Where nothing of it has been sent, the answer can still say so.
    let part = with_headers(&server, Method::GET, FILE, &[("range", "bytes=2500000-2500063")]).await;
    part.refused(500, "internal");
    let report = kkartifact::verify::verify_all(server.resources()).await.unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    // What is archived is to come back whole one day.
    let archive = "/projects/shop/apps/web/versions/v1/archive";
    server.call(Method::POST, archive, &server.admin, None).await.expect(200);
    let report = kkartifact::verify::verify_all(server.resources()).await.unwrap();
    assert_eq!((report.versions, report.problems.len()), (1, 1), "{:?}", report.problems);
}

async fn health_and_metrics_answer(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let live = server.get("/health/live", "").await.expect(200).json();
    assert_eq!(
        (live["status"].as_str(), live["version"].as_str()),
        (Some("ok"), Some(env!("CARGO_PKG_VERSION")))
    );
    let ready = server.get("/health/ready", "").await.expect(200).json();
    assert_eq!(ready["checks"][0]["name"], "database");
    let metrics = server.get("/metrics", "").await.expect(200).text();
    assert!(metrics.contains("kkartifact_request_seconds") && metrics.contains("health.ready"), "{metrics}");
    let own =
        with_headers(&server, Method::GET, "/whoami", &[("x-request-id", "ci-run-1234")]).await.expect(200);
    assert_eq!(own.header("x-request-id"), "ci-run-1234");
    let odd = with_headers(&server, Method::GET, "/whoami", &[("x-request-id", "a b")]).await.expect(200);
    assert_ne!(odd.header("x-request-id"), "a b");
}

on_both_databases! {
    a_file_is_streamed_with_ranges,
    conditions_save_the_transfer,
    what_is_not_a_file_or_not_there_is_refused,
    quarantine_and_deletion_hold_on_every_read_path,
    every_number_from_outside_has_a_bound,
    damaged_content_is_never_given_out,
    health_and_metrics_answer,
}
