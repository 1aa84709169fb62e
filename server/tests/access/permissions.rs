//! What each permission opens, and no more.

use kkartifact_model::Permission;
use kkartifact_service::RouteTable;
use kkartifact_service::routes::{Access, Scope};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

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
        let archive = server.get("/archive/shop/web/v1?format=tar.gz", &token).await;
        archive.expect(if may_pull { 200 } else { 403 });
        let remark = Some(json!({ "notes": "x" }));
        let noted = server.call(Method::PATCH, &format!("{app}/versions/v1"), &token, remark).await;
        noted.expect(if may_push { 200 } else { 403 });
        let hold = Some(json!({ "legal_hold": true }));
        let answer = server.call(Method::PATCH, &format!("{app}/versions/v1"), &token, hold).await;
        answer.expect(if may_admin { 200 } else { 403 });
        let delete = server.call(Method::DELETE, &format!("{app}/versions/none"), &token, None).await;
        delete.expect(if may_admin { 404 } else { 403 });
        // What is beyond the scope is not even visible.
        server.get("/users", &token).await.refused(403, "forbidden");
        server.post("/projects", &token, json!({ "name": "mine" })).await.refused(403, "forbidden");
        let tokens = server.get("/tokens", &token).await.expect(200).text();
        assert!(tokens.contains(id_of(&token)) && !tokens.contains(id_of(&server.admin)), "{tokens}");
    }
}

/// The public part of a token.
fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
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
    let app = json!({ "project": "shop", "app": "web" });
    let version = json!({ "project": "shop", "app": "web", "version": "v1" });
    let binding = json!({ "subject": { "group": "x" }, "permissions": ["view"], "scope": app });
    let url = "https://hooks.example.com/x";
    let webhook = json!({ "name": "x", "url": url, "events": ["push"], "scope": app });
    for route in RouteTable::get().unwrap().routes() {
        if matches!(route.access, Access::Needs(_, Scope::Body)) {
            let path = route.path.replace("/api/v1", "");
            let body = match path.as_str() {
                "/role-bindings" => &binding,
                "/webhooks" => &webhook,
                "/rollback" => &app,
                _ => &version,
            };
            let answer = server.call(route.method.clone(), &path, &viewer, Some(body.clone())).await;
            answer.refused(403, "forbidden");
        }
    }
}

/// Every route of the table whose object is in the path, with every permission: admitted or refused as the table
/// says, whatever the handler then makes of it.
async fn every_route_wants_just_the_permission_that_the_table_names(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    let mut routes: Vec<_> = RouteTable::get().unwrap().routes().iter().collect();
    // What takes away what others need comes last, and the innermost of it first.
    routes.sort_by_key(|route| (route.method == Method::DELETE, usize::MAX - route.path.len()));
    for name in ["view", "pull", "push", "promote", "admin"] {
        let token = server.token(&[name], "shop").await;
        let permission: Permission = name.parse().unwrap();
        for route in &routes {
            let (wanted, scope) = match route.access {
                Access::Needs(wanted, scope) if scope != Scope::Body => (wanted, scope),
                _ => continue,
            };
            let allowed = scope == Scope::Path
                && (wanted == permission || wanted == Permission::View || permission == Permission::Admin);
            let names =
                [("{project}", "shop"), ("{app}", "web"), ("{version}", "v1"), ("{channel}", "stable")];
            let path = names
                .iter()
                .fold(route.path.replace("/api/v1", ""), |path, (name, value)| path.replace(name, value));
            // The body is not waited for: a stream of events has no end.
            let response = server.request(route.method.clone(), &path, &token).send().await.unwrap();
            let status = response.status().as_u16();
            assert_eq!(status == 403, !allowed, "{} with {name}: {status}", route.name);
            assert!(status < 500 && status != 401, "{} with {name}: {status}", route.name);
        }
    }
}

on_both_databases! {
    every_route_wants_just_the_permission_that_the_table_names,
    permissions_are_checked_on_every_kind_of_route,
    an_update_cannot_set_what_it_does_not_name,
    who_may_create_by_pushing_is_a_setting,
    every_route_states_what_it_needs_and_bodies_cannot_skip_it,
}
