//! Pushing with plain HTTP: init, put each file, finish; and uploads as sessions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::TimeDelta;
use kkartifact_model::FileDigest;
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

fn init(version: &str) -> serde_json::Value {
    json!({ "project": "shop", "app": "web", "version": version })
}

async fn open(server: &TestServer, body: serde_json::Value) -> String {
    let opened = server.post("/upload/init", &server.admin, body).await.expect(201).json();
    assert_eq!(opened["state"], "open");
    opened["upload_id"].as_str().unwrap().to_owned()
}

async fn put(
    server: &TestServer,
    version: &str,
    query: &[(&str, &str)],
    body: Vec<u8>,
) -> kkartifact_testkit::Answer {
    let request = server.request(Method::PUT, &format!("/file/shop/web/{version}"), &server.admin);
    server.send(request.query(query).body(body)).await
}

async fn finish(server: &TestServer, upload: &str) -> kkartifact_testkit::Answer {
    server.post("/upload/finish", &server.admin, json!({ "upload_id": upload })).await
}

async fn init_put_finish_publishes_a_version(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let large = noise(1, 1_000_000);
    let upload = open(&server, init("1.0.0+build.7")).await;
    let version = "1.0.0%2Bbuild.7";
    let sha256 = FileDigest::of(&large).to_string();
    let query =
        [("path", "bin/app"), ("mode", "0755"), ("sha256", &sha256), ("mtime", "2025-12-26T17:30:00Z")];
    let answer = put(&server, version, &query, large.clone()).await.expect(200).json();
    assert_eq!(
        (answer["sha256"].as_str(), answer["size"].as_u64()),
        (Some(sha256.as_str()), Some(1_000_000))
    );
    put(&server, version, &[("path", "empty")], vec![]).await.expect(200);
    put(&server, version, &[("path", "ünï/✓")], b"utf-8".to_vec()).await.expect(200);
    server
        .get(&format!("/projects/shop/apps/web/versions/{version}"), &server.admin)
        .await
        .refused(404, "not_found");

    let published = finish(&server, &upload).await.expect(201).json();
    assert_eq!((published["file_count"].as_u64(), published["bytes"].as_u64()), (Some(3), Some(1_000_005)));
    assert_eq!(published["entry_count"], 5, "directories are entries");
    assert_eq!(
        finish(&server, &upload).await.expect(200).json()["version"],
        "1.0.0+build.7",
        "finishing twice is safe"
    );

    let manifest = server.get(&format!("/manifest/shop/web/{version}"), &server.admin).await.expect(200);
    assert_eq!(manifest.header("content-type"), "application/yaml");
    let text = manifest.text();
    for line in [
        "version: \"1.0.0+build.7\"",
        "  - path: bin/app\n",
        "    mtime: 2025-12-26T17:30:00Z",
        "    mode: \"0755\"",
        "    type: directory",
        &format!("    sha256: \"{sha256}\""),
        "  - path: \"ünï/✓\"",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json = server
        .get(&format!("/manifest/shop/web/{version}?format=json"), &server.admin)
        .await
        .expect(200)
        .json();
    assert_eq!(json["files"].as_array().unwrap().len(), 5);
    assert_eq!(json["files"][1]["sha256"], sha256.as_str());
    let file = server.get(&format!("/file/shop/web/{version}?path=bin/app"), &server.admin).await.expect(200);
    assert!(file.body == large);
}

async fn starting_an_upload_does_not_touch_what_is_published(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"one")]).await.expect(201);
    let upload = open(&server, init("v1")).await;
    put(&server, "v1", &[("path", "a")], b"two".to_vec()).await.expect(200);
    assert_eq!(server.get("/file/shop/web/v1?path=a", &server.admin).await.expect(200).body, b"one");
    finish(&server, &upload).await.refused(409, "version_exists");
    assert_eq!(server.get("/file/shop/web/v1?path=a", &server.admin).await.expect(200).body, b"one");
    // The same content again is not an error, whoever sends it.
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"one")]).await.expect(200);
}

