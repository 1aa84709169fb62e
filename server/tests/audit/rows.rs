//! Whatever changes something leaves one row, which says who, what and from where, and no secret.

use kkartifact_service::bootstrap;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{left_one_row, nowhere_in_the_log, place, rows};

/// The first admin, as rows name them.
const ADMIN: &str = "token first-admin";

/// Does something as the first admin, which must leave a row about `at`.
async fn deed(
    server: &TestServer,
    (method, path, body): (Method, &str, Value),
    action: &str,
    at: &str,
) -> Answer {
    let body = Some(body).filter(|body| !body.is_null());
    let answer = server.call(method, path, &server.admin, body).await;
    assert!(answer.status.is_success(), "{action}: {}", answer.text());
    let row = left_one_row(server, &answer, action, ADMIN).await;
    assert_eq!(place(&row), at, "{row}");
    answer
}

/// Pushes a version as an agent does that says where it runs; the answer to `finish`.
async fn push(server: &TestServer, version: &str) -> Answer {
    let agent = json!({ "id": "agent-7", "host": "build-1" });
    let init = json!({ "project": "shop", "app": "web", "version": version, "agent": agent });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let path = format!("/file/shop/web/{version}?path=a");
    let put = server.request(Method::PUT, &path, &server.admin).body(version.to_owned());
    server.send(put).await.expect(200);
    server
        .post("/upload/finish", &server.admin, json!({ "upload_id": opened["upload_id"] }))
        .await
        .expect(201)
}

async fn each_deed_in_a_project_leaves_one_row(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let (shop, web) = ("/projects/shop", "/projects/shop/apps/web");
    let about = json!({ "description": "about" });
    deed(&server, (post.clone(), "/projects", json!({ "name": "shop" })), "project.create", "shop").await;
    deed(&server, (patch.clone(), shop, about.clone()), "project.update", "shop").await;
    let apps = format!("{shop}/apps");
    deed(&server, (post.clone(), &apps, json!({ "name": "web" })), "app.create", "shop/web").await;
    deed(&server, (patch, web, about), "app.update", "shop/web").await;

    for version in ["v1", "v2"] {
        let row = left_one_row(&server, &push(&server, version).await, "version.publish", ADMIN).await;
        assert_eq!(place(&row), format!("shop/web/{version}"));
        assert_eq!((&row["agent_id"], &row["host"]), (&json!("agent-7"), &json!("build-1")));
        let promote = json!({ "project": "shop", "app": "web", "version": version });
        deed(&server, (post.clone(), "/promote", promote), "channel.promote", &place(&row)).await;
    }
    let rollback = json!({ "project": "shop", "app": "web" });
    deed(&server, (post.clone(), "/rollback", rollback), "channel.rollback", "shop/web/v1").await;

    for (rollback, action) in [(false, "version.pull"), (true, "version.rollback-on-host")] {
        let report = json!({
            "agent": { "id": "agent-8", "host": "web-3" }, "target": "/srv/web", "bytes_received": 2,
            "duration_ms": 1, "rollback": rollback,
        });
        let pulls = format!("{web}/versions/v1/pulls");
        let answer = deed(&server, (post.clone(), &pulls, report), action, "shop/web/v1").await;
        let row = left_one_row(&server, &answer, action, ADMIN).await;
        assert_eq!((&row["agent_id"], &row["host"]), (&json!("agent-8"), &json!("web-3")));
    }
    let v2 = format!("{web}/versions/v2");
    deed(&server, (delete.clone(), &v2, Value::Null), "version.delete", "shop/web/v2").await;
    for (what, action) in [("restore", "version.restore"), ("archive", "version.archive")] {
        let place = format!("{v2}/{what}");
        deed(&server, (post.clone(), &place, Value::Null), action, "shop/web/v2").await;
    }
    let init = json!({ "project": "shop", "app": "web", "version": "v3" });
    let opened = server.post("/upload/init", &server.admin, init).await.expect(201).json();
    let upload = format!("/upload/{}", opened["upload_id"].as_str().unwrap());
    deed(&server, (delete.clone(), &upload, Value::Null), "upload.close", "shop/web/v3").await;

    deed(&server, (delete.clone(), web, Value::Null), "app.delete", "shop/web").await;
    deed(&server, (delete, shop, Value::Null), "project.delete", "shop").await;
    nowhere_in_the_log(&server, std::slice::from_ref(&server.admin)).await;
}

