//! What happens at once, at the limits, and in the wrong moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::TimeDelta;
use futures_util::future::join_all;
use kkartifact_service::RouteTable;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

async fn every_body_has_the_limit_of_its_route(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let webhook = json!({ "name": "x", "url": "https://hooks.example.com/x", "events": ["delete"] });
    let webhook = server.post("/webhooks", &server.admin, webhook).await.expect(201).json();
    let webhook = webhook["id"].as_str().unwrap();
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    for route in RouteTable::get().unwrap().routes() {
        let Some(limit) = route.body.filter(|limit| *limit > 0) else { continue };
        let path = route.path.replace("/api/v1", "").replace("{project}", "shop").replace("{app}", "web");
        let path = path.replace("{version}", "v1").replace("{schedule}", "retention");
        let path = path.replace("{webhook}", webhook);
        let body = vec![b' '; usize::try_from(limit).unwrap() + 1];
        let request = server.request(route.method.clone(), &path, &server.admin);
        let request = request.header("content-type", "application/json").body(body);
        server.send(request).await.refused(413, "too_large");
    }
}

async fn finish_does_not_say_done_before_it_is(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let finish = json!({ "upload_id": opened["upload_id"] });
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &server.admin).body("content");
    server.send(put).await.expect(200);
    // The database refuses the row.
    server.execute(if is_sqlite(&server) {
        "CREATE TRIGGER refuse BEFORE INSERT ON version BEGIN SELECT RAISE(ABORT, 'refused'); END"
    } else {
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON version FOR EACH ROW EXECUTE FUNCTION refuse()"
    })
    .await;
    let refused = server.post("/upload/finish", &server.admin, finish.clone()).await.expect(500);
    assert!(!refused.text().contains("refused"), "nothing of the inside: {}", refused.text());
    server.get("/manifest/shop/web/v1", &server.admin).await.refused(404, "not_found");
    server
        .execute(if is_sqlite(&server) { "DROP TRIGGER refuse" } else { "DROP TRIGGER refuse ON version" })
        .await;
    server.post("/upload/finish", &server.admin, finish.clone()).await.expect(201);
    server.post("/upload/finish", &server.admin, finish).await.expect(200);
}

fn is_sqlite(server: &TestServer) -> bool {
    server.resources().config.database.url.is_none()
}

async fn who_finishes_twice_at_once_gets_the_version_twice(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    for round in 0..5 {
        let version = format!("v{round}");
        let init = json!({ "project": "shop", "app": "web", "version": version });
        let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
        let path = format!("/file/shop/web/{version}?path=a");
        let put = server.request(Method::PUT, &path, &server.admin).body(version.clone());
        server.send(put).await.expect(200);
        let finish = json!({ "upload_id": opened["upload_id"] });
        let calls = (0..6).map(|_| server.post("/upload/finish", &server.admin, finish.clone()));
        let answers = join_all(calls).await;
        let refusals = answers.iter().filter(|answer| answer.status.as_u16() > 201);
        let said: Vec<_> = refusals.map(kkartifact_testkit::Answer::text).collect();
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 201], "{said:?}");
    }
}

async fn first_pushes_into_a_new_project_do_not_get_in_each_others_way(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for round in 0..5 {
        let calls = (0..8).map(|i| {
            let init =
                json!({ "project": format!("new{round}"), "app": format!("app{}", i / 2), "version": "v1" });
            server.post("/upload/init", &server.admin, init)
        });
        for answer in join_all(calls).await {
            answer.expect(201);
        }
    }
    let mut tx = server.resources().db.read().await.unwrap();
    let made = tx.latest_audit(100).await.unwrap();
    let count = |action: &str| made.iter().filter(|row| row.action == action).count();
    assert_eq!((count("project.create"), count("app.create")), (5, 20));
}