async fn finish_compares_content_with_what_was_announced(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let digest = |text: &[u8]| FileDigest::of(text).to_string();
    let mut body = init("v1");
    body["files"] = json!([
        { "path": "a", "sha256": digest(b"right"), "size": 5 },
        { "path": "d/b", "sha256": digest(b"b"), "size": 1 },
    ]);
    let opened = server.post("/upload/init", &server.admin, body).await.expect(201).json();
    assert_eq!(opened["missing"], json!(["a", "d/b"]));
    let upload = opened["upload_id"].as_str().unwrap().to_owned();
    put(&server, "v1", &[("path", "a")], b"wrong".to_vec()).await.refused(422, "digest_mismatch");
    put(&server, "v1", &[("path", "a")], b"right, but longer".to_vec()).await.refused(422, "digest_mismatch");
    finish(&server, &upload).await.refused(409, "upload_incomplete");
    put(&server, "v1", &[("path", "a")], b"right".to_vec()).await.expect(200);
    let error = finish(&server, &upload).await.expect(409).text();
    assert!(error.contains("d/b"), "{error}");
    put(&server, "v1", &[("path", "d/b")], b"b".to_vec()).await.expect(200);
    finish(&server, &upload).await.expect(201);
    let wrong = digest(b"something else");
    let upload = open(&server, init("v2")).await;
    let answer = put(&server, "v2", &[("path", "a"), ("sha256", &wrong)], b"x".to_vec()).await;
    answer.refused(422, "digest_mismatch");
    // What was refused is not there, and nothing else is.
    finish(&server, &upload).await.refused(409, "upload_incomplete");
}

async fn bad_input_is_refused_with_a_stable_code(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.upload.put_files = 3).await;
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({ "project": "a/b", "app": "web", "version": "v" }), 400, "invalid_request"),
        (json!({ "project": "..", "app": "web", "version": "v" }), 400, "invalid_request"),
        (json!({ "project": "shop", "app": "web", "version": "a\u{0}b" }), 400, "invalid_request"),
        (json!({ "project": "shop", "app": "web", "version": "v".repeat(129) }), 400, "invalid_request"),
        (json!({ "project": "shop", "app": "web", "version": "v", "surprise": 1 }), 400, "invalid_request"),
        (
            json!({ "project": "shop", "app": "web", "version": "v", "tree_digest": "zz" }),
            400,
            "invalid_request",
        ),
        (
            json!({ "project": "shop", "app": "web", "version": "v", "build": { "git_commit": "x".repeat(65) } }),
            400,
            "invalid_request",
        ),
    ] {
        server.post("/upload/init", &server.admin, body).await.refused(status, code);
    }
    let file = |path: &str| json!({ "path": path, "sha256": "0".repeat(64), "size": 0 });
    let mut many = init("v");
    many["files"] = json!([file("a"), file("b"), file("c"), file("d")]);
    server.post("/upload/init", &server.admin, many).await.refused(413, "too_large");
    let mut twice = init("v");
    twice["files"] = json!([file("a"), file("a")]);
    server.post("/upload/init", &server.admin, twice).await.refused(422, "invalid_manifest");
    for bad in ["../x", "/x", "a/../b", ".kkartifact.yml", "a\0b", ""] {
        let mut body = init("v");
        body["files"] = json!([file(bad)]);
        server.post("/upload/init", &server.admin, body).await.refused(400, "invalid_request");
    }
    let text = server.request(Method::POST, "/upload/init", &server.admin).body("project=shop");
    server.send(text).await.refused(415, "unsupported_media_type");
    let huge = server
        .request(Method::POST, "/upload/init", &server.admin)
        .header("content-type", "application/json");
    server.send(huge.body(vec![b' '; 5 << 20])).await.refused(413, "too_large");

    put(&server, "v", &[("path", "a")], vec![]).await.refused(404, "not_found");
    let upload = open(&server, init("v")).await;
    for path in ["../x", "/x", ".kkartifact.yml", "deep/.kkartifact.yml", ""] {
        put(&server, "v", &[("path", path)], vec![]).await.refused(400, "invalid_path");
    }
    for query in [
        [("path", "a"), ("mode", "9")],
        [("path", "a"), ("mode", "7777")],
        [("path", "a"), ("mtime", "noon")],
    ] {
        put(&server, "v", &query, vec![]).await.refused(400, "invalid_request");
    }
    for path in ["a", "b", "c"] {
        put(&server, "v", &[("path", path)], vec![]).await.expect(200);
    }
    put(&server, "v", &[("path", "d")], vec![]).await.refused(413, "too_large");
    put(&server, "v", &[("path", "a")], b"again".to_vec()).await.expect(200);
    server.call(Method::DELETE, &format!("/upload/{upload}"), &server.admin, None).await.expect(200);
    finish(&server, &upload).await.refused(409, "upload_closed");

    let below = open(&server, init("w")).await;
    put(&server, "w", &[("path", "a")], vec![]).await.expect(200);
    put(&server, "w", &[("path", "a/b")], vec![]).await.expect(200);
    finish(&server, &below).await.refused(422, "invalid_manifest");
    server.get("/no/such/path", &server.admin).await.refused(404, "not_found");
    server.call(Method::DELETE, "/upload/init", &server.admin, None).await.refused(405, "method_not_allowed");
    server.call(Method::PUT, "/projects", &server.admin, None).await.refused(405, "method_not_allowed");
}

