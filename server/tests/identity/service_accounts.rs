//! Programs: a client id and a secret, exchanged for tokens that are short, narrow, and void when they should be.

use chrono::TimeDelta;
use kkartifact_model::token::ClientSecret;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::oidc::{ask_for_token, oauth_refused};
use crate::someone::{Robot, everything, init, promotion, shop, text};

/// What is wrong with a form, the error that answers it, and the form.
type Refused<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

async fn a_program_gets_a_short_token_for_its_secret(db: TestDatabase) {
    let server = shop(db).await;
    let new = json!({ "name": "deployer" });
    let made = server.post("/service-accounts", &server.admin, new).await.expect(201).json();
    let robot = Robot { id: text(&made["client_id"]), secret: text(&made["client_secret"]) };
    assert!(robot.id.starts_with("sa_deployer_") && robot.id.len() > "sa_deployer_".len(), "{made}");
    assert!(robot.secret.starts_with("kks_"), "{made}");
    let end = server.clock.now() + TimeDelta::days(90);
    assert_eq!(made["secret_expires_at"], json!(end), "{made}");
    robot.bind(&server, &["pull"], &json!({ "project": "shop" })).await;

    for answer in [robot.ask(&server, "").await, by_basic(&server, &robot.id, &robot.secret).await] {
        assert!(answer.header("cache-control").contains("no-store"), "{:?}", answer.headers);
        let given = answer.expect(200).json();
        assert_eq!(given["token_type"], "Bearer", "{given}");
        assert_eq!(given["expires_in"], 3600, "{given}");
        assert_eq!(given["scope"], "view pull", "{given}");
        let token = text(&given["access_token"]);
        let me = server.get("/whoami", &token).await.expect(200).json();
        assert_eq!((&me["kind"], &me["id"]), (&json!("service_account"), &json!(robot.id)), "{me}");
        server.get("/manifest/shop/web/v1", &token).await.expect(200);
        server.post("/promote", &token, promotion()).await.refused(403, "forbidden");
        server.post("/upload/init", &token, init("shop", "web")).await.refused(403, "forbidden");
        server.get("/projects/other", &token).await.refused(404, "not_found");
    }
    for path in ["/service-accounts".to_owned(), format!("/service-accounts/{}", robot.id)] {
        let shown = server.get(&path, &server.admin).await.expect(200).text();
        assert!(shown.contains(&robot.id), "{shown}");
        assert!(!shown.contains("kks_") && !shown.contains("$2"), "a secret is shown once: {shown}");
    }
    for bad in ["", "Deployer", "a_b", "a b", &"a".repeat(33), "ä"] {
        let new = json!({ "name": bad });
        server.post("/service-accounts", &server.admin, new).await.refused(400, "invalid_request");
    }
}

/// Whoever guesses learns neither which clients exist nor what is wrong.
async fn every_client_that_is_not_let_in_gets_the_same_answer(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (known, disabled) = (Robot::make(&server, "known").await, Robot::make(&server, "disabled").await);
    let brief = json!({ "name": "brief", "secret_days": 1 });
    let brief = server.post("/service-accounts", &server.admin, brief).await.expect(201).json();
    disabled.disable(&server, true).await;
    server.clock.advance(TimeDelta::days(1));
    let first = by_form(&server, "sa_nobody_00000000", "kks_x").await;
    for (what, id, secret) in [
        ("garbage", known.id.as_str(), "x"),
        ("an empty secret", known.id.as_str(), ""),
        ("another secret of the right form", known.id.as_str(), &of_the_right_form(&server, &known.id)),
        ("the secret of another", known.id.as_str(), &disabled.secret),
        ("half of the secret", known.id.as_str(), &known.secret[..30]),
        ("more than the secret", known.id.as_str(), &format!("{}0", known.secret)),
        ("the secret in capitals", known.id.as_str(), &known.secret.to_uppercase()),
        ("an API token", known.id.as_str(), server.admin.as_str()),
        ("a disabled client", disabled.id.as_str(), &disabled.secret),
        ("a secret that is over", &text(&brief["client_id"]), &text(&brief["client_secret"])),
        ("an unknown client", "sa_nobody_00000000", &of_the_right_form(&server, "sa_nobody_00000000")),
        ("a client by its name", "known", &known.secret),
        ("no client", "", &known.secret),
    ] {
        for answer in [by_form(&server, id, secret).await, by_basic(&server, id, secret).await] {
            assert_eq!(answer.status, 401, "{what}: {}", answer.text());
            assert_eq!(answer.text(), first.text(), "{what}");
            assert!(answer.header("www-authenticate").starts_with("Basic"), "{what}: {:?}", answer.headers);
        }
    }
    assert_eq!(first.json()["error"], "invalid_client");
    known.ask(&server, "").await.expect(200);
}

