//! API tokens: to whom they belong, how much they may, and what ends with them.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    Robot, Session, bind, change_person, done, everything, id_of, init, log_in, make_person, personal_token,
    promotion, shop, text,
};

async fn a_token_belongs_to_its_person_however_many_tokens_lie_between(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let personal = personal_token(&server, &ada, &["admin"], &json!({})).await.expect(201).json();
    let robot = everything(&server, &text(&personal["token"]), "robot").await.expect(201).json();
    let child = everything(&server, &text(&robot["token"]), "child").await.expect(201).json();
    let nobodys = everything(&server, &server.admin, "nobodys").await.expect(201).json();
    for (made, owner, maker, is_personal) in [
        (&personal, json!("ada"), "ada", true),
        (&robot, json!("ada"), "laptop", false),
        (&child, json!("ada"), "robot", false),
        (&nobodys, Value::Null, "first-admin", false),
    ] {
        assert_eq!((&made["owner"], &made["made_by"]), (&owner, &json!(maker)), "{made}");
        assert_eq!(made["personal"], is_personal, "{made}");
    }
    // What she loses, they lose; what hangs on nobody stays.
    change_person(&server, "ada", json!({ "role": "none" })).await.expect(200);
    for made in [&personal, &robot, &child] {
        server.get("/users", &text(&made["token"])).await.refused(403, "forbidden");
    }
    server.get("/users", &text(&nobodys["token"])).await.expect(200);
    change_person(&server, "ada", json!({ "disabled": true })).await.expect(200);
    for made in [&personal, &robot, &child] {
        server.get("/whoami", &text(&made["token"])).await.refused(401, "unauthenticated");
    }
    server.get("/users", &text(&nobodys["token"])).await.expect(200);
}

async fn a_personal_token_is_made_in_a_session_and_ends_in_time(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.auth.personal_token_days = 7).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let made = personal_token(&server, &ada, &["view"], &json!({})).await.expect(201).json();
    let latest = server.clock.now() + TimeDelta::days(7);
    assert_eq!(made["expires_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), latest, "{made}");
    let until = |end: DateTime<Utc>| {
        json!({
            "name": "mine", "permissions": ["view"], "scopes": [{}], "personal": true, "expires_at": end,
        })
    };
    for end in [latest, server.clock.now() + TimeDelta::seconds(1)] {
        mint(&server, &ada, until(end)).await.expect(201);
    }
    for end in [
        latest + TimeDelta::seconds(1),
        latest + TimeDelta::days(3650),
        server.clock.now(),
        DateTime::UNIX_EPOCH,
    ] {
        let answer = mint(&server, &ada, until(end)).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403), "{end}: {}", answer.text());
    }
    // Else a personal token could prolong itself for ever.
    let token = text(&made["token"]);
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    for maker in [&token, &server.admin, &robot.token(&server).await] {
        let soon = until(server.clock.now() + TimeDelta::seconds(1));
        server.post("/tokens", maker, soon).await.refused(403, "forbidden");
    }
    server.clock.advance(TimeDelta::days(7) - TimeDelta::seconds(1));
    server.get("/projects", &token).await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/projects", &token).await.refused(401, "unauthenticated");
}

async fn a_personal_token_gives_what_its_person_has_now_and_no_more(db: TestDatabase) {
    let server = shop(db).await;
    server.post("/projects/shop/apps", &server.admin, json!({ "name": "api" })).await.expect(201);
    make_person(&server, "ada", "none").await;
    let (subject, project) = (json!({ "user": "ada" }), json!({ "project": "shop" }));
    let web = json!({ "project": "shop", "app": "web" });
    let role = bind(&server, &subject, &["push"], &project).await;
    let ada = log_in(&server, "ada").await;
    let token = text(&personal_token(&server, &ada, &["push"], &project).await.expect(201).json()["token"]);
    let of_web = text(&personal_token(&server, &ada, &["push"], &web).await.expect(201).json()["token"]);
    for (permissions, scope, status) in [
        (["pull"], &project, 403),
        (["admin"], &web, 403),
        (["push"], &json!({}), 403),
        (["push"], &json!({ "project": "other" }), 404),
        (["push"], &json!({ "project": "nix" }), 404),
    ] {
        let answer = personal_token(&server, &ada, &permissions, scope).await;
        assert_eq!(answer.status, status, "{permissions:?} on {scope}: {}", answer.text());
    }
    server.push_files("shop/web", "v2", &token, &[("a", b"new")]).await.expect(201);
    server.post("/promote", &token, promotion()).await.refused(403, "forbidden");
    server.get("/projects/shop/apps/api", &of_web).await.refused(404, "not_found");

    // The role is made smaller: so are the tokens, and they don't grow beyond what they were made for.
    done(take_away(&server, role).await);
    for token in [&token, &of_web] {
        server.get("/projects/shop", token).await.refused(404, "not_found");
    }
    bind(&server, &subject, &["push", "promote"], &web).await;
    for token in [&token, &of_web] {
        server.get("/projects/shop/apps/web", token).await.expect(200);
        server.get("/projects/shop/apps/api", token).await.refused(404, "not_found");
        server.post("/promote", token, promotion()).await.refused(403, "forbidden");
    }
    change_person(&server, "ada", json!({ "role": "admin" })).await.expect(200);
    server.post("/promote", &token, promotion()).await.refused(403, "forbidden");
    server.get("/projects/other", &token).await.refused(404, "not_found");
    server.get("/projects/shop/apps/api", &of_web).await.refused(404, "not_found");
}

