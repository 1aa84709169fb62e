//! Sessions: whose they are, how they end, and what is none.

use chrono::TimeDelta;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::forgery::with_claim;
use crate::someone::{
    PASSWORD, Session, done, id_of, log_in, make_person, personal_token, said, script_token, text,
};

/// A session's id that nobody has.
const NOTHING: &str = "00000000-0000-0000-0000-000000000000";

async fn a_cookie_that_was_planted_before_a_login_is_not_the_session_after(db: TestDatabase) {
    let server = people(db).await;
    let mallory = log_in(&server, "mallory").await;
    for planted in ["kka_session=chosen-by-mallory", "kka_session=", &format!("kka_session={NOTHING}")] {
        let ada = log_in_with(&server, "ada", planted).await;
        assert_ne!(ada.cookie, planted);
        assert_eq!(name_of(&server, &ada.cookie).await, "ada");
        let nobody = server.request(Method::GET, "/whoami", "").header("cookie", planted);
        server.send(nobody).await.refused(401, "unauthenticated");
    }
    // Also one that is mallory's for real stays what it was.
    let ada = log_in_with(&server, "ada", &mallory.cookie).await;
    assert!(ada.cookie != mallory.cookie && ada.id != mallory.id && ada.csrf != mallory.csrf);
    assert_eq!(name_of(&server, &ada.cookie).await, "ada");
    assert_eq!(name_of(&server, &mallory.cookie).await, "mallory");
    // And two logins of the same person are two sessions.
    let again = log_in_with(&server, "ada", &ada.cookie).await;
    assert!(again.cookie != ada.cookie && again.id != ada.id && again.csrf != ada.csrf);
}

async fn a_session_that_was_left_is_over_for_who_copied_the_cookie_too(db: TestDatabase) {
    let server = people(db).await;
    let (ada, elsewhere) = (log_in(&server, "ada").await, log_in(&server, "ada").await);
    let copy = ada.clone();
    let answer = done(ada.call(&server, Method::POST, "/logout", None).await);
    let cookie = answer.header("set-cookie").to_lowercase();
    assert!(cookie.starts_with("kka_session=;") && cookie.contains("max-age=0"), "{cookie}");
    copy.is_over(&server, "it was left").await;
    let again = copy.call(&server, Method::POST, "/logout", None).await;
    again.refused(401, "unauthenticated");
    elsewhere.get(&server, "/whoami").await.expect(200);

    let script = script_token(&server, "ada").await;
    done(server.call(Method::POST, "/logout", &script, None).await);
    server.get("/whoami", &script).await.refused(401, "unauthenticated");
    server.call(Method::POST, "/logout", &server.admin, None).await.refused(403, "forbidden");
}

async fn a_session_that_nobody_uses_ends(db: TestDatabase) {
    let server = people(db).await;
    let ada = log_in(&server, "ada").await;
    let script = script_token(&server, "ada").await;
    server.clock.advance(TimeDelta::minutes(30) - TimeDelta::seconds(1));
    ada.get(&server, "/whoami").await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/whoami", &script).await.refused(401, "unauthenticated");
    server.clock.advance(TimeDelta::minutes(30) - TimeDelta::seconds(2));
    ada.get(&server, "/whoami").await.expect(200);
    server.clock.advance(TimeDelta::minutes(30));
    ada.is_over(&server, "nobody used it").await;
    // To come back late does not wake it.
    ada.is_over(&server, "nobody used it in time").await;
}

async fn a_session_ends_after_its_hours_however_much_it_is_used(db: TestDatabase) {
    let server = people(db).await;
    let ada = log_in(&server, "ada").await;
    for _ in 0..35 {
        server.clock.advance(TimeDelta::minutes(20));
        ada.get(&server, "/whoami").await.expect(200);
    }
    server.clock.advance(TimeDelta::minutes(20) - TimeDelta::seconds(1));
    ada.get(&server, "/whoami").await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    ada.is_over(&server, "twelve hours").await;
}

