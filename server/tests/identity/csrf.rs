//! Other sites: they can make a browser send requests, and neither change anything nor read an answer.

use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::header::HeaderName;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::someone::{PASSWORD, done, log_in, make_person, promotion, script_token, shop, try_login};

/// A page that is not of this server.
const EVIL: &str = "https://evil.test";

async fn a_change_with_the_cookie_wants_the_csrf_token_of_that_session(db: TestDatabase) {
    let server = shop(db).await;
    for login in ["ada", "eve"] {
        make_person(&server, login, "admin").await;
    }
    let ada = log_in(&server, "ada").await;
    let (elsewhere, eve) = (log_in(&server, "ada").await, log_in(&server, "eve").await);
    let (upper, shorter) = (ada.csrf.to_uppercase(), &ada.csrf[1..]);
    let longer = format!("{}x", ada.csrf);
    let wrong = ["", "x", &elsewhere.csrf, &eve.csrf, &upper, shorter, &longer, &ada.id, EVIL];
    for (method, path, body) in changes() {
        let request = || {
            let request = ada.request(&server, method.clone(), path);
            if let Some(body) = &body { request.json(body) } else { request }
        };
        server.send(request()).await.refused(403, "csrf_required");
        for token in wrong {
            server.send(request().header("x-csrf-token", token)).await.refused(403, "csrf_required");
        }
        // Whichever of the two counts, it is not enough.
        let beside = server.send(request().header("authorization", "Basic eDp4")).await;
        assert!(matches!(beside.status.as_u16(), 401 | 403), "{}: {}", beside.status, beside.text());
    }
    // Nothing of it was done.
    server.get("/projects/evil", &server.admin).await.refused(404, "not_found");
    let project = server.get("/projects/shop", &server.admin).await.expect(200).json();
    assert_eq!(project["description"], "", "{project}");
    server.get("/projects/shop/apps/web/versions/v1", &server.admin).await.expect(200);
    server.get("/projects/shop/apps/web/versions/evil", &server.admin).await.refused(404, "not_found");
    let eves = server.get("/users/eve", &server.admin).await.expect(200).json();
    assert_eq!((&eves["role"], &eves["must_change_password"]), (&json!("admin"), &json!(false)), "{eves}");
    done(try_login(&server, "ada", PASSWORD).await);

    // What only reads needs nothing more, and the right token does it.
    ada.get(&server, "/users").await.expect(200);
    server.send(ada.request(&server, Method::HEAD, "/users")).await.expect(200);
    let change = Some(json!({ "description": "mine" }));
    ada.call(&server, Method::PATCH, "/projects/shop", change).await.expect(200);
}

/// What another site would like to be done.
fn changes() -> Vec<(Method, &'static str, Option<Value>)> {
    let password = json!({ "current": PASSWORD, "new": "evil horse battery" });
    let token = json!({ "name": "evil", "permissions": ["admin"], "scopes": [{}] });
    vec![
        (Method::POST, "/projects", Some(json!({ "name": "evil" }))),
        (Method::PATCH, "/projects/shop", Some(json!({ "description": "evil" }))),
        (Method::PATCH, "/users/eve", Some(json!({ "role": "none" }))),
        (Method::PUT, "/password", Some(password)),
        (Method::POST, "/tokens", Some(token)),
        (Method::POST, "/promote", Some(promotion())),
        (Method::POST, "/users/eve/password", None),
        (Method::POST, "/keys/rotate", None),
        (Method::PUT, "/file/shop/web/evil?path=a", None),
        (Method::DELETE, "/projects/shop/apps/web/versions/v1", None),
        (Method::DELETE, "/projects/shop", None),
        (Method::POST, "/logout", None),
    ]
}

/// Browsers add cookies by themselves, this header never.
async fn what_no_browser_sends_by_itself_needs_no_csrf_token(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let script = script_token(&server, "ada").await;
    done(server.post("/projects", &script, json!({ "name": "one" })).await);
    done(server.post("/projects", &server.admin, json!({ "name": "two" })).await);
    // Also beside a cookie: the header is what counts.
    let ada = log_in(&server, "ada").await;
    let both = ada.request(&server, Method::POST, "/projects").bearer_auth(&script);
    done(server.send(both.json(&json!({ "name": "three" }))).await);
}