async fn revoking_what_a_leaked_token_made_ends_all_of_it_and_nothing_else(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let mut family = vec![server.token(&["admin"], "").await];
    for name in ["child", "grandchild", "great-grandchild"] {
        let made = everything(&server, family.last().unwrap(), name).await.expect(201).json();
        family.push(text(&made["token"]));
    }
    let sibling = text(&everything(&server, &family[1], "sibling").await.expect(201).json()["token"]);
    let stranger = server.token(&["admin"], "").await;
    let strangers = text(&everything(&server, &stranger, "stranger's").await.expect(201).json()["token"]);
    let others = [&stranger, &strangers, &server.admin];

    // One alone: what it made goes on.
    revoke(&server, &server.admin, &family[2], "").await.expect(200);
    server.get("/users", &family[2]).await.refused(401, "unauthenticated");
    for token in [&family[0], &family[1], &family[3], &sibling] {
        server.get("/users", token).await.expect(200);
    }
    // With all that it made, also through one that is revoked already.
    revoke(&server, &server.admin, &family[1], "?made=true").await.expect(200);
    for token in [&family[1], &family[2], &family[3], &sibling] {
        server.get("/users", token).await.refused(401, "unauthenticated");
    }
    for token in others.into_iter().chain([&family[0]]) {
        server.get("/users", token).await.expect(200);
    }
    // Also when the token itself was revoked before anybody thought of the rest.
    let late = text(&everything(&server, &family[0], "late").await.expect(201).json()["token"]);
    revoke(&server, &server.admin, &family[0], "").await.expect(200);
    revoke(&server, &server.admin, &family[0], "?made=true").await.expect(200);
    server.get("/users", &late).await.refused(401, "unauthenticated");
    for token in others {
        server.get("/users", token).await.expect(200);
    }
}

async fn a_list_of_tokens_shows_and_ends_only_ones_own_and_what_one_administers(db: TestDatabase) {
    let server = shop(db).await;
    let of_shop = server.token(&["admin"], "shop").await;
    let of_web = server.token(&["admin"], "shop/web").await;
    let (in_shop, in_web) =
        (server.token(&["push"], "shop").await, server.token(&["pull"], "shop/web").await);
    let (elsewhere, all) = (server.token(&["view"], "other").await, server.token(&["view"], "").await);
    let both = json!({
        "name": "both", "permissions": ["view"], "scopes": [{ "project": "shop" }, { "project": "other" }],
    });
    let both = text(&server.post("/tokens", &server.admin, both).await.expect(201).json()["token"]);
    for (who, sees) in [
        (&of_shop, vec![&of_shop, &of_web, &in_shop, &in_web]),
        (&of_web, vec![&of_web, &in_web]),
        (&in_shop, vec![&in_shop]),
        (&all, vec![&all]),
        (&server.admin, vec![&server.admin, &of_shop, &of_web, &in_shop, &in_web, &elsewhere, &all, &both]),
    ] {
        let mut expected: Vec<_> = sees.into_iter().map(|token| id_of(token).to_owned()).collect();
        expected.sort_unstable();
        assert_eq!(listed(&server, who).await, expected);
    }
    for hidden in [&elsewhere, &all, &both, &server.admin] {
        let real = revoke(&server, &of_shop, hidden, "?made=true").await;
        real.refused(404, "not_found");
        server.get("/whoami", hidden).await.expect(200);
    }
    revoke(&server, &of_web, &in_shop, "").await.refused(404, "not_found");
    revoke(&server, &in_shop, &in_web, "").await.refused(404, "not_found");
    revoke(&server, &of_web, &in_web, "").await.expect(200);
    revoke(&server, &of_shop, &of_web, "").await.expect(200);
    // One's own one may always end.
    revoke(&server, &in_shop, &in_shop, "").await.expect(200);
    for token in [&in_web, &of_web, &in_shop] {
        server.get("/whoami", token).await.refused(401, "unauthenticated");
    }
}