async fn people_see_and_end_their_own_sessions(db: TestDatabase) {
    let server = people(db).await;
    let here = log_in_from(&server, "ada", "browser/1.0").await;
    let elsewhere = log_in_from(&server, "ada", &"x".repeat(10_000)).await;
    log_in(&server, "mallory").await;
    let listed = here.get(&server, "/sessions").await.expect(200).json();
    assert_eq!(listed["total"], 2, "{listed}");
    for session in listed["items"].as_array().unwrap() {
        assert_eq!(session["current"], session["id"] == here.id.as_str(), "{session}");
        assert_eq!(session["address"], "127.0.0.1", "{session}");
        assert!(session["user_agent"].as_str().is_some_and(|agent| agent.len() <= 200), "{session}");
    }
    let value = here.cookie.split_once('=').unwrap().1;
    let whole = listed.to_string();
    assert!(!whole.contains(value) && !whole.contains(&here.csrf), "{whole}");
    assert!(whole.contains("browser/1.0"), "{whole}");

    let path = format!("/sessions/{}", elsewhere.id);
    done(here.call(&server, Method::DELETE, &path, None).await);
    elsewhere.is_over(&server, "ended from another browser").await;
    here.get(&server, "/whoami").await.expect(200);
    let own = format!("/sessions/{}", here.id);
    done(here.call(&server, Method::DELETE, &own, None).await);
    here.is_over(&server, "ended by itself").await;
}

async fn nobody_but_an_admin_sees_or_ends_the_sessions_of_others(db: TestDatabase) {
    let server = people(db).await;
    make_person(&server, "reader", "readonly").await;
    let ada = log_in(&server, "ada").await;
    let path = format!("/sessions/{}", ada.id);
    for login in ["mallory", "reader"] {
        let other = log_in(&server, login).await;
        other.get(&server, "/sessions?user=ada").await.refused(403, "forbidden");
        let real = other.call(&server, Method::DELETE, &path, None).await;
        let none = other.call(&server, Method::DELETE, &format!("/sessions/{NOTHING}"), None).await;
        let message = |body: &Value| text(&body["error"]["message"]).replace(&ada.id, NOTHING);
        assert_eq!(message(&real.json()), message(&none.json()), "nobody learns that it is there");
        real.refused(404, "not_found");
        let own = other.get(&server, "/sessions").await.expect(200).text();
        assert!(!own.contains(&ada.id), "{own}");
    }
    ada.get(&server, "/whoami").await.expect(200);

    let listed = server.get("/sessions?user=ada", &server.admin).await.expect(200).json();
    assert_eq!((&listed["total"], &listed["items"][0]["id"]), (&json!(1), &json!(ada.id)), "{listed}");
    assert_eq!(listed["items"][0]["current"], false, "{listed}");
    done(server.call(Method::DELETE, &path, &server.admin, None).await);
    ada.is_over(&server, "ended by an admin").await;
    server.get("/sessions?user=nobody", &server.admin).await.refused(404, "not_found");
}

/// A token of somebody's is not the person: a session ends it, and not the other way round.
async fn a_token_neither_sees_nor_ends_the_sessions_of_its_person(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "readonly").await;
    let ada = log_in(&server, "ada").await;
    let token = personal_token(&server, &ada, &["view"], &json!({})).await.expect(201).json();
    let token = text(&token["token"]);
    let path = format!("/sessions/{}", ada.id);
    server.call(Method::DELETE, &path, &token, None).await.refused(404, "not_found");
    let listed = server.get("/sessions", &token).await.expect(200).json();
    assert_eq!(listed["total"], 0, "{listed}");
    ada.get(&server, "/whoami").await.expect(200);
}

