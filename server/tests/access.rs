//! Who may do what: through the gateway, on every kind of route.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::TimeDelta;
use kkartifact_service::RouteTable;
use kkartifact_service::routes::{Access, Scope};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

async fn nothing_is_open_without_a_token_but_health_metrics_and_the_one_time_secret(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    for route in RouteTable::get().unwrap().routes() {
        let path = route.path.replace("/api/v1", "");
        let path = ["project", "app", "version", "upload", "token", "channel"]
            .iter()
            .fold(path, |path, name| path.replace(&format!("{{{name}}}"), "x"));
        let answer = server.send(server.request(route.method.clone(), &path, "")).await;
        if route.access == Access::Public {
            assert_ne!(answer.status, 401, "{}", route.name);
        } else {
            answer.refused(401, "unauthenticated");
        }
        for bad in [
            "x",
            "kka_",
            "kka_0000000000000000_00000000000000000000000000000000_00000000",
            &server.admin[..40],
        ] {
            let answer = server.send(server.request(route.method.clone(), &path, bad)).await;
            assert_eq!(answer.status == 401, route.access != Access::Public, "{} with {bad}", route.name);
        }
    }
    server.stop().await;
}

async fn the_one_time_secret_works_once(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    let again = server.post("/bootstrap", "", json!({ "secret": "whatever" })).await;
    again.refused(409, "bootstrap_done");
    server.restart_with(|_| {}).await;
    server.post("/bootstrap", "", json!({ "secret": "whatever" })).await.refused(409, "bootstrap_done");
    assert_eq!(server.get("/whoami", &server.admin).await.expect(200).json()["name"], "first-admin");
}

async fn no_default_password_a_wrong_one_time_secret_gets_nothing(db: TestDatabase) {
    let server = TestServer::start(db).await;
    kkartifact_service::bootstrap::reset(server.resources()).await.unwrap();
    let secret = kkartifact_service::bootstrap::prepare(server.resources()).await.unwrap().unwrap();
    for wrong in ["", "admin", "password", &secret[1..], &secret.to_uppercase()] {
        server.post("/bootstrap", "", json!({ "secret": wrong })).await.refused(401, "unauthenticated");
    }
    server.post("/bootstrap", "", json!({ "secret": secret })).await.expect(201);
    server.post("/bootstrap", "", json!({ "secret": secret })).await.refused(409, "bootstrap_done");
}

async fn a_token_cannot_be_minted_without_being_admin_where_it_reaches(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    let pusher = server.token(&["push", "pull", "promote"], "shop").await;
    let admin_of_shop = server.token(&["admin"], "shop").await;
    let admin_of_web = server.token(&["admin"], "shop/web").await;
    let mint = |scope: serde_json::Value| json!({ "name": "x", "permissions": ["view"], "scopes": [scope] });
    let (all, shop) = (json!({}), json!({ "project": "shop" }));
    let (web, other) = (json!({ "project": "shop", "app": "web" }), json!({ "project": "other" }));

    server.post("/tokens", "", mint(web.clone())).await.refused(401, "unauthenticated");
    for scope in [&web, &shop] {
        server.post("/tokens", &pusher, mint(scope.clone())).await.refused(403, "forbidden");
    }
    server.post("/tokens", &pusher, mint(all.clone())).await.refused(403, "forbidden");
    server.post("/tokens", &pusher, mint(other.clone())).await.refused(404, "not_found");

    server.post("/tokens", &admin_of_shop, mint(web.clone())).await.expect(201);
    server.post("/tokens", &admin_of_shop, mint(shop.clone())).await.expect(201);
    server.post("/tokens", &admin_of_shop, mint(all.clone())).await.refused(403, "forbidden");
    server.post("/tokens", &admin_of_shop, mint(other)).await.refused(404, "not_found");
    server.post("/tokens", &admin_of_web, mint(web)).await.expect(201);
    server.post("/tokens", &admin_of_web, mint(shop)).await.refused(403, "forbidden");

    for bad in [
        json!({ "name": "", "permissions": ["view"], "scopes": [{}] }),
        json!({ "name": "x", "permissions": [], "scopes": [{}] }),
        json!({ "name": "x", "permissions": ["view"], "scopes": [] }),
        json!({ "name": "x", "permissions": ["root"], "scopes": [{}] }),
        json!({ "name": "x", "permissions": ["view"], "scopes": [{ "app": "web" }] }),
        json!({ "name": "x", "permissions": ["view"], "scopes": [{}], "expires_at": "2020-01-01T00:00:00Z" }),
        json!({ "name": "x", "permissions": ["view"], "scopes": [{}], "is_admin": true }),
    ] {
        server.post("/tokens", &server.admin, bad).await.refused(400, "invalid_request");
    }
}

