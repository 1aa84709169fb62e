//! Guessing passwords: accounts are locked, and nobody learns which there are, or in what state.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::future::join_all;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    PASSWORD, WRONG, change_person, done, log_in, make_person, personal_token, said, text, try_login,
};

/// How often each way to fail is timed.
const TIMES: usize = 15;

async fn a_locked_account_looks_like_a_wrong_password_and_like_nobody(db: TestDatabase) {
    let server = TestServer::start(db).await;
    for login in ["ada", "grace"] {
        make_person(&server, login, "none").await;
    }
    change_person(&server, "grace", json!({ "disabled": true })).await.expect(200);
    let unknown = try_login(&server, "nobody", WRONG).await;
    for _ in 0..5 {
        assert_eq!(said(&try_login(&server, "ada", WRONG).await), said(&unknown));
    }
    for (login, password) in [
        ("ada", PASSWORD),
        ("ada", WRONG),
        ("ada", ""),
        ("grace", PASSWORD),
        ("grace", WRONG),
        ("nobody", PASSWORD),
        ("", PASSWORD),
        ("ADA", PASSWORD),
    ] {
        let answer = try_login(&server, login, password).await;
        assert_eq!(said(&answer), said(&unknown), "{login:?} with {password:?}");
        assert_eq!(answer.header("retry-after"), "", "{login:?} with {password:?}");
        assert_eq!(answer.header("set-cookie"), "", "{login:?} with {password:?}");
    }
    unknown.refused(401, "unauthenticated");
    assert!(locked_until(&server, "ada").await.is_string(), "an admin sees it");
}

async fn a_lock_out_ends_by_itself_and_the_count_begins_anew(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    lock(&server, "ada").await;
    server.clock.advance(TimeDelta::minutes(15) - TimeDelta::seconds(1));
    refused(&server, PASSWORD).await;
    server.clock.advance(TimeDelta::seconds(1));
    // Neither the failures from before count any more, nor those before a success.
    for _ in 0..2 {
        for _ in 0..4 {
            refused(&server, WRONG).await;
        }
        done(try_login(&server, "ada", PASSWORD).await);
    }
    lock(&server, "ada").await;
    refused(&server, PASSWORD).await;
}

async fn guessing_on_does_not_make_a_lock_out_longer(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    lock(&server, "ada").await;
    let until = locked_until(&server, "ada").await;
    for _ in 0..14 {
        server.clock.advance(TimeDelta::minutes(1));
        refused(&server, WRONG).await;
    }
    assert_eq!(locked_until(&server, "ada").await, until);
    server.clock.advance(TimeDelta::minutes(1));
    done(try_login(&server, "ada", PASSWORD).await);
}

async fn failures_at_the_same_time_are_all_counted(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    let guesses = (0..5).map(|_| try_login(&server, "ada", WRONG));
    for answer in join_all(guesses).await {
        answer.refused(401, "unauthenticated");
    }
    refused(&server, PASSWORD).await;
    assert!(locked_until(&server, "ada").await.is_string());
}

/// Not one more than are allowed gets an answer from its password, however many are sent at once.
async fn a_right_guess_among_many_at_once_comes_too_late(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    lock(&server, "ada").await;
    let guesses = (0..20).map(|number| {
        let server = &server;
        async move { try_login(server, "ada", if number % 2 == 0 { PASSWORD } else { WRONG }).await }
    });
    let answers = join_all(guesses).await;
    for answer in &answers {
        assert_eq!(said(answer), said(&answers[0]));
    }
}

async fn a_lock_out_stops_passwords_only_and_an_admin_ends_it(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "readonly").await;
    let ada = log_in(&server, "ada").await;
    let token = personal_token(&server, &ada, &["view"], &json!({})).await.expect(201).json();
    lock(&server, "ada").await;
    ada.get(&server, "/projects").await.expect(200);
    server.get("/projects", &text(&token["token"])).await.expect(200);
    ada.call(&server, Method::POST, "/users/ada/unlock", None).await.refused(403, "forbidden");
    refused(&server, PASSWORD).await;

    done(server.call(Method::POST, "/users/ada/unlock", &server.admin, None).await);
    assert_eq!(locked_until(&server, "ada").await, Value::Null);
    // With the whole number of guesses, too.
    for _ in 0..4 {
        refused(&server, WRONG).await;
    }
    done(try_login(&server, "ada", PASSWORD).await);
    let nobody = server.call(Method::POST, "/users/nobody/unlock", &server.admin, None).await;
    nobody.refused(404, "not_found");
}

async fn nobody_learns_by_the_clock_which_logins_exist(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| {
        config.auth.bcrypt_cost = 8;
        config.auth.lock_after = 1000;
    })
    .await;
    for login in ["ada", "grace"] {
        make_person(&server, login, "none").await;
    }
    change_person(&server, "grace", json!({ "disabled": true })).await.expect(200);
    let ways = [("nobody", WRONG), ("ada", WRONG), ("grace", PASSWORD)];
    let mut times = ways.map(|_| Vec::new());
    // The first round makes what is made once.
    for round in 0..=TIMES {
        for ((login, password), times) in ways.iter().zip(&mut times) {
            let took = time_to_fail(&server, login, password).await;
            if round > 0 {
                times.push(took);
            }
        }
    }
    let [nobody, wrong, disabled] = times.map(median);
    for (what, time) in [("a wrong password", wrong), ("a disabled account", disabled)] {
        let ratio = time.as_secs_f64() / nobody.as_secs_f64();
        assert!((0.5..2.0).contains(&ratio), "{what} takes {time:?}, an unknown login {nobody:?}");
    }
}

/// How long a login takes that fails. It costs one comparison, whoever it is.
async fn time_to_fail(server: &TestServer, login: &str, password: &str) -> Duration {
    let before = server.resources().auth.secret_checks();
    let begun = Instant::now();
    let answer = try_login(server, login, password).await;
    let took = begun.elapsed();
    answer.refused(401, "unauthenticated");
    assert_eq!(server.resources().auth.secret_checks(), before + 1, "{login}");
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Fails as often as it takes.
async fn lock(server: &TestServer, login: &str) {
    for _ in 0..5 {
        try_login(server, login, WRONG).await.refused(401, "unauthenticated");
    }
}

/// Asserts that ada is not let in.
async fn refused(server: &TestServer, password: &str) {
    try_login(server, "ada", password).await.refused(401, "unauthenticated");
}

async fn locked_until(server: &TestServer, login: &str) -> Value {
    let user = server.get(&format!("/users/{login}"), &server.admin).await.expect(200).json();
    user["locked_until"].clone()
}

on_both_databases! {
    a_locked_account_looks_like_a_wrong_password_and_like_nobody,
    a_lock_out_ends_by_itself_and_the_count_begins_anew,
    guessing_on_does_not_make_a_lock_out_longer,
    failures_at_the_same_time_are_all_counted,
    a_right_guess_among_many_at_once_comes_too_late,
    a_lock_out_stops_passwords_only_and_an_admin_ends_it,
    nobody_learns_by_the_clock_which_logins_exist,
}
