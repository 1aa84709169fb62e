//! What belongs to somebody else does not exist.

use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

async fn a_token_of_another_app_never_learns_or_gets_anything(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for (project, app) in [("shop", "web"), ("other", "app")] {
        server.make_app(project, app).await;
    }
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"secret content")]).await.expect(201);
    for scope in ["shop/api", "other", "other/app"] {
        let token = server.token(&["admin"], scope).await;
        for path in [
            "/projects/shop/apps/web",
            "/projects/shop/apps/web/versions",
            "/projects/shop/apps/web/versions/v1",
            "/projects/shop/apps/web/channels",
            "/projects/shop/apps/web/channels/stable/history",
            "/projects/shop/apps/web/diff?from=v1&to=v1",
            "/projects/shop/apps/web/uploads",
            "/manifest/shop/web/v1",
            "/manifest/shop/web/@latest",
            "/file/shop/web/v1?path=a",
        ] {
            // Word for word what one gets for something that does not exist.
            let real = server.get(path, &token).await.expect(404).json();
            let fake = server.get(&path.replace("/web", "/nix"), &token).await.expect(404).json();
            let text =
                |body: &serde_json::Value| body["error"]["message"].as_str().unwrap().replace("nix", "web");
            assert_eq!(text(&real), text(&fake), "{path}");
        }
        for (path, body) in [
            ("/promote", json!({ "project": "shop", "app": "web", "version": "v1" })),
            ("/rollback", json!({ "project": "shop", "app": "web" })),
            ("/upload/init", json!({ "project": "shop", "app": "web", "version": "v1" })),
            ("/projects/shop/apps/web/prune", json!({ "keep": 1 })),
        ] {
            server.post(path, &token, body).await.refused(404, "not_found");
        }
        let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &token).body("x");
        server.send(put).await.refused(404, "not_found");
        server
            .send(server.request(Method::POST, "/chunks/shop/web/v1", &token))
            .await
            .refused(404, "not_found");
        let listed = server.get("/projects", &token).await.expect(200).text();
        assert_eq!(listed.contains("shop"), scope.starts_with("shop"), "{listed}");
        if scope == "shop/api" {
            let apps = server.get("/projects/shop/apps", &token).await.expect(200).text();
            assert!(apps.contains("api") && !apps.contains("web"), "{apps}");
        } else {
            server.get("/projects/shop/apps", &token).await.refused(404, "not_found");
        }
    }
}

async fn names_in_the_path_are_parsed_once_and_slashes_do_not_get_through(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    for bad in ["..", "%2e%2e", "..%2f..%2fetc", "a%2fb", "%00", "a%5cb", "%ff", ".git", "shop%2fapps%2fweb"]
    {
        let answer = server.get(&format!("/projects/{bad}/apps"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.status);
        let answer = server.get(&format!("/manifest/shop/{bad}/v1"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.status);
        let answer = server.get(&format!("/file/shop/web/{bad}?path=a"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{bad}: {}", answer.status);
    }
    for bad in ["../a", "/etc/passwd", "a/../a", "", "a%00", ".kkartifact.yml", "x/.kkartifact.yml"] {
        let answer = server.get(&format!("/file/shop/web/v1?path={bad}"), &server.admin).await;
        answer.refused(400, "invalid_path");
    }
}

async fn a_child_is_looked_up_under_its_parent_only(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    let other = server.token(&["admin"], "other").await;
    // Another project's app or version under one's own path does not exist.
    server.get("/projects/other/apps/web", &other).await.refused(404, "not_found");
    server.get("/projects/other/apps/app/versions/v1", &other).await.refused(404, "not_found");
    server.get("/file/other/app/v1?path=a", &other).await.refused(404, "not_found");
    let promote = json!({ "project": "other", "app": "app", "version": "v1" });
    server.post("/promote", &other, promote).await.refused(404, "not_found");
    // Another's upload id is not there either.
    let init = json!({ "project": "shop", "app": "web", "version": "v2" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let id = opened["upload_id"].as_str().unwrap();
    let colleague = server.token(&["admin"], "shop/web").await;
    for token in [&other, &colleague] {
        server.get(&format!("/upload/{id}"), token).await.refused(404, "not_found");
        server.post("/upload/finish", token, json!({ "upload_id": id })).await.refused(404, "not_found");
        let put = server.request(Method::PUT, &format!("/upload/{id}/manifest"), token);
        server
            .send(put.header("content-type", kkartifact_model::wire::STREAM_TYPE))
            .await
            .refused(404, "not_found");
        server
            .send(server.request(Method::POST, &format!("/upload/{id}/chunks"), token))
            .await
            .refused(404, "not_found");
        server.call(Method::DELETE, &format!("/upload/{id}"), token, None).await.refused(404, "not_found");
    }
    let put = server.request(Method::PUT, &format!("/file/shop/web/v2?path=a&upload_id={id}"), &colleague);
    server.send(put.body("x")).await.refused(404, "not_found");
}

on_both_databases! {
    a_token_of_another_app_never_learns_or_gets_anything,
    names_in_the_path_are_parsed_once_and_slashes_do_not_get_through,
    a_child_is_looked_up_under_its_parent_only,
}
