//! People who log in at an OIDC provider.

use chrono::TimeDelta;
use kkartifact_testkit::oidc::{CLIENT_ID, Forgery, OidcProvider, REDIRECT_URI, SigningKey};
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::oidc::{Browser, location, parameter, server_for, turned_away, with, without};

async fn a_person_logs_in_and_may_what_the_groups_are_bound_to(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    shop_with_release_team(&server).await;
    server.make_app("other", "app").await;
    ada_in(&provider, &["release-team", "staff"]);

    let mut ada = Browser::new();
    let sent = ada.begin(&server, "/projects").await;
    let to_provider = location(&sent);
    asks_rightly(&to_provider, &provider);
    // The provider is another site: it leads back only with a cookie that such a navigation takes along.
    assert!(cookie_has(&sent, "httponly") && cookie_has(&sent, "samesite=lax"), "{:?}", sent.headers);
    let back = ada.visit_provider(&server, &to_provider).await;
    assert_eq!(parameter(&back, "state"), parameter(&to_provider, "state"));
    let done = ada.come_back(&server, &back).await;
    assert_eq!(location(&done).as_str(), "http://releases.test/projects");
    assert!(cookie_has(&done, "httponly") && cookie_has(&done, "samesite=strict"), "{:?}", done.headers);

    assert_eq!(ada.name(&server).await, "ada");
    let user = server.get("/users/ada", &server.admin).await.expect(200).json();
    assert_eq!(user["role"], "none", "{user}");
    assert_eq!(user["issuer"], provider.issuer(), "{user}");
    assert_eq!(user["groups"], json!(["release-team", "staff"]), "{user}");

    ada.get(&server, "/projects/shop").await.expect(200);
    promote(&mut ada, &server).await.expect(200);
    ada.get(&server, "/manifest/shop/web/v1").await.refused(403, "forbidden");
    let init = json!({ "project": "shop", "app": "web", "version": "v2" });
    ada.post(&server, "/upload/init", init).await.refused(403, "forbidden");
    ada.get(&server, "/users").await.refused(403, "forbidden");
    ada.get(&server, "/projects/other").await.refused(404, "not_found");
}

async fn groups_are_taken_anew_at_each_login(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    shop_with_release_team(&server).await;
    let logins: [(&[&str], u16); 5] = [
        (&["release-team"], 200),
        (&[], 404),
        (&["staff"], 404),
        // A group's name is the whole of it.
        (&["release-team-2", "Release-Team", "release"], 404),
        (&["staff", "release-team"], 200),
    ];
    for (groups, status) in logins {
        ada_in(&provider, groups);
        let mut ada = Browser::new();
        location(&ada.log_in(&server, "/").await);
        assert_eq!(ada.name(&server).await, "ada");
        let answer = promote(&mut ada, &server).await;
        assert_eq!(answer.status, status, "{groups:?}: {}", answer.text());
    }
}

async fn a_return_is_good_once_and_only_in_the_browser_that_left(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    ada_in(&provider, &[]);

    // What leads into somebody else's account is put before a browser that never asked, or asked for itself.
    let mallorys = Browser::new().leave(&server, "/").await;
    let mut victim = Browser::new();
    turned_away(&victim.come_back(&server, &mallorys).await, "no login was begun");
    victim.is_nobody(&server, "no login was begun").await;
    victim.begin(&server, "/").await;
    turned_away(&victim.come_back(&server, &mallorys).await, "another's state");
    victim.is_nobody(&server, "another's state").await;
    let own = victim.leave(&server, "/").await;
    let mixed = returning(&parameter(&mallorys, "code"), &parameter(&own, "state"));
    turned_away(&victim.come_back(&server, &mixed).await, "another's code");
    victim.is_nobody(&server, "another's code").await;

    // The first is what the provider says when a person declines.
    let returns =
        ["error=access_denied&state=OWN", "code=x&state=OWN", "state=OWN", "code=x", "code=x&state=y", ""];
    for wrong in returns {
        let mut browser = Browser::new();
        let own = browser.leave(&server, "/").await;
        let path = format!("/oidc/callback?{}", wrong.replace("OWN", &parameter(&own, "state")));
        turned_away(&browser.get(&server, &path).await, wrong);
        browser.is_nobody(&server, wrong).await;
    }

    let mut ada = Browser::new();
    let back = ada.leave(&server, "/").await;
    let mut again = ada.clone();
    location(&ada.come_back(&server, &back).await);
    turned_away(&again.come_back(&server, &back).await, "the second time");
    again.is_nobody(&server, "the second time").await;
    assert_eq!(ada.name(&server).await, "ada");
}

