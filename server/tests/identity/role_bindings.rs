//! Role bindings: who gives roles where, and that nobody gives more than they have.

use chrono::TimeDelta;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    Robot, bind, change_person, done, id_of, init, log_in, make_person, promotion, script_token, shop,
};

async fn a_role_opens_what_it_names_until_it_is_taken_away(db: TestDatabase) {
    let server = shop(db).await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    make_person(&server, "ada", "none").await;
    let robot = Robot::make(&server, "robot").await;
    let ada = script_token(&server, "ada").await;
    let web = json!({ "project": "shop", "app": "web" });
    for (subject, token) in [
        (json!({ "user": "ada" }), ada),
        (json!({ "service_account": robot.id }), robot.token(&server).await),
    ] {
        server.get("/projects/shop/apps/web", &token).await.refused(404, "not_found");
        let pull = bind(&server, &subject, &["pull"], &web).await;
        let promote = bind(&server, &subject, &["promote"], &json!({ "project": "shop" })).await;
        server.get("/manifest/shop/web/v1", &token).await.expect(200);
        server.post("/promote", &token, promotion()).await.expect(200);
        // Roles add up where they overlap, and nowhere else.
        server.get("/projects/shop/apps/api", &token).await.expect(200);
        server.post("/upload/init", &token, init("shop", "web")).await.refused(403, "forbidden");
        server.get("/projects/other", &token).await.refused(404, "not_found");

        take_away(&server, &server.admin, promote).await;
        server.post("/promote", &token, promotion()).await.refused(403, "forbidden");
        server.get("/projects/shop/apps/api", &token).await.refused(404, "not_found");
        server.get("/manifest/shop/web/v1", &token).await.expect(200);
        take_away(&server, &server.admin, pull).await;
        server.get("/manifest/shop/web/v1", &token).await.refused(404, "not_found");
        server.get("/projects/shop", &token).await.refused(404, "not_found");
    }
}

async fn a_projects_admin_gives_roles_there_and_nowhere_else(db: TestDatabase) {
    let server = shop(db).await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    make_person(&server, "ada", "none").await;
    let of_shop = Robot::with_role(&server, &["admin"], &json!({ "project": "shop" })).await;
    let of_web = Robot::with_role(&server, &["admin"], &json!({ "project": "shop", "app": "web" })).await;
    let (of_shop, of_web) = (of_shop.token(&server).await, of_web.token(&server).await);
    for (scope, by_shop, by_web) in [
        (json!({ "project": "shop", "app": "web" }), 201, 201),
        (json!({ "project": "shop", "app": "api" }), 201, 404),
        (json!({ "project": "shop" }), 201, 403),
        (json!({ "project": "shop", "app": "nix" }), 404, 404),
        (json!({ "project": "other" }), 404, 404),
        (json!({ "project": "other", "app": "app" }), 404, 404),
        (json!({ "project": "nix" }), 404, 404),
        (json!({}), 403, 403),
    ] {
        for (token, status) in [(&of_shop, by_shop), (&of_web, by_web)] {
            for subject in [json!({ "user": "ada" }), json!({ "group": "release-team" })] {
                let answer = give(&server, token, &subject, &["admin"], &scope).await;
                assert_eq!(answer.status, status, "{scope} to {subject}: {}", answer.text());
            }
        }
    }
    for subject in [
        json!({ "user": "nobody" }),
        json!({ "service_account": "sa_nobody_00000000" }),
        json!({ "trust_policy": "nothing" }),
    ] {
        let answer = give(&server, &of_shop, &subject, &["view"], &json!({ "project": "shop" })).await;
        answer.refused(404, "not_found");
    }
}

async fn who_is_not_admin_there_gives_nothing_also_not_to_themselves(db: TestDatabase) {
    let server = shop(db).await;
    let scope = json!({ "project": "shop" });
    let most = ["view", "pull", "push", "promote"];
    let robot = Robot::with_role(&server, &most, &scope).await;
    let token = robot.token(&server).await;
    let myself = json!({ "service_account": robot.id });
    let wishes: [&[&str]; 3] = [&["admin"], &["view"], &most];
    for permissions in wishes {
        give(&server, &token, &myself, permissions, &scope).await.refused(403, "forbidden");
    }
    // An admin whose token is narrowed is none for as long as they use it.
    let admin = Robot::with_role(&server, &["admin"], &scope).await;
    let narrow = admin.narrowed(&server, "pull push").await;
    give(&server, &narrow, &myself, &["pull"], &scope).await.refused(403, "forbidden");
    give(&server, &admin.token(&server).await, &myself, &["pull"], &scope).await.expect(201);
    // Who is admin no longer gives nothing any more.
    make_person(&server, "ada", "admin").await;
    let ada = script_token(&server, "ada").await;
    change_person(&server, "ada", json!({ "role": "readonly" })).await.expect(200);
    let herself = json!({ "user": "ada" });
    give(&server, &ada, &herself, &["admin"], &json!({})).await.refused(403, "forbidden");
}

