//! What can't be written down is not done.

use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::is_sqlite;

/// The database refuses every row of the log.
async fn refuse_rows(server: &TestServer) {
    let trigger = if is_sqlite(server) {
        "CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'refused'); END"
    } else {
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse()"
    };
    server.execute(trigger).await;
}

async fn take_rows_again(server: &TestServer) {
    let sql = if is_sqlite(server) { "DROP TRIGGER refuse" } else { "DROP TRIGGER refuse ON audit" };
    server.execute(sql).await;
}

/// Tries something as the first admin that must fail, and not because of who asks.
async fn fails(server: &TestServer, method: Method, path: &str, body: Value) {
    let body = Some(body).filter(|body| !body.is_null());
    let answer = server.call(method, path, &server.admin, body).await;
    assert_eq!(answer.status, 500, "{path}: {}", answer.text());
    answer.refused(500, "internal");
}

async fn total(server: &TestServer, list: &str) -> Value {
    server.get(list, &server.admin).await.expect(200).json()["total"].clone()
}

async fn log_in(server: &TestServer) -> Answer {
    let login = json!({ "login": "ada", "password": "correct horse battery", "cookie": false });
    server.post("/login", "", login).await
}

async fn a_change_whose_row_cannot_be_written_is_not_made(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"x")]).await.expect(201);
    let new = json!({ "name": "ci", "permissions": ["view"], "scopes": [{}] });
    let made = server.post("/tokens", &server.admin, new.clone()).await.expect(201).json();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    let ada = json!({ "login": "ada", "role": "readonly", "password": "correct horse battery" });
    server.post("/users", &server.admin, ada).await.expect(201);
    log_in(&server).await.expect(200);
    let lists =
        ["/projects", "/tokens", "/users", "/sessions?user=ada", "/service-accounts", "/role-bindings"];
    let mut before = Vec::new();
    for list in lists {
        before.push(total(&server, list).await);
    }

    refuse_rows(&server).await;
    let bob = json!({ "login": "bob", "role": "admin", "password": "correct horse battery" });
    let role = json!({ "subject": { "user": "ada" }, "permissions": ["admin"], "scope": {} });
    let promote = json!({ "project": "shop", "app": "web", "version": "v1" });
    for (path, body) in [
        ("/projects", json!({ "name": "new" })),
        ("/projects/shop/apps", json!({ "name": "new" })),
        ("/tokens", new),
        ("/users", bob.clone()),
        ("/users/ada/password", Value::Null),
        ("/service-accounts", json!({ "name": "deployer" })),
        ("/role-bindings", role),
        ("/promote", promote),
    ] {
        fails(&server, post.clone(), path, body).await;
    }
    fails(&server, patch.clone(), "/users/ada", json!({ "disabled": true })).await;
    fails(&server, patch, "/projects/shop", json!({ "archived": true })).await;
    for path in [format!("/tokens/{id}").as_str(), "/projects/shop", "/projects/shop/apps/web/versions/v1"] {
        fails(&server, delete.clone(), path, Value::Null).await;
    }
    log_in(&server).await.refused(500, "internal");
    take_rows_again(&server).await;

    for (list, before) in lists.into_iter().zip(before) {
        assert_eq!(total(&server, list).await, before, "{list}");
    }
    server.get("/projects/shop", token).await.expect(200);
    assert_eq!(server.get("/projects/shop", token).await.json()["state"], "active");
    server.get("/users/bob", &server.admin).await.refused(404, "not_found");
    server.get("/file/shop/web/v1?path=a", &server.admin).await.expect(200);
    server.get("/file/shop/web/@stable?path=a", &server.admin).await.refused(404, "not_found");
    // The old password is still the password, and no name is taken.
    log_in(&server).await.expect(200);
    server.post("/projects", &server.admin, json!({ "name": "new" })).await.expect(201);
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "new" })).await.expect(201);
    server.post("/users", &server.admin, bob).await.expect(201);
}

async fn nothing_is_published_without_its_row(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    let init = json!({ "project": "shop", "app": "web", "version": "v1" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let put = server.request(Method::PUT, "/file/shop/web/v1?path=a", &server.admin).body("content");
    server.send(put).await.expect(200);
    let finish = json!({ "upload_id": opened["upload_id"] });
    refuse_rows(&server).await;
    fails(&server, Method::POST, "/upload/finish", finish.clone()).await;
    server.get("/manifest/shop/web/v1", &server.admin).await.refused(404, "not_found");
    take_rows_again(&server).await;
    server.post("/upload/finish", &server.admin, finish).await.expect(201);
}

on_both_databases! {
    a_change_whose_row_cannot_be_written_is_not_made,
    nothing_is_published_without_its_row,
}
