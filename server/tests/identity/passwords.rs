//! Passwords: changing one's own, temporary ones, and those that are too weak.

use chrono::TimeDelta;
use kkartifact_model::wire::STREAM_TYPE;
use kkartifact_service::RouteTable;
use kkartifact_service::routes::{Access, Route, Scope};
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    PASSWORD, Robot, Session, WRONG, done, id_of, init, log_in, make_person, personal_token, promotion, said,
    script_token, shop, text, try_login,
};

/// A password that replaces another.
const NEW: &str = "another horse battery";
/// What a temporary password opens.
const OPEN: [&str; 3] = ["whoami", "logout", "password.change"];
/// The id of something that is not there.
const NOTHING: &str = "00000000-0000-0000-0000-000000000000";

async fn a_new_password_wants_the_current_one_and_ends_the_other_sessions(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let (here, elsewhere) = (log_in(&server, "ada").await, log_in(&server, "ada").await);
    let script = script_token(&server, "ada").await;
    let token = personal_token(&server, &here, &["admin"], &json!({})).await.expect(201).json();
    for wrong in [WRONG, "", NEW] {
        change(&server, &here, wrong, NEW).await.refused(403, "forbidden");
    }
    try_login(&server, "ada", NEW).await.refused(401, "unauthenticated");
    elsewhere.get(&server, "/whoami").await.expect(200);

    done(change(&server, &here, PASSWORD, NEW).await);
    here.get(&server, "/users").await.expect(200);
    elsewhere.is_over(&server, "another session").await;
    server.get("/whoami", &script).await.refused(401, "unauthenticated");
    try_login(&server, "ada", PASSWORD).await.refused(401, "unauthenticated");
    done(try_login(&server, "ada", NEW).await);
    // Tokens are no sessions: who wants them ended ends them.
    server.get("/users", &text(&token["token"])).await.expect(200);
}

/// A session that was left open is no way around the lock-out.
async fn guessing_at_the_current_password_locks_the_account_too(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    let ada = log_in(&server, "ada").await;
    for _ in 0..5 {
        change(&server, &ada, WRONG, NEW).await.refused(403, "forbidden");
    }
    let wrong = change(&server, &ada, WRONG, NEW).await;
    let right = change(&server, &ada, PASSWORD, NEW).await;
    assert_eq!(said(&right), said(&wrong), "nobody learns that it was right");
    try_login(&server, "ada", PASSWORD).await.refused(401, "unauthenticated");
    ada.get(&server, "/whoami").await.expect(200);
    server.clock.advance(TimeDelta::minutes(15));
    done(change(&server, &ada, PASSWORD, NEW).await);
}

async fn only_a_session_changes_a_password(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let token = personal_token(&server, &ada, &["admin"], &json!({})).await.expect(201).json();
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let body = || Some(json!({ "current": PASSWORD, "new": NEW }));
    for token in [&text(&token["token"]), &server.admin, &robot.token(&server).await] {
        server.call(Method::PUT, "/password", token, body()).await.refused(403, "forbidden");
    }
    server.call(Method::PUT, "/password", "", body()).await.refused(401, "unauthenticated");
    let script = script_token(&server, "ada").await;
    done(server.call(Method::PUT, "/password", &script, body()).await);
}

async fn a_temporary_password_opens_nothing_but_its_change(db: TestDatabase) {
    let server = shop(db).await;
    let new = json!({ "login": "ada", "role": "admin" });
    let made = server.post("/users", &server.admin, new).await.expect(201).json();
    assert_eq!(made["must_change_password"], true, "{made}");
    let temporary = text(&made["temporary_password"]);
    let ada = Session::of(&done(try_login(&server, "ada", &temporary).await));
    let me = ada.get(&server, "/whoami").await.expect(200).json();
    assert_eq!((&me["must_change_password"], &me["grants"]), (&json!(true), &json!([])), "{me}");
    for route in RouteTable::get().unwrap().routes() {
        if route.access != Access::Public && !OPEN.contains(&route.name.as_str()) {
            stays_closed(&server, &ada, route).await;
        }
    }
    // Nor does a token outlast it that was made with it.
    let tokens = server.get("/tokens", &server.admin).await.expect(200).json();
    assert_eq!(tokens["total"], 1, "{tokens}");

    done(change(&server, &ada, &temporary, NEW).await);
    ada.get(&server, "/users").await.expect(200);
    let me = ada.get(&server, "/whoami").await.expect(200).json();
    assert!(me.get("must_change_password").is_none(), "{me}");
    try_login(&server, "ada", &temporary).await.refused(401, "unauthenticated");
}

/// Asserts that a route is not open before the password was changed. What names an object may say that there is none.
async fn stays_closed(server: &TestServer, person: &Session, route: &Route) {
    let by_object = route.path.contains('{')
        || route.name == "upload.finish"
        || matches!(route.access, Access::Needs(_, Scope::Body));
    let names = [
        ("/api/v1", ""),
        ("{project}", "shop"),
        ("{app}", "web"),
        ("{version}", "v1"),
        ("{channel}", "stable"),
        ("{upload}", NOTHING),
        ("{session}", &person.id),
        ("{token}", id_of(&server.admin)),
        ("{binding}", "1"),
    ];
    let path = names.iter().fold(route.path.clone(), |path, (name, value)| path.replace(name, value));
    let request = person.request(server, route.method.clone(), &path).header("x-csrf-token", &person.csrf);
    let request = match body_of(&route.name) {
        Some(body) => request.json(&body),
        None if route.body.is_none() => request.header("content-type", STREAM_TYPE),
        None => request,
    };
    // Not read before its status is known: a stream of events would have no end.
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    assert!(status == 403 || by_object && status == 404, "{}: {status}", route.name);
    let body: Value = response.json().await.unwrap();
    let code = &body["error"]["code"];
    assert!(status == 404 || code == "password_change_required", "{}: {body}", route.name);
}