/// Who sends two credentials is who the header says, or nobody.
async fn a_wrong_header_is_not_saved_by_a_right_cookie(db: TestDatabase) {
    let server = people(db).await;
    let ada = log_in(&server, "ada").await;
    let revoked = server.token(&["admin"], "").await;
    let path = format!("/tokens/{}", id_of(&revoked));
    server.call(Method::DELETE, &path, &server.admin, None).await.expect(200);
    let garbage = server.get("/whoami", "x").await;
    for token in ["x", "kka_garbage", &revoked, "eyJhbGciOiJub25lIn0.e30."] {
        let answer = server.send(ada.request(&server, Method::GET, "/whoami").bearer_auth(token)).await;
        assert_eq!(said(&answer), said(&garbage), "{token}");
        answer.refused(401, "unauthenticated");
    }
    let right = server.send(ada.request(&server, Method::GET, "/whoami").bearer_auth(&server.admin)).await;
    assert_eq!(right.expect(200).json()["kind"], "token");
}

async fn a_cookie_that_was_changed_is_nobodys(db: TestDatabase) {
    let server = people(db).await;
    let (ada, mallory) = (log_in(&server, "ada").await, log_in(&server, "mallory").await);
    let token = mallory.cookie.strip_prefix("kka_session=").unwrap();
    let adas = ada.cookie.strip_prefix("kka_session=").unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for (what, forged) in [
        ("another's session", with_claim(token, "sid", &json!(ada.id))),
        ("another's name", with_claim(token, "sub", &json!("ada"))),
        ("somebody else", with_claim(token, "kka_principal", &json!(1))),
        ("a later end", with_claim(token, "exp", &json!(4_000_000_000_i64))),
        ("another's signature", format!("{signed}.{}", adas.rsplit_once('.').unwrap().1)),
        ("no signature", format!("{signed}.")),
        ("half of the signature", format!("{signed}.{}", &signature[..signature.len() / 2])),
        ("the id alone", mallory.id.clone()),
        ("the csrf token", mallory.csrf.clone()),
        ("an API token", server.admin.clone()),
    ] {
        let request = server.request(Method::GET, "/whoami", "");
        let answer = server.send(request.header("cookie", format!("kka_session={forged}"))).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    assert_eq!(name_of(&server, &mallory.cookie).await, "mallory");
}

/// A server with two people who have no role.
async fn people(db: TestDatabase) -> TestServer {
    let server = TestServer::start(db).await;
    for login in ["ada", "mallory"] {
        make_person(&server, login, "none").await;
    }
    server
}

/// Logs in from a browser that has a cookie already.
async fn log_in_with(server: &TestServer, login: &str, cookie: &str) -> Session {
    let request = server.request(Method::POST, "/login", "").header("cookie", cookie);
    let body = json!({ "login": login, "password": PASSWORD });
    Session::of(&done(server.send(request.json(&body)).await))
}

/// Logs in from a browser that calls itself something.
async fn log_in_from(server: &TestServer, login: &str, agent: &str) -> Session {
    let request = server.request(Method::POST, "/login", "").header("user-agent", agent);
    let body = json!({ "login": login, "password": PASSWORD });
    Session::of(&done(server.send(request.json(&body)).await))
}

/// Whom a cookie belongs to.
async fn name_of(server: &TestServer, cookie: &str) -> String {
    let request = server.request(Method::GET, "/whoami", "").header("cookie", cookie);
    text(&server.send(request).await.expect(200).json()["name"])
}

on_both_databases! {
    a_cookie_that_was_planted_before_a_login_is_not_the_session_after,
    a_session_that_was_left_is_over_for_who_copied_the_cookie_too,
    a_session_that_nobody_uses_ends,
    a_session_ends_after_its_hours_however_much_it_is_used,
    people_see_and_end_their_own_sessions,
    nobody_but_an_admin_sees_or_ends_the_sessions_of_others,
    a_token_neither_sees_nor_ends_the_sessions_of_its_person,
    a_wrong_header_is_not_saved_by_a_right_cookie,
    a_cookie_that_was_changed_is_nobodys,
}