async fn a_session_that_was_planted_before_is_not_the_one_after(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    provider.set_person("subject-m", "mallory", "mallory@example.com", &[]);
    let mut mallory = Browser::new();
    location(&mallory.log_in(&server, "/").await);

    // Both what mallory made up and what is mallory's for real, under the names that the server uses.
    ada_in(&provider, &[]);
    let mut made_up = mallory.clone();
    for value in made_up.cookies.values_mut() {
        *value = "chosen-by-mallory".into();
    }
    for mut ada in [made_up, mallory.clone()] {
        let planted = ada.cookies.clone();
        assert!(!planted.is_empty());
        location(&ada.log_in(&server, "/").await);
        assert_eq!(ada.name(&server).await, "ada");
        for (name, value) in &planted {
            assert_ne!(ada.cookies.get(name), Some(value), "{name}");
        }
        assert_eq!(mallory.name(&server).await, "mallory");
    }
}

async fn nobody_is_led_off_the_site_after_a_login(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    ada_in(&provider, &[]);
    for target in [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "/\t/evil.example/",
        "/\n/evil.example/",
        " //evil.example/",
        "https:evil.example",
        "http:/\\evil.example",
        "javascript:alert(1)",
        "data:text/html,evil",
        "http://releases.test@evil.example/",
        "http://releases.test.evil.example/",
        "/x\r\nlocation: https://evil.example/",
    ] {
        let mut ada = Browser::new();
        let sent = ada.begin(&server, target).await;
        if sent.status.is_client_error() {
            continue;
        }
        let back = ada.visit_provider(&server, &location(&sent)).await;
        let landed = location(&ada.come_back(&server, &back).await);
        assert_eq!(landed.origin().ascii_serialization(), "http://releases.test", "{target:?}: {landed}");
    }
    // What is on the site is kept, with its query.
    for target in ["/", "/projects", "/projects?q=a%20b"] {
        let landed = location(&Browser::new().log_in(&server, target).await);
        assert_eq!(landed.as_str(), format!("http://releases.test{target}"));
    }
}

async fn who_is_disabled_cannot_log_in(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    ada_in(&provider, &[]);
    let mut ada = Browser::new();
    location(&ada.log_in(&server, "/").await);
    disable_ada(&server, true).await;
    ada.is_nobody(&server, "her session").await;
    let mut again = Browser::new();
    turned_away(&again.log_in(&server, "/").await, "disabled");
    again.is_nobody(&server, "disabled").await;
    disable_ada(&server, false).await;
    location(&again.log_in(&server, "/").await);
    assert_eq!(again.name(&server).await, "ada");
    ada.is_nobody(&server, "her session from before").await;
}