/// A form of another site can send text, and a login has no token that it could lack.
async fn a_form_of_another_site_logs_nobody_in(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "mallory", "none").await;
    let body = json!({ "login": "mallory", "password": PASSWORD }).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let mut request = server.request(Method::POST, "/login", "").header("origin", EVIL);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = server.send(request.body(body.clone())).await;
        assert_eq!(answer.header("set-cookie"), "", "{kind}");
        answer.refused(415, "unsupported_media_type");
    }
}

async fn other_origins_are_told_nothing_unless_they_are_named(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    for origin in [EVIL, "null", "http://localhost", &server.url] {
        let login = json!({ "login": "ada", "password": PASSWORD });
        let login = server.request(Method::POST, "/login", "").json(&login);
        for request in [
            ada.request(&server, Method::GET, "/users"),
            server.request(Method::GET, "/whoami", ""),
            server.request(Method::GET, "/.well-known/jwks.json", ""),
            login,
            preflight(&server, "/users"),
            preflight(&server, "/login"),
            preflight(&server, "/nowhere"),
        ] {
            let answer = server.send(request.header("origin", origin)).await;
            let names: Vec<_> = answer.headers.keys().map(HeaderName::as_str).collect();
            let told = names.iter().any(|name| name.starts_with("access-control-"));
            assert!(!told, "{origin}: {names:?}");
        }
        let answer = server.send(preflight(&server, "/users").header("origin", origin)).await;
        assert!(answer.status.is_client_error(), "{origin}: {}", answer.status);
    }
}

async fn only_the_origin_that_is_named_may_read_answers(db: TestDatabase) {
    let named = "https://ui.test";
    let server = TestServer::start_with(db, |config| config.server.cors_origins = vec![named.into()]).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let requests = || {
        [
            ada.request(&server, Method::GET, "/users"),
            server.request(Method::GET, "/whoami", ""),
            preflight(&server, "/users"),
            preflight(&server, "/nowhere"),
        ]
    };
    for origin in [
        EVIL,
        "null",
        "http://ui.test",
        "https://ui.test:8443",
        "https://ui.test.evil.test",
        "https://evil-ui.test",
        "https://evil.ui.test",
        "https://ui.test/",
        "*",
    ] {
        for request in requests() {
            let answer = server.send(request.header("origin", origin)).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}: {:?}", answer.headers);
        }
    }
    for request in requests() {
        let answer = server.send(request.header("origin", named)).await;
        assert_eq!(answer.header("access-control-allow-origin"), named, "{:?}", answer.headers);
        assert_eq!(answer.header("access-control-allow-credentials"), "true", "{:?}", answer.headers);
        // Or a cache gives one origin what was for the other.
        let vary = answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap().to_lowercase());
        assert!(vary.collect::<Vec<_>>().join(",").contains("origin"), "{:?}", answer.headers);
    }
    let answer = server.send(preflight(&server, "/users").header("origin", named)).await;
    assert!(answer.header("access-control-allow-headers").contains("x-csrf-token"), "{:?}", answer.headers);
    // To be allowed to read is not to be allowed to change: that still takes the token.
    let change = ada.request(&server, Method::POST, "/projects").header("origin", named);
    server.send(change.json(&json!({ "name": "x" }))).await.refused(403, "csrf_required");
}

/// What a browser asks before it sends a page's request to another origin.
fn preflight(server: &TestServer, path: &str) -> RequestBuilder {
    server
        .request(Method::OPTIONS, path, "")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-csrf-token")
}

on_both_databases! {
    a_change_with_the_cookie_wants_the_csrf_token_of_that_session,
    what_no_browser_sends_by_itself_needs_no_csrf_token,
    a_form_of_another_site_logs_nobody_in,
    other_origins_are_told_nothing_unless_they_are_named,
    only_the_origin_that_is_named_may_read_answers,
}