/// A person sees what hangs on them, whichever of their credentials made it.
async fn people_find_and_end_the_tokens_that_hang_on_them(db: TestDatabase) {
    let server = shop(db).await;
    for login in ["ada", "eve"] {
        make_person(&server, login, "readonly").await;
    }
    let (ada, eve) = (log_in(&server, "ada").await, log_in(&server, "eve").await);
    let hers = text(&personal_token(&server, &ada, &["view"], &json!({})).await.expect(201).json()["token"]);
    let eves = text(&personal_token(&server, &eve, &["view"], &json!({})).await.expect(201).json()["token"]);
    let shown = ada.get(&server, "/tokens").await.expect(200).json();
    assert_eq!((&shown["total"], &shown["items"][0]["id"]), (&json!(1), &json!(id_of(&hers))), "{shown}");
    assert!(!shown.to_string().contains(&hers), "{shown}");
    let path = |token: &str| format!("/tokens/{}", id_of(token));
    ada.call(&server, Method::DELETE, &path(&eves), None).await.refused(404, "not_found");
    server.get("/whoami", &eves).await.expect(200);
    ada.call(&server, Method::DELETE, &path(&hers), None).await.expect(200);
    server.get("/whoami", &hers).await.refused(401, "unauthenticated");
}

async fn nobody_makes_a_token_that_reaches_further_or_lasts_longer_than_they_do(db: TestDatabase) {
    let server = shop(db).await;
    let robot = Robot::with_role(&server, &["admin"], &json!({ "project": "shop" })).await;
    let (now, hour) = (server.clock.now(), TimeDelta::hours(1));
    let wish = |permissions: &[&str], scope: Value, end: Option<DateTime<Utc>>| {
        json!({
            "name": "x", "permissions": permissions, "scopes": [scope], "expires_at": end,
        })
    };
    let in_shop = || json!({ "project": "shop" });
    for scope in ["view", "pull push promote"] {
        let narrow = robot.narrowed(&server, scope).await;
        for permission in ["view", "admin"] {
            let body = wish(&[permission], in_shop(), Some(now + hour));
            server.post("/tokens", &narrow, body).await.refused(403, "forbidden");
        }
    }
    let token = robot.token(&server).await;
    for (scope, status) in [(in_shop(), 201), (json!({}), 403), (json!({ "project": "other" }), 404)] {
        let answer = server.post("/tokens", &token, wish(&["push"], scope.clone(), Some(now + hour))).await;
        assert_eq!(answer.status, status, "{scope}: {}", answer.text());
    }
    let brief = wish(&["admin"], in_shop(), Some(now + hour));
    let brief = text(&server.post("/tokens", &server.admin, brief).await.expect(201).json()["token"]);
    for maker in [&token, &brief] {
        for end in [None, Some(now + hour + TimeDelta::seconds(1)), Some(now + TimeDelta::days(1))] {
            let answer = server.post("/tokens", maker, wish(&["view"], in_shop(), end)).await;
            assert!(matches!(answer.status.as_u16(), 400 | 403), "{end:?}: {}", answer.text());
        }
        let made = server.post("/tokens", maker, wish(&["push"], in_shop(), Some(now + hour))).await;
        let made = text(&made.expect(201).json()["token"]);
        server.post("/upload/init", &made, init("shop", "web")).await.expect(201);
        server.get("/manifest/shop/web/v1", &made).await.refused(403, "forbidden");
    }
}

async fn mint(server: &TestServer, session: &Session, body: Value) -> Answer {
    session.call(server, Method::POST, "/tokens", Some(body)).await
}

async fn revoke(server: &TestServer, by: &str, token: &str, query: &str) -> Answer {
    server.call(Method::DELETE, &format!("/tokens/{}{query}", id_of(token)), by, None).await
}

async fn take_away(server: &TestServer, binding: i64) -> Answer {
    server.call(Method::DELETE, &format!("/role-bindings/{binding}"), &server.admin, None).await
}

/// The ids of the tokens that somebody sees, in order.
async fn listed(server: &TestServer, by: &str) -> Vec<String> {
    let page = server.get("/tokens", by).await.expect(200).json();
    let mut ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| text(&item["id"])).collect();
    assert_eq!(page["total"], ids.len(), "{page}");
    ids.sort_unstable();
    ids
}

on_both_databases! {
    a_token_belongs_to_its_person_however_many_tokens_lie_between,
    a_personal_token_is_made_in_a_session_and_ends_in_time,
    a_personal_token_gives_what_its_person_has_now_and_no_more,
    revoking_what_a_leaked_token_made_ends_all_of_it_and_nothing_else,
    a_list_of_tokens_shows_and_ends_only_ones_own_and_what_one_administers,
    people_find_and_end_the_tokens_that_hang_on_them,
    nobody_makes_a_token_that_reaches_further_or_lasts_longer_than_they_do,
}