async fn who_is_unknown_is_refused_without_sign_up(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let mut server = server_for(db, &provider, |_| {}).await;
    ada_in(&provider, &[]);
    location(&Browser::new().log_in(&server, "/").await);
    server.restart_with(|config| config.oidc.sign_up = false).await;
    location(&Browser::new().log_in(&server, "/").await);
    provider.set_person("subject-g", "grace", "grace@example.com", &["release-team"]);
    let mut grace = Browser::new();
    grace.log_in(&server, "/").await.expect(403);
    grace.is_nobody(&server, "unknown").await;
    server.get("/users/grace", &server.admin).await.refused(404, "not_found");
    // Until an admin makes the account, by what the provider calls her.
    let account = json!({ "login": "grace.h", "role": "none", "oidc_subject": "subject-g" });
    let made = server.post("/users", &server.admin, account.clone()).await.expect(201).json();
    assert!(made["temporary_password"].is_null(), "{made}");
    server.post("/users/grace.h/password", &server.admin, json!({})).await.refused(400, "invalid_request");
    location(&grace.log_in(&server, "/").await);
    assert_eq!(grace.get(&server, "/whoami").await.expect(200).json()["id"], "grace.h");
    let with_password = json!({ "login": "x", "oidc_subject": "s", "password": "correct horse battery" });
    server.post("/users", &server.admin, with_password).await.refused(400, "invalid_request");
    let twice = json!({ "login": "grace.i", "oidc_subject": "subject-g" });
    server.post("/users", &server.admin, twice).await.refused(409, "already_exists");
}

async fn a_forged_id_token_opens_nothing(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    ada_in(&provider, &[]);
    let forgeries: [(&str, Forgery); 14] = [
        ("another nonce", |key, claims| key.sign(&with(claims, "nonce", "another"))),
        ("no nonce", |key, claims| key.sign(&without(claims, "nonce"))),
        ("another audience", |key, claims| key.sign(&with(claims, "aud", "another"))),
        ("no audience", |key, claims| key.sign(&without(claims, "aud"))),
        ("another issuer", |key, claims| key.sign(&with(claims, "iss", "https://id.example.com"))),
        ("no issuer", |key, claims| key.sign(&without(claims, "iss"))),
        ("no subject", |key, claims| key.sign(&without(claims, "sub"))),
        ("no end", |key, claims| key.sign(&without(claims, "exp"))),
        ("expired", |key, claims| key.sign(&with(claims, "exp", claims["iat"].as_i64().unwrap() - 120))),
        ("no algorithm", SigningKey::unsigned),
        ("key confusion", |key, claims| key.confused(claims).remove(0)),
        ("another key", |key, claims| SigningKey::generate().named(key.kid()).sign(claims)),
        ("unknown key", |key, claims| key.clone().named("unknown").sign(claims)),
        ("no token", |_, _| String::new()),
    ];
    for (what, forgery) in forgeries {
        provider.forge_id_tokens(forgery);
        let mut browser = Browser::new();
        turned_away(&browser.log_in(&server, "/").await, what);
        browser.is_nobody(&server, what).await;
        server.get("/users/ada", &server.admin).await.refused(404, "not_found");
    }
    provider.forge_id_tokens(SigningKey::sign);
    // Keys may have been fetched a moment ago.
    server.clock.advance(TimeDelta::minutes(5));
    let mut ada = Browser::new();
    location(&ada.log_in(&server, "/").await);
    assert_eq!(ada.name(&server).await, "ada");
}

async fn a_client_with_a_secret_sends_it(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    provider.set_client_secret("secret-of-the-client");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("oidc-secret");
    // As an editor writes it, with a line's end.
    std::fs::write(&file, "secret-of-the-client\n").unwrap();
    let server = server_for(db, &provider, |config| config.oidc.client_secret_file = Some(file)).await;
    ada_in(&provider, &[]);
    let mut ada = Browser::new();
    location(&ada.log_in(&server, "/").await);
    assert_eq!(ada.name(&server).await, "ada");
    // The provider refuses the server, and so nobody gets in.
    provider.set_client_secret("another");
    let mut again = Browser::new();
    let answer = again.log_in(&server, "/").await;
    assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{}", answer.text());
    again.is_nobody(&server, "the client was refused").await;
}

