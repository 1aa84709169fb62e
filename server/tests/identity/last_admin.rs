//! The last way in can't be closed from the inside, neither by mistake nor by two at once.

use chrono::TimeDelta;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    Session, change_person, done, everything, id_of, log_in, make_person, personal_token, text,
};

async fn the_last_token_that_may_do_everything_does_not_revoke_itself(db: TestDatabase) {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    // None of these is another way in.
    server.token(&["view", "pull", "push", "promote"], "").await;
    server.token(&["admin"], "shop").await;
    everything(&server, &server.admin, "expired").await.expect(201);
    let revoked = server.token(&["admin"], "").await;
    revoke(&server, &server.admin, &revoked).await.expect(200);
    make_person(&server, "grace", "readonly").await;
    make_person(&server, "eve", "admin").await;
    change_person(&server, "eve", json!({ "disabled": true })).await.expect(200);
    server.clock.advance(TimeDelta::minutes(5));
    revoke(&server, &server.admin, &server.admin).await.refused(409, "last_admin");
    server.get("/users", &server.admin).await.expect(200);

    let another = server.token(&["admin"], "").await;
    revoke(&server, &server.admin, &server.admin).await.expect(200);
    server.get("/users", &server.admin).await.refused(401, "unauthenticated");
    revoke(&server, &another, &another).await.refused(409, "last_admin");
    server.get("/users", &another).await.expect(200);
}

async fn ending_a_token_with_all_that_it_made_leaves_a_way_in(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let child = server.token(&["admin"], "").await;
    let grandchild = text(&everything(&server, &child, "grandchild").await.expect(201).json()["token"]);
    let all = [&server.admin, &child, &grandchild];
    let path = format!("/tokens/{}?made=true", id_of(&server.admin));
    for token in all {
        server.call(Method::DELETE, &path, token, None).await.refused(409, "last_admin");
        for token in all {
            server.get("/users", token).await.expect(200);
        }
    }
    make_person(&server, "ada", "admin").await;
    server.call(Method::DELETE, &path, &child, None).await.expect(200);
    for token in all {
        server.get("/users", token).await.refused(401, "unauthenticated");
    }
    log_in(&server, "ada").await.get(&server, "/users").await.expect(200);
}

async fn the_last_person_who_may_do_everything_stays_what_they_are(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    // What hangs on her is no way in without her.
    let token = personal_token(&server, &ada, &["admin"], &json!({})).await.expect(201).json();
    let token = text(&token["token"]);
    let first = format!("/tokens/{}", id_of(&server.admin));
    done(ada.call(&server, Method::DELETE, &first, None).await);
    let before = ada.get(&server, "/users/ada").await.expect(200).json();
    for change in [
        json!({ "role": "none" }),
        json!({ "role": "readonly" }),
        json!({ "disabled": true }),
        json!({ "role": "admin", "disabled": true }),
        json!({ "role": "none", "disabled": false }),
    ] {
        change_by(&server, &ada, "ada", &change).await.refused(409, "last_admin");
        let by_token = server.call(Method::PATCH, "/users/ada", &token, Some(change)).await;
        by_token.refused(409, "last_admin");
    }
    assert_eq!(ada.get(&server, "/users/ada").await.expect(200).json(), before);
    server.get("/users", &token).await.expect(200);
    // Her tokens she may end: she is left.
    server.call(Method::DELETE, &format!("/tokens/{}", id_of(&token)), &token, None).await.expect(200);
    ada.get(&server, "/users").await.expect(200);
}

async fn two_admins_remove_one_but_not_both(db: TestDatabase) {
    let (server, ada, grace) = ada_and_grace(db).await;
    change_by(&server, &ada, "grace", &json!({ "disabled": true })).await.expect(200);
    grace.is_over(&server, "disabled").await;
    change_by(&server, &ada, "ada", &json!({ "disabled": true })).await.refused(409, "last_admin");
    change_by(&server, &ada, "grace", &json!({ "disabled": false })).await.expect(200);
    change_by(&server, &ada, "ada", &json!({ "role": "none" })).await.expect(200);
    ada.get(&server, "/users").await.refused(403, "forbidden");
    let grace = log_in(&server, "grace").await;
    change_by(&server, &grace, "grace", &json!({ "role": "none" })).await.refused(409, "last_admin");
}