async fn what_is_malformed_is_told_in_the_words_of_the_standard(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["pull"], &json!({})).await;
    let (id, secret) = (("client_id", robot.id.as_str()), ("client_secret", robot.secret.as_str()));
    let grant = ("grant_type", "client_credentials");
    let forms: [Refused; 7] = [
        ("no grant", "invalid_request", &[id, secret]),
        ("nothing", "invalid_request", &[]),
        ("a parameter twice", "invalid_request", &[grant, grant, id, secret]),
        ("a password", "unsupported_grant_type", &[("grant_type", "password"), id, secret]),
        ("a code", "unsupported_grant_type", &[("grant_type", "authorization_code"), id, secret]),
        ("an unknown word", "invalid_scope", &[grant, id, secret, ("scope", "root")]),
        ("a word too many", "invalid_scope", &[grant, id, secret, ("scope", "pull root")]),
    ];
    for (what, error, form) in forms {
        oauth_refused(&ask_for_token(&server, form).await, &[error], what);
    }
    let as_json = json!({ "grant_type": grant.1, "client_id": id.1, "client_secret": secret.1 });
    oauth_refused(&server.post("/oauth/token", "", as_json).await, &["invalid_request"], "JSON");
    // What stands in an address stands in logs.
    let query = format!("/oauth/token?grant_type={}&client_id={}&client_secret={}", grant.1, id.1, secret.1);
    oauth_refused(&server.call(Method::POST, &query, "", None).await, &["invalid_request"], "query");
}

async fn a_scope_narrows_a_token_and_never_widens_it(db: TestDatabase) {
    let server = shop(db).await;
    let robot = Robot::with_role(&server, &["push", "pull"], &json!({ "project": "shop" })).await;
    let cases = [
        ("", "view pull push", 200, 201),
        ("pull", "view pull", 200, 403),
        ("files:read", "view pull", 200, 403),
        ("read", "view pull", 200, 403),
        ("files:write", "view push", 403, 201),
        ("push pull", "view pull push", 200, 201),
        ("files:read files:write", "view pull push", 200, 201),
        ("view", "view", 403, 403),
        ("storage:read", "view", 403, 403),
    ];
    for (number, (scope, granted, pull, push)) in cases.into_iter().enumerate() {
        let given = robot.ask(&server, scope).await.expect(200).json();
        assert_eq!(given["scope"], granted, "{scope}: {given}");
        let token = text(&given["access_token"]);
        server.get("/manifest/shop/web/v1", &token).await.expect(pull);
        let upload = json!({ "project": "shop", "app": "web", "version": format!("new{number}") });
        server.post("/upload/init", &token, upload).await.expect(push);
        server.get("/projects/other", &token).await.refused(404, "not_found");
    }
    for scope in
        ["promote", "admin", "pull promote", "admin:write", "storage:write", "PULL", "pull,push", "*"]
    {
        oauth_refused(&robot.ask(&server, scope).await, &["invalid_scope"], scope);
    }
    // What is given later is not in what was narrowed before.
    let narrow = robot.narrowed(&server, "pull").await;
    let wide = robot.token(&server).await;
    robot.bind(&server, &["promote"], &json!({ "project": "shop" })).await;
    server.post("/promote", &narrow, promotion()).await.refused(403, "forbidden");
    server.post("/promote", &wide, promotion()).await.expect(200);
}