async fn permissions_are_checked_on_every_kind_of_route(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    let app = "/projects/shop/apps/web";
    let reads = ["/file/shop/web/v1?path=a", "/manifest/shop/web/v1"];
    let views =
        [app.to_owned(), format!("{app}/versions"), format!("{app}/versions/v1"), format!("{app}/channels")];
    let init = json!({ "project": "shop", "app": "web", "version": "v2" });
    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    for (permission, may_pull, may_push, may_promote, may_admin) in [
        ("view", false, false, false, false),
        ("pull", true, false, false, false),
        ("push", false, true, false, false),
        ("promote", false, false, true, false),
        ("admin", true, true, true, true),
    ] {
        let token = server.token(&[permission], "shop/web").await;
        for path in &views {
            server.get(path, &token).await.expect(200);
        }
        for path in reads {
            server.get(path, &token).await.expect(if may_pull { 200 } else { 403 });
        }
        let chunks = server.send(server.request(Method::POST, "/chunks/shop/web/v1", &token)).await;
        chunks.expect(if may_pull { 200 } else { 403 });
        let diff = server.get(&format!("{app}/diff?from=v1&to=v1"), &token).await;
        diff.expect(if may_pull { 200 } else { 403 });
        server.post("/upload/init", &token, init.clone()).await.expect(if may_push { 201 } else { 403 });
        server.post("/promote", &token, promote.clone()).await.expect(if may_promote { 200 } else { 403 });
        let change = server.call(Method::PATCH, app, &token, Some(json!({ "description": "x" }))).await;
        change.expect(if may_admin { 200 } else { 403 });
        let delete = server.call(Method::DELETE, &format!("{app}/versions/none"), &token, None).await;
        delete.expect(if may_admin { 404 } else { 403 });
        // What is beyond the scope is not even visible.
        server.get("/tokens", &token).await.refused(403, "forbidden");
        server.post("/projects", &token, json!({ "name": "mine" })).await.refused(403, "forbidden");
    }
}

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

async fn a_revoked_token_fails_on_the_next_request(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let made = json!({ "name": "ci", "permissions": ["view"], "scopes": [{}] });
    let made = server.post("/tokens", &server.admin, made).await.expect(201).json();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    // In every cache there is.
    for _ in 0..3 {
        server.get("/projects", token).await.expect(200);
    }
    let path = format!("/tokens/{id}");
    let revoked = server.call(Method::DELETE, &path, &server.admin, None).await.expect(200).json();
    assert!(revoked["revoked_at"].is_string());
    server.get("/projects", token).await.refused(401, "unauthenticated");
    server.get("/manifest/a/b/c", token).await.refused(401, "unauthenticated");
    // Revoking again changes nothing, and what never was is not there.
    let again = server.call(Method::DELETE, &path, &server.admin, None).await.expect(200).json();
    assert_eq!(again["revoked_at"], revoked["revoked_at"]);
    let none = server.call(Method::DELETE, "/tokens/0000000000000000", &server.admin, None).await;
    none.refused(404, "not_found");
    let listed = server.get("/tokens", &server.admin).await.expect(200).text();
    assert!(listed.contains(id) && !listed.contains(token), "lists never show secrets");
}

async fn a_token_ends_when_it_should(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let end = server.clock.now() + TimeDelta::minutes(10);
    let made = json!({ "name": "ci", "permissions": ["view"], "scopes": [{}], "expires_at": end });
    let made = server.post("/tokens", &server.admin, made).await.expect(201).json();
    let token = made["token"].as_str().unwrap();
    server.get("/projects", token).await.expect(200);
    server.clock.advance(TimeDelta::minutes(10) - TimeDelta::seconds(1));
    server.get("/projects", token).await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/projects", token).await.refused(401, "unauthenticated");
}