async fn of_two_admins_who_leave_at_the_same_time_one_stays(db: TestDatabase) {
    let (server, ada, grace) = ada_and_grace(db).await;
    let (demotion, promotion) = (json!({ "role": "none" }), json!({ "role": "admin" }));
    for _ in 0..8 {
        let (one, two) = tokio::join!(
            change_by(&server, &ada, "ada", &demotion),
            change_by(&server, &grace, "grace", &demotion),
        );
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{} {}", one.text(), two.text());
        let (stayed, left) = if one.status == 409 { (&ada, "grace") } else { (&grace, "ada") };
        change_by(&server, stayed, left, &promotion).await.expect(200);
    }
}

async fn of_two_admins_who_remove_each_other_one_stays(db: TestDatabase) {
    let (server, ada, grace) = ada_and_grace(db).await;
    let (demotion, promotion) = (json!({ "role": "none" }), json!({ "role": "admin" }));
    for _ in 0..8 {
        let (one, two) = tokio::join!(
            change_by(&server, &ada, "grace", &demotion),
            change_by(&server, &grace, "ada", &demotion),
        );
        // Whoever comes second is no admin any more, or would be the last one.
        let won = [&one, &two].iter().filter(|answer| answer.status == 200).count();
        let lost = [&one, &two].iter().filter(|answer| matches!(answer.status.as_u16(), 403 | 409)).count();
        assert_eq!((won, lost), (1, 1), "{} {}", one.text(), two.text());
        let (stayed, left) = if one.status == 200 { (&ada, "grace") } else { (&grace, "ada") };
        change_by(&server, stayed, left, &promotion).await.expect(200);
    }
}

async fn of_two_last_tokens_that_revoke_themselves_at_the_same_time_one_stays(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let mut last = server.admin.clone();
    for _ in 0..8 {
        let new = json!({ "name": "another", "permissions": ["admin"], "scopes": [{}] });
        let another = text(&server.post("/tokens", &last, new).await.expect(201).json()["token"]);
        // In use already: what is compared with its hash would come late.
        server.get("/users", &another).await.expect(200);
        let (one, two) = tokio::join!(revoke(&server, &last, &last), revoke(&server, &another, &another));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{} {}", one.text(), two.text());
        if one.status == 200 {
            last = another;
        }
        server.get("/users", &last).await.expect(200);
    }
}

/// A server whose only admins are two people.
async fn ada_and_grace(db: TestDatabase) -> (TestServer, Session, Session) {
    let server = TestServer::start(db).await;
    for login in ["ada", "grace"] {
        make_person(&server, login, "admin").await;
    }
    let (ada, grace) = (log_in(&server, "ada").await, log_in(&server, "grace").await);
    revoke(&server, &server.admin, &server.admin).await.expect(200);
    (server, ada, grace)
}

async fn change_by(server: &TestServer, by: &Session, login: &str, change: &Value) -> Answer {
    by.call(server, Method::PATCH, &format!("/users/{login}"), Some(change.clone())).await
}

async fn revoke(server: &TestServer, by: &str, token: &str) -> Answer {
    server.call(Method::DELETE, &format!("/tokens/{}", id_of(token)), by, None).await
}

on_both_databases! {
    the_last_token_that_may_do_everything_does_not_revoke_itself,
    ending_a_token_with_all_that_it_made_leaves_a_way_in,
    the_last_person_who_may_do_everything_stays_what_they_are,
    two_admins_remove_one_but_not_both,
    of_two_admins_who_leave_at_the_same_time_one_stays,
    of_two_admins_who_remove_each_other_one_stays,
    of_two_last_tokens_that_revoke_themselves_at_the_same_time_one_stays,
}
