//! Tokens and the one-time secret.

use chrono::TimeDelta;
use kkartifact_model::token::TokenText;
use kkartifact_service::RouteTable;
use kkartifact_service::routes::Access;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

/// What paths have places for.
const PARAMETERS: [&str; 16] = [
    "project", "app", "version", "upload", "token", "channel", "session", "user", "client", "policy",
    "binding", "key", "webhook", "delivery", "job", "schedule",
];

async fn nothing_is_open_without_a_token_but_health_metrics_and_the_one_time_secret(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    for route in RouteTable::get().unwrap().routes() {
        let path = route.path.replace("/api/v1", "");
        let path = PARAMETERS.iter().fold(path, |path, name| path.replace(&format!("{{{name}}}"), "x"));
        assert!(!path.contains('{'), "{path} has a place that this test doesn't fill");
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
    let secret = kkartifact_service::bootstrap::again(server.resources()).await.unwrap();
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
    let server = TestServer::start(db).await;
    let key = server.resources().auth.check_key().clone();
    let right = server.token(&["view"], "").await;
    let id = TokenText::parse(&right, &key).unwrap().id().clone();
    // The check part is right, as only the server itself could make it: the secret is what is wrong.
    let wrong = TokenText::with_secret(&id, [3; 20]).reveal(&key);
    assert_ne!(wrong, right);
    server.get("/whoami", &wrong).await.refused(401, "unauthenticated");
    // Also when the right one is remembered, before and after.
    server.get("/whoami", &right).await.expect(200);
    server.get("/whoami", &wrong).await.refused(401, "unauthenticated");
    server.get("/whoami", &right).await.expect(200);
}

async fn an_unknown_token_is_not_compared_with_the_known_ones(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let key = server.resources().auth.check_key().clone();
    for _ in 0..20 {
        server.token(&["view"], "").await;
    }
    let known = server.token(&["view"], "").await;
    let id = TokenText::parse(&known, &key).unwrap().id().clone();
    let checks = || server.resources().auth.secret_checks();
    let before = checks();
    // Garbage and an unknown id cost no bcrypt at all.
    let unknown = TokenText::from_random([9; 10], [9; 20]).reveal(&key);
    for token in ["kka_nonsense", &unknown] {
        server.get("/whoami", token).await.refused(401, "unauthenticated");
        assert_eq!(checks(), before, "{token}");
    }
    // A wrong secret costs one, the right one costs one and is remembered.
    let wrong = TokenText::with_secret(&id, [3; 20]).reveal(&key);
    server.get("/whoami", &wrong).await.refused(401, "unauthenticated");
    assert_eq!(checks(), before + 1);
    for _ in 0..3 {
        server.get("/whoami", &known).await.expect(200);
    }
    assert_eq!(checks(), before + 2);
}

async fn secrets_are_stored_hashed(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = server.admin.split('_').nth(2).unwrap().to_owned();
    let mut tx = server.resources().db.read().await.unwrap();
    let id = server.admin.split('_').nth(1).unwrap().parse().unwrap();
    let row = tx.find_token(&id).await.unwrap().unwrap();
    assert!(row.secret_hash.starts_with("$2") && !row.secret_hash.contains(&secret));
    let audit = format!("{:?}", tx.latest_audit(100).await.unwrap());
    assert!(audit.contains("bootstrap") && !audit.contains(&secret));
}

on_both_databases! {
    nothing_is_open_without_a_token_but_health_metrics_and_the_one_time_secret,
    the_one_time_secret_works_once,
    no_default_password_a_wrong_one_time_secret_gets_nothing,
    a_token_cannot_be_minted_without_being_admin_where_it_reaches,
    a_revoked_token_fails_on_the_next_request,
    a_token_ends_when_it_should,
    a_right_id_with_a_wrong_secret_is_refused,
    an_unknown_token_is_not_compared_with_the_known_ones,
    secrets_are_stored_hashed,
}