async fn each_deed_with_tokens_roles_and_keys_leaves_one_row(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (post, delete) = (Method::POST, Method::DELETE);
    server.make_app("shop", "web").await;
    let mut secrets = vec![server.admin.clone()];

    let new = json!({ "name": "ci", "permissions": ["push"], "scopes": [{}] });
    let made = deed(&server, (post.clone(), "/tokens", new), "token.create", "").await.json();
    secrets.push(made["token"].as_str().unwrap().to_owned());
    let path = format!("/tokens/{}", made["id"].as_str().unwrap());
    deed(&server, (delete.clone(), &path, Value::Null), "token.revoke", "").await;

    let new = json!({ "name": "deployer" });
    let made =
        deed(&server, (post.clone(), "/service-accounts", new), "service_account.create", "").await.json();
    let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());
    let ask = server.request(Method::POST, "/oauth/token", "").basic_auth(id, Some(secret));
    let given = server.send(ask.form(&[("grant_type", "client_credentials")])).await.expect(200).json();
    secrets.extend([secret.to_owned(), given["access_token"].as_str().unwrap().to_owned()]);
    for (scope, at) in [(json!({}), ""), (json!({ "project": "shop", "app": "web" }), "shop/web")] {
        let role = json!({ "subject": { "service_account": id }, "permissions": ["pull"], "scope": scope });
        let made =
            deed(&server, (post.clone(), "/role-bindings", role), "role_binding.create", at).await.json();
        let path = format!("/role-bindings/{}", made["id"]);
        deed(&server, (delete.clone(), &path, Value::Null), "role_binding.delete", at).await;
    }
    let (path, rotate) = (format!("/service-accounts/{id}"), format!("/service-accounts/{id}/secret"));
    let made = deed(&server, (post.clone(), &rotate, json!({})), "service_account.rotate", "").await.json();
    secrets.push(made["client_secret"].as_str().unwrap().to_owned());
    let disable = (Method::PATCH, path.as_str(), json!({ "disabled": true }));
    deed(&server, disable, "service_account.update", "").await;

    let policy = json!({
        "name": "github", "issuer": "https://token.actions.githubusercontent.com", "audience": "kkartifact",
        "claims": { "repository": "acme/shop" }, "permissions": ["push"], "scopes": [{ "project": "shop" }],
    });
    deed(&server, (post.clone(), "/trust-policies", policy), "trust_policy.create", "").await;
    let disable = (Method::PATCH, "/trust-policies/github", json!({ "disabled": true }));
    deed(&server, disable, "trust_policy.update", "").await;

    let old = deed(&server, (post.clone(), "/keys/rotate", Value::Null), "key.rotate", "").await.json();
    deed(&server, (post, "/keys/rotate", Value::Null), "key.rotate", "").await;
    let path = format!("/keys/{}", old["id"].as_str().unwrap());
    deed(&server, (delete, &path, Value::Null), "key.revoke", "").await;
    nowhere_in_the_log(&server, &secrets).await;
}

async fn the_one_time_secret_leaves_a_row_when_it_is_made_and_when_it_is_spent(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = bootstrap::again(server.resources()).await.unwrap();
    let made = rows(&server, "action=bootstrap.secret").await;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!((&made[0]["actor_kind"], &made[0]["address"]), (&json!("system"), &Value::Null));
    let spent = server.post("/bootstrap", "", json!({ "secret": secret, "token_name": "second" })).await;
    left_one_row(&server, &spent, "bootstrap", "token second").await;
    let token = spent.expect(201).json()["token"].as_str().unwrap().to_owned();

    let secret = bootstrap::again(server.resources()).await.unwrap();
    let password = "correct horse battery";
    let body = json!({ "secret": secret, "login": "ada", "password": password });
    left_one_row(&server, &server.post("/bootstrap", "", body).await, "bootstrap", "user ada").await;
    nowhere_in_the_log(&server, &[secret, token, password.into()]).await;
}

on_both_databases! {
    each_deed_in_a_project_leaves_one_row,
    each_deed_with_tokens_roles_and_keys_leaves_one_row,
    the_one_time_secret_leaves_a_row_when_it_is_made_and_when_it_is_spent,
}
