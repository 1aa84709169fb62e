//! Floods: guesses are slowed by address, callers by principal, and neither costs much or stops anybody else.

use futures_util::future::join_all;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::someone::{PASSWORD, Robot, WRONG, id_of, log_in, make_person, try_login};

/// How many requests go out at the same time.
const FLOOD: usize = 40;

async fn ten_thousand_bad_credentials_cost_no_bcrypt(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.rate.guesses_per_minute = 1 << 20).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let signed = robot.token(&server).await;
    let known = id_of(&server.admin);
    server.get("/whoami", &server.admin).await.expect(200);
    let before = server.resources().auth.secret_checks();
    let bad = |number: usize| {
        let secret = format!("{number:0>32}");
        match number % 5 {
            0 => format!("kka_{known}_{secret}_00000000"),
            1 => format!("kka_{number:0>16}_{secret}_00000000"),
            2 => format!("kka_{secret}"),
            3 => format!("{}{number}", &signed[..signed.len() - 8]),
            _ => format!("garbage-{number}"),
        }
    };
    for start in (0..10_000).step_by(FLOOD) {
        let calls = (start..start + FLOOD).map(|number| {
            let token = bad(number);
            let server = &server;
            async move { server.get("/whoami", &token).await }
        });
        for answer in join_all(calls).await {
            answer.refused(401, "unauthenticated");
        }
    }
    let secrets =
        (0..FLOOD).map(|number| Robot { id: robot.id.clone(), secret: format!("kks_{number:0>32}_0") });
    for guess in secrets {
        guess.ask(&server, "").await.expect(401);
    }
    assert_eq!(server.resources().auth.secret_checks(), before);
}

async fn a_flood_of_logins_is_held_off_and_valid_credentials_go_on(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| {
        config.rate.guesses_per_minute = 5;
        config.auth.lock_after = 1000;
    })
    .await;
    make_person(&server, "ada", "readonly").await;
    let token = server.token(&["view"], "").await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let ada = log_in(&server, "ada").await;
    let before = server.resources().auth.secret_checks();
    let answers = join_all((0..FLOOD).map(|_| try_login(&server, "ada", WRONG))).await;
    let tried = count(&answers, 401);
    assert_eq!(tried + held_off(&answers), FLOOD);
    // One more comes back every twelve seconds, if this machine is slow.
    assert!(tried <= 10, "{tried} guesses");
    let compared = server.resources().auth.secret_checks() - before;
    assert_eq!(usize::try_from(compared).unwrap(), tried, "what is held off costs nothing");

    // Every other way to guess is closed to the address as well.
    let others = (0..FLOOD).map(|number| guess(&server, &robot, number));
    let answers = join_all(others.map(|request| server.send(request))).await;
    assert!(held_off(&answers) >= FLOOD - 10, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    // Who has a valid credential is nobody who guesses.
    for _ in 0..FLOOD {
        ada.get(&server, "/projects").await.expect(200);
        server.get("/projects", &token).await.expect(200);
    }
    server.get("/users", &server.admin).await.expect(200);
    // Nor is who shows none.
    server.get("/whoami", "").await.refused(401, "unauthenticated");
}

/// A way to guess.
fn guess(server: &TestServer, robot: &Robot, number: usize) -> RequestBuilder {
    match number % 5 {
        0 => {
            let right = json!({ "login": "ada", "password": PASSWORD });
            server.request(Method::POST, "/login", "").json(&right)
        }
        1 => {
            let form = [
                ("grant_type", "client_credentials"),
                ("client_id", robot.id.as_str()),
                ("client_secret", "x"),
            ];
            server.request(Method::POST, "/oauth/token", "").form(&form)
        }
        2 => server.request(Method::POST, "/bootstrap", "").json(&json!({ "secret": "x" })),
        3 => server.request(Method::GET, "/whoami", "kka_garbage"),
        _ => server.request(Method::GET, "/whoami", "").header("cookie", "kka_session=garbage"),
    }
}

async fn a_caller_who_floods_is_slowed_and_nobody_else(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.rate.requests_per_second = 1).await;
    let flooding = server.token(&["view"], "").await;
    let other = server.token(&["view"], "").await;
    let answers = join_all((0..FLOOD).map(|_| server.get("/projects", &flooding))).await;
    let let_through = count(&answers, 200);
    assert_eq!(let_through + held_off(&answers), FLOOD);
    // Four at once, and one more each second that this machine takes for it.
    assert!((4..=FLOOD / 2).contains(&let_through), "{let_through} were served");
    server.get("/projects", &other).await.expect(200);
}

/// An address that the caller says counts only if the server knows who passes it on.
async fn a_made_up_address_is_no_way_around_the_limit(db: TestDatabase) {
    let mut server = TestServer::start_with(db, |config| config.rate.guesses_per_minute = 5).await;
    let most = FLOOD - 10;
    let held = flood(&server, |number| format!("192.0.2.{number}")).await;
    assert!(held >= most, "nobody is named who could say so: {held}");

    server.restart_with(|config| config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).await;
    assert!(flood(&server, |_| "192.0.2.1".to_owned()).await >= most);
    server.send(login_from(&server, "192.0.2.2")).await.refused(401, "unauthenticated");
    // What stands further left was said by the client itself.
    assert!(flood(&server, |number| format!("198.51.100.{number}, 192.0.2.1")).await >= most);
    // Who has one address of an IPv6 network has them all.
    assert!(flood(&server, |number| format!("2001:db8:1:2::{number:x}")).await >= most);
    server.send(login_from(&server, "2001:db8:1:3::1")).await.refused(401, "unauthenticated");
    server.get("/users", &server.admin).await.expect(200);
}

/// Sends many wrong logins that are said to come from somewhere; how many were held off.
async fn flood(server: &TestServer, forwarded: fn(usize) -> String) -> usize {
    let logins = (0..FLOOD).map(|number| login_from(server, &forwarded(number)));
    held_off(&join_all(logins.map(|login| server.send(login))).await)
}

/// A wrong login that somebody passes on for an address.
fn login_from(server: &TestServer, forwarded: &str) -> RequestBuilder {
    let body = json!({ "login": "nobody", "password": WRONG });
    server.request(Method::POST, "/login", "").header("x-forwarded-for", forwarded).json(&body)
}

/// How many answers have this status.
fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

/// How many were told to wait, and for how long.
#[track_caller]
fn held_off(answers: &[Answer]) -> usize {
    for answer in answers.iter().filter(|answer| answer.status == 429) {
        let seconds = answer.header("retry-after").parse::<u32>();
        assert!(seconds.as_ref().is_ok_and(|seconds| (1..=60).contains(seconds)), "{seconds:?}");
    }
    count(answers, 429)
}

on_both_databases! {
    ten_thousand_bad_credentials_cost_no_bcrypt,
    a_flood_of_logins_is_held_off_and_valid_credentials_go_on,
    a_caller_who_floods_is_slowed_and_nobody_else,
    a_made_up_address_is_no_way_around_the_limit,
}