async fn a_token_and_a_secret_end_when_their_time_is_over(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let token = robot.token(&server).await;
    server.clock.advance(TimeDelta::minutes(60) - TimeDelta::seconds(1));
    server.get("/projects", &token).await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    server.get("/projects", &token).await.refused(401, "unauthenticated");

    let ever = json!({ "name": "ever", "secret_days": 0 });
    let ever = server.post("/service-accounts", &server.admin, ever).await.expect(201).json();
    assert_eq!(ever["secret_expires_at"], Value::Null, "{ever}");
    let ever = Robot { id: text(&ever["client_id"]), secret: text(&ever["client_secret"]) };
    server.clock.advance(TimeDelta::days(90) - TimeDelta::minutes(60) - TimeDelta::seconds(1));
    robot.ask(&server, "").await.expect(200);
    server.clock.advance(TimeDelta::seconds(1));
    assert_eq!(robot.ask(&server, "").await.expect(401).json()["error"], "invalid_client");
    server.clock.advance(TimeDelta::days(3650));
    ever.ask(&server, "").await.expect(200);
    let too_long = json!({ "name": "long", "secret_days": 1_000_000 });
    server.post("/service-accounts", &server.admin, too_long).await.refused(400, "invalid_request");
}

async fn a_new_secret_ends_the_old_one_and_what_was_made_with_it(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["view"], &json!({})).await;
    let other = Robot::with_role(&server, &["view"], &json!({})).await;
    let (token, others) = (robot.token(&server).await, other.token(&server).await);
    // In every cache there is.
    for _ in 0..3 {
        server.get("/projects", &token).await.expect(200);
    }
    let path = format!("/service-accounts/{}/secret", robot.id);
    let made = server.post(&path, &server.admin, json!({ "secret_days": 7 })).await;
    assert!(made.status.is_success(), "{}", made.text());
    let made = made.json();
    assert_eq!(made["secret_expires_at"], json!(server.clock.now() + TimeDelta::days(7)), "{made}");
    let new = Robot { id: robot.id.clone(), secret: text(&made["client_secret"]) };
    assert_ne!(new.secret, robot.secret);

    server.get("/projects", &token).await.refused(401, "unauthenticated");
    server.get("/manifest/shop/web/v1", &token).await.refused(401, "unauthenticated");
    assert_eq!(robot.ask(&server, "").await.expect(401).json()["error"], "invalid_client");
    server.get("/projects", &new.token(&server).await).await.expect(200);
    server.get("/projects", &others).await.expect(200);
    other.ask(&server, "").await.expect(200);
}

async fn disabling_a_program_ends_its_tokens_on_the_next_request(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let robot = Robot::with_role(&server, &["admin"], &json!({})).await;
    let token = robot.token(&server).await;
    let made = text(&everything(&server, &token, "made by it").await.expect(201).json()["token"]);
    for token in [&token, &made] {
        server.get("/users", token).await.expect(200);
    }
    robot.disable(&server, true).await;
    for token in [&token, &made] {
        server.get("/users", token).await.refused(401, "unauthenticated");
    }
    assert_eq!(robot.ask(&server, "").await.expect(401).json()["error"], "invalid_client");
    robot.disable(&server, false).await;
    // What was signed before stays void.
    server.get("/users", &token).await.refused(401, "unauthenticated");
    server.get("/users", &robot.token(&server).await).await.expect(200);
    server.get("/users", &made).await.expect(200);
}

/// A secret that only the server itself could have made for the client: the form is right, the secret is not.
fn of_the_right_form(server: &TestServer, client: &str) -> String {
    ClientSecret::from_random([7; 20]).reveal(client, server.resources().auth.check_key())
}

async fn by_form(server: &TestServer, id: &str, secret: &str) -> Answer {
    let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
    ask_for_token(server, &form).await
}

async fn by_basic(server: &TestServer, id: &str, secret: &str) -> Answer {
    let request = server.request(Method::POST, "/oauth/token", "").basic_auth(id, Some(secret));
    server.send(request.form(&[("grant_type", "client_credentials")])).await
}

on_both_databases! {
    a_program_gets_a_short_token_for_its_secret,
    every_client_that_is_not_let_in_gets_the_same_answer,
    what_is_malformed_is_told_in_the_words_of_the_standard,
    a_scope_narrows_a_token_and_never_widens_it,
    a_token_and_a_secret_end_when_their_time_is_over,
    a_new_secret_ends_the_old_one_and_what_was_made_with_it,
    disabling_a_program_ends_its_tokens_on_the_next_request,
}