async fn a_slow_change_does_not_bring_back_what_was_deleted_meanwhile(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for name in ["app", "project"] {
        server.make_app(name, "web").await;
        let path = if name == "app" { "/projects/app/apps/web" } else { "/projects/project" };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(1);
        let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let request = server.request(Method::PATCH, path, &server.admin);
        let request =
            request.header("content-type", "application/json").body(reqwest::Body::wrap_stream(body));
        let change = async { server.send(request).await };
        let meanwhile = async {
            sender.send(Ok("{")).await.unwrap();
            // A second piece is only taken when the handler reads: the gate has let the change through.
            sender.send(Ok(" ")).await.unwrap();
            for path in [format!("/projects/{name}/apps/web"), format!("/projects/{name}")] {
                server.call(Method::DELETE, &path, &server.admin, None).await.expect(204);
            }
            sender.send(Ok("\"archived\":false}")).await.unwrap();
            drop(sender);
        };
        let (answer, ()) = tokio::join!(change, meanwhile);
        answer.refused(404, "not_found");
        server.get(path, &server.admin).await.refused(404, "not_found");
    }
}

async fn a_token_does_not_outlive_the_one_that_made_it(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let end = server.clock.now() + TimeDelta::hours(1);
    let token = |end: Option<_>| {
        let scope = json!([{ "project": "shop" }]);
        json!({ "name": "x", "permissions": ["admin"], "scopes": scope, "expires_at": end })
    };
    let made = server.post("/tokens", &server.admin, token(Some(end))).await.expect(201).json();
    let short = made["token"].as_str().unwrap();
    server.post("/tokens", short, token(None)).await.refused(403, "forbidden");
    server.post("/tokens", short, token(Some(end + TimeDelta::seconds(1)))).await.refused(403, "forbidden");
    server.post("/tokens", short, token(Some(end))).await.expect(201);
}

async fn what_the_database_cannot_keep_is_the_callers_mistake(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let init = |build: Value| json!({ "project": "shop", "app": "web", "version": "v1", "build": build });
    let far = "QW5jaWVudA";
    for answer in [
        server.post("/projects", &server.admin, json!({ "name": "x", "description": "a\0b" })).await,
        server.post("/upload/init", &server.admin, init(json!({ "builder": "a\0b" }))).await,
        server
            .post("/upload/init", &server.admin, init(json!({ "build_time": "-262000-01-01T00:00:00Z" })))
            .await,
        server.get("/projects/shop/apps/web/versions?git_commit=%00", &server.admin).await,
        server.get(&format!("/projects?cursor={far}"), &server.admin).await,
        server.get("/projects?cursor=LTkwMDAwMDAwMDAwMDAwMDAwMC4x", &server.admin).await,
    ] {
        assert!(answer.status.as_u16() < 500, "{}", answer.text());
    }
}

async fn a_channel_is_not_called_latest(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    let promote = json!({ "project": "shop", "app": "web", "version": "v1", "channel": "latest" });
    server.post("/promote", &server.admin, promote).await.refused(400, "invalid_name");
}

async fn the_manifests_tag_names_its_very_bytes(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    for version in ["v1", "v2"] {
        server.push_files("shop/web", version, &server.admin, &[("a", b"same")]).await.expect(201);
    }
    let promote = |version: &str| json!({ "project": "shop", "app": "web", "version": version });
    server.post("/promote", &server.admin, promote("v1")).await.expect(200);
    for (format, changes) in [("yaml", true), ("json", true), ("stream", false)] {
        let path = format!("/manifest/shop/web/@stable?format={format}");
        server.post("/promote", &server.admin, promote("v1")).await.expect(200);
        let tag = server.get(&path, &server.admin).await.expect(200).header("etag").to_owned();
        let again = || server.request(Method::GET, &path, &server.admin).header("if-none-match", &tag);
        server.send(again()).await.expect(304);
        server.post("/promote", &server.admin, promote("v2")).await.expect(200);
        server.send(again()).await.expect(if changes { 200 } else { 304 });
    }
}

on_both_databases! {
    every_body_has_the_limit_of_its_route,
    finish_does_not_say_done_before_it_is,
    who_finishes_twice_at_once_gets_the_version_twice,
    first_pushes_into_a_new_project_do_not_get_in_each_others_way,
    a_slow_change_does_not_bring_back_what_was_deleted_meanwhile,
    a_token_does_not_outlive_the_one_that_made_it,
    what_the_database_cannot_keep_is_the_callers_mistake,
    a_channel_is_not_called_latest,
    the_manifests_tag_names_its_very_bytes,
}