async fn rivals_do_not_disturb_each_other_and_the_first_finish_wins(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let (one, two) =
        (server.token(&["push", "pull"], "shop/web").await, server.token(&["push"], "shop/web").await);
    let mut uploads = Vec::new();
    for (token, content) in [(&one, "from one"), (&two, "from two")] {
        let opened = server.post("/upload/init", token, init("v1")).await.expect(201).json();
        let request = server.request(Method::PUT, "/file/shop/web/v1?path=a", token).body(content);
        server.send(request).await.expect(200);
        uploads.push(opened["upload_id"].clone());
    }
    server.post("/upload/finish", &two, json!({ "upload_id": uploads[1] })).await.expect(201);
    server
        .post("/upload/finish", &one, json!({ "upload_id": uploads[0] }))
        .await
        .refused(409, "version_exists");
    assert_eq!(server.get("/file/shop/web/v1?path=a", &one).await.expect(200).text(), "from two");
}

async fn uploads_are_listed_given_up_and_expire(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (first, second) = (open(&server, init("v1")).await, open(&server, init("v2")).await);
    let list = "/projects/shop/apps/web/uploads";
    assert_eq!(server.get(list, &server.admin).await.expect(200).json()["total"], 2);
    let got = server.get(&format!("/upload/{first}"), &server.admin).await.expect(200).json();
    assert_eq!((got["state"].as_str(), got["version"].as_str()), (Some("open"), Some("v1")));
    let aborted =
        server.call(Method::DELETE, &format!("/upload/{first}"), &server.admin, None).await.expect(200);
    assert_eq!(aborted.json()["state"], "aborted");
    let again = server.call(Method::DELETE, &format!("/upload/{first}"), &server.admin, None).await;
    again.refused(409, "upload_closed");
    assert_eq!(server.get(list, &server.admin).await.expect(200).json()["total"], 1);

    // A call puts the end off; silence does not.
    server.clock.advance(TimeDelta::hours(23));
    put(&server, "v2", &[("path", "a")], vec![]).await.expect(200);
    server.clock.advance(TimeDelta::hours(23));
    put(&server, "v2", &[("path", "b")], vec![]).await.expect(200);
    server.clock.advance(TimeDelta::hours(25));
    put(&server, "v2", &[("path", "c")], vec![]).await.refused(404, "not_found");
    finish(&server, &second).await.refused(409, "upload_closed");
    // The sweeper closes it for good.
    server.resources().jobs_queued.notify_waiters();
    loop {
        let state =
            server.get(&format!("/upload/{second}"), &server.admin).await.expect(200).json()["state"].clone();
        if state == "expired" {
            break;
        }
        assert_eq!(state, "open");
        server.resources().jobs_queued.notify_waiters();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(server.get(list, &server.admin).await.expect(200).json()["total"], 0);
}

async fn publishing_writes_audit_event_and_marker_together(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    server.settle().await;
    let mut tx = server.resources().db.read().await.unwrap();
    let actions: Vec<_> = tx.latest_audit(10).await.unwrap().into_iter().map(|row| row.action).collect();
    assert_eq!(actions[..3], ["version.publish", "app.create", "project.create"]);
    let marker = server.content_dir().join("versions/shop/web/v1.1");
    let text = std::fs::read_to_string(marker).unwrap();
    assert!(text.contains("published") && text.contains("shop"), "{text}");
}

async fn an_archived_app_takes_no_versions_and_a_deleted_one_is_gone(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    let upload = open(&server, init("v2")).await;
    put(&server, "v2", &[("path", "a")], b"y".to_vec()).await.expect(200);
    let archive = |archived: bool| Some(json!({ "archived": archived }));
    for path in ["/projects/shop/apps/web", "/projects/shop"] {
        server.call(Method::PATCH, path, &server.admin, archive(true)).await.expect(200);
        server.post("/upload/init", &server.admin, init("v3")).await.refused(409, "archived");
        finish(&server, &upload).await.refused(409, "archived");
        server.get("/file/shop/web/v1?path=a", &server.admin).await.expect(200);
        server.call(Method::PATCH, path, &server.admin, archive(false)).await.expect(200);
    }
    finish(&server, &upload).await.expect(201);
    server.call(Method::DELETE, "/projects/shop/apps/web", &server.admin, None).await.expect(204);
    server.get("/file/shop/web/v1?path=a", &server.admin).await.refused(404, "not_found");
    server.post("/upload/init", &server.admin, init("v3")).await.refused(404, "not_found");
    let again = server.post("/projects/shop/apps", &server.admin, json!({ "name": "web" })).await;
    again.refused(409, "already_exists");
    server.call(Method::DELETE, "/projects/shop", &server.admin, None).await.expect(204);
    server.get("/projects/shop", &server.admin).await.refused(404, "not_found");
    assert_eq!(server.get("/projects", &server.admin).await.expect(200).json()["total"], 0);
}

async fn a_full_disk_is_507_and_publishes_nothing(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"before")]).await.expect(201);
    server.restart_with(|config| config.storage.reserve = kkartifact_model::size::ByteSize(u64::MAX)).await;
    let upload = open(&server, init("v2")).await;
    let answer = put(&server, "v2", &[("path", "a")], noise(3, 100_000)).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.refused(507, "storage_full");
    let ready = server.get("/health/ready", "").await.expect(200).json();
    assert_eq!(ready["status"], "degraded");
    server.get("/projects/shop/apps/web/versions/v2", &server.admin).await.refused(404, "not_found");
    assert_eq!(server.get("/file/shop/web/v1?path=a", &server.admin).await.expect(200).body, b"before");
    // Room is made: the same upload goes on.
    server.restart_with(|config| config.storage.reserve = kkartifact_model::size::ByteSize(0)).await;
    put(&server, "v2", &[("path", "a")], noise(3, 100_000)).await.expect(200);
    finish(&server, &upload).await.expect(201);
}

