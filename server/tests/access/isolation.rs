//! What belongs to somebody else does not exist.

use kkartifact_service::RouteTable;
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
            "/archive/shop/web/v1?format=tar.gz",
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

/// Every route that names an app or a project: what is there and what is not can't be told apart.
async fn no_route_tells_what_belongs_to_others(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"secret content")]).await.expect(201);
    let neighbour = server.token(&["admin"], "shop/api").await;
    let stranger = server.token(&["admin"], "other").await;
    let mut methods = vec![];
    for route in RouteTable::get().unwrap().routes() {
        if !route.path.contains("{project}") {
            continue;
        }
        let path =
            route.path.replace("/api/v1", "").replace("{version}", "v1").replace("{channel}", "stable");
        let token = if path.contains("{app}") { &neighbour } else { &stranger };
        for token in [token, &stranger] {
            methods.extend([(route.method.clone(), path.clone(), token.clone())]);
            if route.method == Method::GET {
                methods.push((Method::HEAD, path.clone(), token.clone()));
            }
        }
    }
    assert!(methods.len() > 40, "{}", methods.len());
    for (method, path, token) in methods {
        let call = async |project: &str, app: &str| {
            let path = path.replace("{project}", project).replace("{app}", app);
            let more = if path.starts_with("/file") { "?path=a" } else { "" };
            server.call(method.clone(), &format!("{path}{more}"), &token, None).await
        };
        let real = call("shop", "web").await.expect(404);
        let fake = if path.contains("{app}") { call("shop", "nix").await } else { call("nix", "nix").await };
        assert_eq!(fake.status, 404, "{method} {path}");
        let message = |body: &[u8], name: &str| {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            body["error"]["message"].as_str().unwrap_or_default().replace(name, "*")
        };
        let name = if path.contains("{app}") { "web" } else { "shop" };
        assert_eq!(message(&real.body, name), message(&fake.body, "nix"), "{method} {path}");
    }
    let metrics = server.get("/metrics", "").await.expect(200).text();
    for name in ["shop", "secret content"] {
        assert!(!metrics.contains(name), "{name} in {metrics}");
    }
}

/// What no client library would send: the gate and the handler read the same path.
async fn a_path_is_read_once_however_it_is_written(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    for app in ["web", "api"] {
        let content = format!("content of {app}");
        server
            .push_files(&format!("shop/{app}"), "v1", &server.admin, &[("a", content.as_bytes())])
            .await
            .expect(201);
    }
    let token = server.token(&["admin"], "shop/api").await;
    let get = |path: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        let server = &server;
        async move { server.raw(&head).await }
    };
    let own = get("/api/v1/file/shop/api/v1?path=a").await;
    assert!(own.starts_with("HTTP/1.1 200") && own.contains("content of api"), "{own}");
    for path in [
        "/api/v1/file/shop/api%2f..%2fweb/v1?path=a",
        "/api/v1/file/shop/api/../web/v1?path=a",
        "/api/v1/file/shop/api/%2e%2e/web/v1?path=a",
        "/api/v1/file/shop/%252e%252e/web/v1?path=a",
        "/api/v1/file/shop//web/v1?path=a",
        "/api/v1/file/shop/web/v1/?path=a",
        "/api/v1/file/shop/web;api/v1?path=a",
        "/api/v1/file/shop/web%00api/v1?path=a",
        "/api/v1/file/shop/api/v1/../../web/v1?path=a",
        "/api/v1/file/shop/api/v1?path=../../web/v1/a",
        "/api/v1/file/shop/api/v1?path=%ff",
        "//api/v1/file/shop/web/v1?path=a",
        "/api/v1/file/shop/web/v1?path=a#/file/shop/api/v1",
        "http://x/api/v1/file/shop/web/v1?path=a",
        "/API/V1/FILE/shop/web/v1?path=a",
    ] {
        let answer = get(path).await;
        let status: u16 = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap_or(0);
        assert!((400..500).contains(&status), "{path}: {answer}");
        assert!(!answer.contains("content of web"), "{path}: {answer}");
    }
    // A parameter that is there twice is refused, not chosen from.
    let twice = get("/api/v1/file/shop/api/v1?path=a&path=../b").await;
    assert!(twice.starts_with("HTTP/1.1 400"), "{twice}");
}

async fn an_upload_takes_only_what_it_was_opened_for(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let id = opened["upload_id"].as_str().unwrap();
    // The caller's own upload, and yet not of this app, and not of this version.
    for place in ["other/app/v1", "shop/web/v2"] {
        let put = server.request(Method::PUT, &format!("/file/{place}?path=a&upload_id={id}"), &server.admin);
        let answer = server.send(put.body("x")).await;
        assert!(matches!(answer.status.as_u16(), 404 | 409), "{place}: {}", answer.text());
    }
    let put =
        server.request(Method::PUT, &format!("/file/shop/web/v1?path=%ff&upload_id={id}"), &server.admin);
    assert_eq!(server.send(put.body("x")).await.status, 400);
    let colleague = server.token(&["admin"], "shop/web").await;
    server.get(&format!("/upload/{id}/missing"), &colleague).await.refused(404, "not_found");
    // The digest of another app's version neither says that it exists nor gives it.
    server.push_files("other/app", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    let version = server.get("/projects/other/apps/app/versions/v1", &server.admin).await.expect(200).json();
    let init = json!({
        "project": "shop", "app": "web", "version": "v1", "tree_digest": version["tree_digest"],
        "base": { "version": "v1", "manifest_digest": version["manifest_digest"] },
    });
    let opened = server.post("/upload/init", &colleague, init).await.expect(201).json();
    assert_eq!((opened["state"].as_str(), &opened["base"]), (Some("open"), &json!(false)), "{opened}");
}

on_both_databases! {
    no_route_tells_what_belongs_to_others,
    a_path_is_read_once_however_it_is_written,
    an_upload_takes_only_what_it_was_opened_for,
    a_token_of_another_app_never_learns_or_gets_anything,
    names_in_the_path_are_parsed_once_and_slashes_do_not_get_through,
    a_child_is_looked_up_under_its_parent_only,
}