async fn a_list_of_roles_shows_and_ends_only_what_one_administers(db: TestDatabase) {
    let server = shop(db).await;
    make_person(&server, "ada", "none").await;
    let subject = json!({ "user": "ada" });
    let all = bind(&server, &subject, &["view"], &json!({})).await;
    let shops = bind(&server, &subject, &["pull"], &json!({ "project": "shop" })).await;
    let webs = bind(&server, &subject, &["pull"], &json!({ "project": "shop", "app": "web" })).await;
    let others = bind(&server, &subject, &["pull"], &json!({ "project": "other" })).await;
    let of_shop = server.token(&["admin"], "shop").await;
    let of_web = server.token(&["admin"], "shop/web").await;
    let pusher = server.token(&["push"], "shop").await;
    let ada = log_in(&server, "ada").await;
    assert_eq!(listed(&server, &of_shop).await, [shops, webs]);
    assert_eq!(listed(&server, &of_web).await, [webs]);
    assert_eq!(listed(&server, &server.admin).await, [all, shops, webs, others]);
    assert!(listed(&server, &pusher).await.is_empty());
    let hers = ada.get(&server, "/role-bindings").await.expect(200).json();
    assert_eq!(hers["total"], 0, "{hers}");

    for (token, binding) in
        [(&of_shop, all), (&of_shop, others), (&of_web, shops), (&pusher, shops), (&of_shop, 1 << 40)]
    {
        delete(&server, token, binding).await.refused(404, "not_found");
    }
    let path = format!("/role-bindings/{webs}");
    ada.call(&server, Method::DELETE, &path, None).await.refused(404, "not_found");
    assert_eq!(listed(&server, &server.admin).await, [all, shops, webs, others]);
    take_away(&server, &of_web, webs).await;
    take_away(&server, &of_shop, shops).await;
    assert_eq!(listed(&server, &server.admin).await, [all, others]);
    delete(&server, &server.admin, webs).await.refused(404, "not_found");
}

/// What a token may is fixed when it is made: else the token's list would say one thing and the bindings another.
/// Else an admin of one project could fill up what is read of a group, and switch off its other roles.
async fn a_subject_has_one_binding_in_a_scope_however_often_it_is_given(db: TestDatabase) {
    let server = shop(db).await;
    let (group, scope) = (json!({ "group": "release-team" }), json!({ "project": "shop" }));
    let first = bind(&server, &group, &["pull"], &scope).await;
    for _ in 0..3 {
        assert_eq!(bind(&server, &group, &["push"], &scope).await, first);
    }
    let all = server.get("/role-bindings", &server.admin).await.expect(200).json();
    assert_eq!(all["total"], 1, "{all}");
    assert_eq!(all["items"][0]["permissions"], json!(["view", "pull", "push"]));
    assert_ne!(bind(&server, &group, &["push"], &json!({ "project": "shop", "app": "web" })).await, first);
}

async fn what_a_token_may_is_not_changed_by_bindings(db: TestDatabase) {
    let server = shop(db).await;
    let token = server.token(&["view"], "shop").await;
    for id in 1..=20 {
        delete(&server, &server.admin, id).await.refused(404, "not_found");
    }
    server.get("/projects/shop", &token).await.expect(200);
    server.get("/users", &server.admin).await.expect(200);
    let id = id_of(&token);
    for subject in [json!({ "token": id }), json!({ "user": id }), json!({ "service_account": id })] {
        let answer = give(&server, &server.admin, &subject, &["admin"], &json!({})).await;
        assert!(answer.status.is_client_error(), "{subject}: {}", answer.text());
    }
    server.get("/users", &token).await.refused(403, "forbidden");
}

async fn a_role_names_one_subject_and_a_scope_that_is_there(db: TestDatabase) {
    let server = shop(db).await;
    make_person(&server, "ada", "none").await;
    let good = json!({ "subject": { "user": "ada" }, "permissions": ["view"], "scope": {} });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for bad in [
        with("permissions", json!([])),
        with("permissions", json!(["root"])),
        with("permissions", json!("admin")),
        with("subject", json!({})),
        with("subject", json!("ada")),
        with("subject", json!({ "user": "ada", "group": "staff" })),
        with("subject", json!({ "group": "" })),
        with("subject", json!({ "group": "x".repeat(1000) })),
        with("subject", json!({ "principal": 1 })),
        with("scope", json!({ "app": "web" })),
        with("scope", json!({ "project": "shop", "version": "v1" })),
        with("scope", json!({ "project": "../shop" })),
        with("expires_at", json!(server.clock.now() + TimeDelta::days(1))),
        with("id", json!(1)),
    ] {
        let answer = server.post("/role-bindings", &server.admin, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert!(listed(&server, &server.admin).await.is_empty());
    server.post("/role-bindings", &server.admin, good).await.expect(201);
}

async fn give(server: &TestServer, by: &str, subject: &Value, permissions: &[&str], scope: &Value) -> Answer {
    let body = json!({ "subject": subject, "permissions": permissions, "scope": scope });
    server.post("/role-bindings", by, body).await
}

async fn delete(server: &TestServer, by: &str, binding: i64) -> Answer {
    server.call(Method::DELETE, &format!("/role-bindings/{binding}"), by, None).await
}

async fn take_away(server: &TestServer, by: &str, binding: i64) {
    done(delete(server, by, binding).await);
}

/// The ids of the bindings that somebody sees, in order.
async fn listed(server: &TestServer, by: &str) -> Vec<i64> {
    let page = server.get("/role-bindings", by).await.expect(200).json();
    let mut ids: Vec<_> =
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect();
    assert_eq!(page["total"], ids.len(), "{page}");
    ids.sort_unstable();
    ids
}

on_both_databases! {
    a_role_opens_what_it_names_until_it_is_taken_away,
    a_projects_admin_gives_roles_there_and_nowhere_else,
    who_is_not_admin_there_gives_nothing_also_not_to_themselves,
    a_list_of_roles_shows_and_ends_only_what_one_administers,
    a_subject_has_one_binding_in_a_scope_however_often_it_is_given,
    what_a_token_may_is_not_changed_by_bindings,
    a_role_names_one_subject_and_a_scope_that_is_there,
}