fn body_of(route: &str) -> Option<Value> {
    Some(match route {
        "token.create" => {
            json!({ "name": "mine", "permissions": ["admin"], "scopes": [{}], "personal": true })
        }
        "role_binding.create" => {
            json!({ "subject": { "user": "ada" }, "permissions": ["view"], "scope": { "project": "shop" } })
        }
        "channel.promote" => promotion(),
        "channel.rollback" => json!({ "project": "shop", "app": "web" }),
        "upload.init" => init("shop", "web"),
        "upload.finish" => json!({ "upload_id": NOTHING }),
        _ => return None,
    })
}

async fn a_temporary_password_ends_after_a_day(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let new = json!({ "login": "ada", "role": "none" });
    let made = server.post("/users", &server.admin, new).await.expect(201).json();
    let temporary = text(&made["temporary_password"]);
    server.clock.advance(TimeDelta::days(1) - TimeDelta::seconds(1));
    done(try_login(&server, "ada", &temporary).await);
    server.clock.advance(TimeDelta::seconds(1));
    let over = try_login(&server, "ada", &temporary).await;
    assert_eq!(said(&over), said(&try_login(&server, "ada", WRONG).await));
    over.refused(401, "unauthenticated");
    // A new one can be made.
    let again = reset(&server, "ada").await;
    assert_ne!(again, temporary);
    done(try_login(&server, "ada", &again).await);
}

async fn a_reset_by_an_admin_ends_the_old_password_and_every_session(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let script = script_token(&server, "ada").await;
    let temporary = reset(&server, "ada").await;
    ada.is_over(&server, "from before the reset").await;
    server.get("/whoami", &script).await.refused(401, "unauthenticated");
    try_login(&server, "ada", PASSWORD).await.refused(401, "unauthenticated");
    let again = Session::of(&done(try_login(&server, "ada", &temporary).await));
    again.get(&server, "/users").await.refused(403, "password_change_required");
    change(&server, &again, PASSWORD, NEW).await.refused(403, "forbidden");
    done(change(&server, &again, &temporary, NEW).await);
    again.get(&server, "/users").await.expect(200);
    server.call(Method::POST, "/users/nobody/password", &server.admin, None).await.refused(404, "not_found");
}

async fn a_weak_password_is_refused_wherever_one_is_set(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let weak = [
        "",
        "short",
        "elevenbytes",
        &"x1".repeat(37)[..73],
        "ada.lovelace",
        "Ada.Lovelace",
        "ada.lovelace1",
        "aaaaaaaaaaaaaaaa",
        "with a NUL\0 in it",
    ]
    .map(str::to_owned);
    for password in &weak {
        let new = json!({ "login": "ada.lovelace", "role": "none", "password": password });
        server.post("/users", &server.admin, new).await.refused(400, "invalid_request");
    }
    server.get("/users/ada.lovelace", &server.admin).await.refused(404, "not_found");
    make_person(&server, "ada.lovelace", "none").await;
    let ada = log_in(&server, "ada.lovelace").await;
    for password in weak.iter().map(String::as_str).chain([PASSWORD]) {
        change(&server, &ada, PASSWORD, password).await.refused(400, "invalid_request");
    }
    log_in(&server, "ada.lovelace").await;
}

/// bcrypt reads 72 bytes, and begins anew behind a NUL: what it doesn't look at counts all the same.
async fn nothing_but_the_password_itself_logs_in(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.auth.lock_after = 1000).await;
    let long = "x1".repeat(36);
    let new = json!({ "login": "long", "role": "none", "password": long });
    server.post("/users", &server.admin, new).await.expect(201);
    make_person(&server, "ada", "none").await;
    for (login, wrong) in [
        ("long", long[..71].to_owned()),
        ("long", format!("{}2", &long[..71])),
        ("long", format!("{long}x")),
        ("long", long.repeat(10)),
        ("long", long.to_uppercase()),
        ("ada", format!("{PASSWORD} ")),
        ("ada", format!("{PASSWORD}\0")),
        ("ada", format!("{PASSWORD}\0{PASSWORD}")),
        ("ada", PASSWORD.to_uppercase()),
        ("ADA", PASSWORD.to_owned()),
        ("ada ", PASSWORD.to_owned()),
    ] {
        let answer = try_login(&server, login, &wrong).await;
        assert_eq!(answer.status, 401, "{login:?} with {wrong:?}: {}", answer.text());
    }
    done(try_login(&server, "long", &long).await);
    done(try_login(&server, "ada", PASSWORD).await);
}

/// Asks for another password of one's own.
async fn change(server: &TestServer, person: &Session, current: &str, new: &str) -> Answer {
    let body = json!({ "current": current, "new": new });
    person.call(server, Method::PUT, "/password", Some(body)).await
}

/// Makes a temporary password for somebody.
async fn reset(server: &TestServer, login: &str) -> String {
    let path = format!("/users/{login}/password");
    let answer = done(server.call(Method::POST, &path, &server.admin, None).await);
    text(&answer.json()["temporary_password"])
}

on_both_databases! {
    a_new_password_wants_the_current_one_and_ends_the_other_sessions,
    guessing_at_the_current_password_locks_the_account_too,
    only_a_session_changes_a_password,
    a_temporary_password_opens_nothing_but_its_change,
    a_temporary_password_ends_after_a_day,
    a_reset_by_an_admin_ends_the_old_password_and_every_session,
    a_weak_password_is_refused_wherever_one_is_set,
    nothing_but_the_password_itself_logs_in,
}