/// Names at the provider can be chosen or change hands; only its subjects say who somebody is.
async fn a_name_at_the_provider_takes_over_no_account(db: TestDatabase) {
    let provider = OidcProvider::start().await;
    let server = server_for(db, &provider, |_| {}).await;
    let local = json!({ "login": "ada", "role": "admin", "password": "correct horse battery" });
    server.post("/users", &server.admin, local).await.expect(201);
    provider.set_person("subject-m", "ada", "ada@example.com", &[]);
    let mut mallory = Browser::new();
    mallory.log_in(&server, "/").await;
    let users = mallory.get(&server, "/users").await;
    assert!(users.status == 401 || users.status == 403, "{}", users.text());
    let ada = server.get("/users/ada", &server.admin).await.expect(200).json();
    assert_eq!((&ada["issuer"], &ada["role"]), (&Value::Null, &json!("admin")), "{ada}");

    provider.set_person("subject-g", "grace", "grace@example.com", &[]);
    let mut grace = Browser::new();
    location(&grace.log_in(&server, "/").await);
    let name = grace.name(&server).await;
    provider.set_person("subject-h", "grace", "grace@example.com", &[]);
    let mut heir = Browser::new();
    if heir.log_in(&server, "/").await.status.is_redirection() {
        assert_ne!(heir.name(&server).await, name);
    }
    // And who is renamed there remains who they are.
    provider.set_person("subject-g", "grace.hopper", "hopper@example.com", &[]);
    let mut renamed = Browser::new();
    location(&renamed.log_in(&server, "/").await);
    let users = server.get("/users", &server.admin).await.expect(200).text();
    assert!(!users.contains("grace.hopper") || !users.contains("\"grace\""), "one account, not two: {users}");
}

/// The person of most tests.
fn ada_in(provider: &OidcProvider, groups: &[&str]) {
    provider.set_person("subject-a", "ada", "ada@example.com", groups);
}

async fn disable_ada(server: &TestServer, disabled: bool) {
    let change = Some(json!({ "disabled": disabled }));
    server.call(Method::PATCH, "/users/ada", &server.admin, change).await.expect(200);
}

/// A version in shop/web that the release team may promote.
async fn shop_with_release_team(server: &TestServer) {
    server.make_app("shop", "web").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    let binding = json!({
        "subject": { "group": "release-team" },
        "permissions": ["promote"],
        "scope": { "project": "shop" },
    });
    server.post("/role-bindings", &server.admin, binding).await.expect(201);
}

async fn promote(browser: &mut Browser, server: &TestServer) -> Answer {
    let body = json!({ "project": "shop", "app": "web", "version": "v1" });
    browser.post(server, "/promote", body).await
}

/// The authorization request: code flow with PKCE, and nothing that could be guessed.
fn asks_rightly(url: &Url, provider: &OidcProvider) {
    assert_eq!(url.as_str().split('?').next().unwrap(), format!("{}/authorize", provider.issuer()));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", REDIRECT_URI),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(parameter(url, name), value, "{url}");
    }
    assert!(parameter(url, "scope").split(' ').any(|scope| scope == "openid"), "{url}");
    assert_eq!(parameter(url, "code_challenge").len(), 43, "a SHA-256 in base64url: {url}");
    for name in ["state", "nonce"] {
        assert!(parameter(url, name).len() >= 22, "{name} has 128 bits: {url}");
    }
    assert_eq!(parameter(url, "client_secret"), "", "{url}");
}

fn returning(code: &str, state: &str) -> Url {
    Url::parse_with_params(REDIRECT_URI, &[("code", code), ("state", state)]).unwrap()
}

/// Whether an answer sets a cookie with this attribute.
fn cookie_has(answer: &Answer, attribute: &str) -> bool {
    let lines = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
    lines.flat_map(|line| line.split(';')).any(|part| part.trim().eq_ignore_ascii_case(attribute))
}

on_both_databases! {
    a_person_logs_in_and_may_what_the_groups_are_bound_to,
    groups_are_taken_anew_at_each_login,
    a_return_is_good_once_and_only_in_the_browser_that_left,
    a_session_that_was_planted_before_is_not_the_one_after,
    nobody_is_led_off_the_site_after_a_login,
    who_is_disabled_cannot_log_in,
    who_is_unknown_is_refused_without_sign_up,
    a_forged_id_token_opens_nothing,
    a_client_with_a_secret_sends_it,
    a_name_at_the_provider_takes_over_no_account,
}