async fn identical_content_is_stored_once_in_a_project(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let content = noise(9, 2_000_000);
    let size = |dir: &std::path::Path| -> u64 {
        let mut total = 0;
        for part in std::fs::read_dir(dir.join("packs")).unwrap().map(Result::unwrap) {
            for pack in std::fs::read_dir(part.path()).unwrap().map(Result::unwrap) {
                total += pack.metadata().unwrap().len();
            }
        }
        total
    };
    server.push_files("shop/web", "v1", &server.admin, &[("a", &content)]).await.expect(201);
    let before = size(&server.content_dir());
    assert!(before > 2_000_000);
    server.push_files("shop/web", "v2", &server.admin, &[("a", &content), ("b", &content)]).await.expect(201);
    server.push_files("shop/api", "v1", &server.admin, &[("x/y", &content)]).await.expect(201);
    assert!(size(&server.content_dir()) < before + 20_000, "only manifests are new");
    // Another project gets bytes of its own.
    server.push_files("other/app", "v1", &server.admin, &[("a", &content)]).await.expect(201);
    assert!(size(&server.content_dir()) > 2 * 2_000_000);
    let report = kkartifact::verify::verify_all(server.resources()).await.unwrap();
    assert_eq!((report.versions, report.problems), (4, vec![]));
}

on_both_databases! {
    init_put_finish_publishes_a_version,
    starting_an_upload_does_not_touch_what_is_published,
    finish_compares_content_with_what_was_announced,
    bad_input_is_refused_with_a_stable_code,
    rivals_do_not_disturb_each_other_and_the_first_finish_wins,
    uploads_are_listed_given_up_and_expire,
    publishing_writes_audit_event_and_marker_together,
    an_archived_app_takes_no_versions_and_a_deleted_one_is_gone,
    a_full_disk_is_507_and_publishes_nothing,
    identical_content_is_stored_once_in_a_project,
}