async fn a_right_id_with_a_wrong_secret_is_refused(db: TestDatabase) {
    use kkartifact_model::token::TokenText;
    let server = TestServer::start(db).await;
    let key = server.resources().auth.key().clone();
    let real = TokenText::parse(&server.admin, &key).unwrap();
    server.get("/whoami", &server.admin).await.expect(200);
    // Even with a check part that is right: the secret itself is compared.
    let other = TokenText::from_random([9; 10], [9; 20]).reveal(&key);
    let forged = format!("kka_{}_{}", real.id(), other.split('_').nth(2).unwrap());
    server.get("/whoami", &forged).await.refused(401, "unauthenticated");
    server.get("/whoami", &other).await.refused(401, "unauthenticated");
}

async fn secrets_are_stored_hashed_and_never_logged(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = server.admin.split('_').nth(2).unwrap().to_owned();
    let mut tx = server.resources().db.read().await.unwrap();
    let id = server.admin.split('_').nth(1).unwrap().parse().unwrap();
    let row = tx.find_token(&id).await.unwrap().unwrap();
    assert!(row.secret_hash.starts_with("$2") && !row.secret_hash.contains(&secret));
    let audit = format!("{:?}", tx.latest_audit(100).await.unwrap());
    assert!(audit.contains("bootstrap") && !audit.contains(&secret));
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

async fn an_update_cannot_set_what_it_does_not_name(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    for body in [
        json!({ "is_admin": true }),
        json!({ "state": "deleted" }),
        json!({ "name": "else" }),
        json!({ "project": "other" }),
        json!({ "id": 7 }),
    ] {
        for path in ["/projects/shop", "/projects/shop/apps/web"] {
            let answer = server.call(Method::PATCH, path, &server.admin, Some(body.clone())).await;
            answer.refused(400, "invalid_request");
        }
    }
}

async fn who_may_create_by_pushing_is_a_setting(db: TestDatabase) {
    use kkartifact_service::config::CreateOnPush;
    let mut server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let of_app = server.token(&["push"], "shop/web").await;
    let of_project = server.token(&["push"], "shop").await;
    let everywhere = server.token(&["push"], "").await;
    let init = |project: &str, app: &str| json!({ "project": project, "app": app, "version": "v1" });
    server.post("/upload/init", &of_app, init("shop", "new1")).await.refused(404, "not_found");
    server.post("/upload/init", &of_project, init("shop", "new1")).await.expect(201);
    server.post("/upload/init", &of_project, init("new", "app")).await.refused(404, "not_found");
    server.post("/upload/init", &everywhere, init("new", "app")).await.expect(201);
    server.restart_with(|config| config.upload.create_on_push = CreateOnPush::Admin).await;
    server.post("/upload/init", &everywhere, init("shop", "new2")).await.refused(404, "not_found");
    server.post("/upload/init", &server.admin, init("shop", "new2")).await.expect(201);
    server.restart_with(|config| config.upload.create_on_push = CreateOnPush::Never).await;
    server.post("/upload/init", &server.admin, init("shop", "new3")).await.refused(404, "not_found");
    server.post("/upload/init", &server.admin, init("shop", "web")).await.expect(201);
}

async fn every_route_states_what_it_needs_and_bodies_cannot_skip_it(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let viewer = server.token(&["view"], "shop/web").await;
    // Routes whose object is in the body are refused for what the body names.
    let body = json!({ "project": "shop", "app": "web", "version": "v1" });
    for route in RouteTable::get().unwrap().routes() {
        if matches!(route.access, Access::Needs(_, Scope::Body)) {
            let path = route.path.replace("/api/v1", "");
            let mut body = body.clone();
            if path == "/rollback" {
                body.as_object_mut().unwrap().remove("version");
            }
            server.call(route.method.clone(), &path, &viewer, Some(body)).await.refused(403, "forbidden");
        }
    }
}

on_both_databases! {
    nothing_is_open_without_a_token_but_health_metrics_and_the_one_time_secret,
    the_one_time_secret_works_once,
    no_default_password_a_wrong_one_time_secret_gets_nothing,
    a_token_cannot_be_minted_without_being_admin_where_it_reaches,
    permissions_are_checked_on_every_kind_of_route,
    a_token_of_another_app_never_learns_or_gets_anything,
    a_revoked_token_fails_on_the_next_request,
    a_token_ends_when_it_should,
    a_right_id_with_a_wrong_secret_is_refused,
    secrets_are_stored_hashed_and_never_logged,
    names_in_the_path_are_parsed_once_and_slashes_do_not_get_through,
    a_child_is_looked_up_under_its_parent_only,
    an_update_cannot_set_what_it_does_not_name,
    who_may_create_by_pushing_is_a_setting,
    every_route_states_what_it_needs_and_bodies_cannot_skip_it,
}
