//! People: what a login gives, what roles open, and what ends with an account.

use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::someone::{
    PASSWORD, Session, bind, change_person, done, everything, init, log_in, make_person, personal_token,
    promotion, said, script_token, shop, text, try_login,
};

/// What an account shows of itself, and all of it.
const SHOWN: [&str; 8] = [
    "created_at",
    "disabled_at",
    "groups",
    "issuer",
    "locked_until",
    "login",
    "must_change_password",
    "role",
];

async fn the_cookie_of_a_login_is_out_of_reach_of_scripts_and_other_sites(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    let answer = done(try_login(&server, "ada", PASSWORD).await);
    let (name, value, attributes) = cookie(&answer);
    assert_eq!(name, "kka_session");
    for wanted in ["httponly", "samesite=strict", "path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{wanted} not in {attributes:?}");
    }
    for unwanted in ["secure", "domain"] {
        let found = attributes.iter().any(|attribute| attribute.starts_with(unwanted));
        assert!(!found, "{unwanted} in {attributes:?}");
    }
    assert!(answer.header("cache-control").contains("no-store"), "{:?}", answer.headers);
    assert!(!answer.text().contains(&value), "a script could read it in the body");
    let body = answer.json();
    assert!(body.get("access_token").is_none(), "{body}");
    assert_eq!(body["user"]["login"], "ada", "{body}");

    let session = Session::of(&answer);
    let me = session.get(&server, "/whoami").await.expect(200).json();
    assert_eq!((&me["kind"], &me["id"], &me["name"]), (&json!("user"), &json!("ada"), &json!("ada")), "{me}");
    assert_eq!(me["csrf_token"], session.csrf, "{me}");
}

async fn over_https_no_other_host_and_no_plain_page_can_set_the_cookie(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| {
        config.server.public_url = Some("https://releases.test".into());
    })
    .await;
    make_person(&server, "ada", "none").await;
    let answer = done(try_login(&server, "ada", PASSWORD).await);
    let (name, value, attributes) = cookie(&answer);
    // By this name browsers demand the attributes.
    assert_eq!(name, "__Host-kka_session");
    for wanted in ["secure", "httponly", "samesite=strict", "path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{wanted} not in {attributes:?}");
    }
    assert!(!attributes.iter().any(|attribute| attribute.starts_with("domain")), "{attributes:?}");
    Session::of(&answer).get(&server, "/whoami").await.expect(200);
    let plain = server.request(Method::GET, "/whoami", "").header("cookie", format!("kka_session={value}"));
    server.send(plain).await.refused(401, "unauthenticated");
}

async fn a_script_gets_its_credential_in_the_body_and_never_a_cookie(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let body = json!({ "login": "ada", "password": PASSWORD, "cookie": false });
    let answer = done(server.post("/login", "", body).await);
    assert!(answer.headers.get("set-cookie").is_none(), "{:?}", answer.headers);
    let token = text(&answer.json()["access_token"]);
    let me = server.get("/whoami", &token).await.expect(200).json();
    assert_eq!((&me["kind"], &me["name"]), (&json!("user"), &json!("ada")), "{me}");
    // Browsers don't add this header by themselves: no page can forge the request.
    done(server.post("/projects", &token, json!({ "name": "shop" })).await);
}

async fn a_readonly_person_sees_and_reads_everything_and_does_nothing(db: TestDatabase) {
    let server = shop(db).await;
    make_person(&server, "ada", "readonly").await;
    let ada = log_in(&server, "ada").await;
    for path in [
        "/projects/shop",
        "/projects/other/apps/app",
        "/projects/shop/apps/web/versions/v1",
        "/manifest/shop/web/v1",
        "/file/shop/web/v1?path=a",
    ] {
        ada.get(&server, path).await.expect(200);
    }
    for path in ["/users", "/service-accounts", "/trust-policies", "/keys", "/audit", "/projects/shop/audit"]
    {
        ada.get(&server, path).await.refused(403, "forbidden");
    }
    let token = json!({ "name": "mine", "permissions": ["view"], "scopes": [{}] });
    let role = json!({ "subject": { "user": "ada" }, "permissions": ["view"], "scope": {} });
    for (method, path, body) in [
        (Method::POST, "/promote", promotion()),
        (Method::POST, "/upload/init", init("shop", "web")),
        (Method::POST, "/projects", json!({ "name": "mine" })),
        (Method::PATCH, "/projects/shop", json!({ "description": "mine" })),
        (Method::PATCH, "/users/ada", json!({ "role": "admin" })),
        (Method::POST, "/projects/shop/apps/web/prune", json!({ "keep": 1, "dry_run": true })),
        (Method::POST, "/tokens", token),
        (Method::POST, "/role-bindings", role),
    ] {
        ada.call(&server, method, path, Some(body)).await.refused(403, "forbidden");
    }
    let delete = ada.call(&server, Method::DELETE, "/projects/shop/apps/web/versions/v1", None).await;
    delete.refused(403, "forbidden");
    assert_eq!(role_of(&server, "ada").await, "readonly");
}

async fn a_person_without_a_role_does_what_a_binding_says_and_nowhere_else(db: TestDatabase) {
    let server = shop(db).await;
    make_person(&server, "ada", "none").await;
    let ada = script_token(&server, "ada").await;
    server.get("/projects/shop", &ada).await.refused(404, "not_found");
    server.post("/upload/init", &ada, init("shop", "web")).await.refused(404, "not_found");

    bind(&server, &json!({ "user": "ada" }), &["push"], &json!({ "project": "shop" })).await;
    server.push_files("shop/web", "v2", &ada, &[("a", b"new content")]).await.expect(201);
    server.get("/manifest/shop/web/v1", &ada).await.refused(403, "forbidden");
    server.post("/promote", &ada, promotion()).await.refused(403, "forbidden");
    let change = Some(json!({ "description": "x" }));
    server.call(Method::PATCH, "/projects/shop", &ada, change).await.refused(403, "forbidden");
    server.get("/projects/other", &ada).await.refused(404, "not_found");
    server.post("/upload/init", &ada, init("other", "app")).await.refused(404, "not_found");
    server.post("/upload/init", &ada, init("new", "app")).await.refused(404, "not_found");
    let projects = server.get("/projects", &ada).await.expect(200).text();
    assert!(projects.contains("shop") && !projects.contains("other"), "{projects}");
}

async fn a_new_role_holds_on_the_next_request_of_every_credential(db: TestDatabase) {
    let server = shop(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let token =
        text(&personal_token(&server, &ada, &["admin"], &json!({})).await.expect(201).json()["token"]);
    for (role, users, project) in
        [("admin", 200, 200), ("readonly", 403, 200), ("none", 403, 404), ("admin", 200, 200)]
    {
        change_person(&server, "ada", json!({ "role": role })).await.expect(200);
        for (path, status) in [("/users", users), ("/projects/shop", project)] {
            ada.get(&server, path).await.expect(status);
            server.get(path, &token).await.expect(status);
        }
    }
}

async fn disabling_somebody_ends_everything_of_theirs_on_the_next_request(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "admin").await;
    let ada = log_in(&server, "ada").await;
    let script = script_token(&server, "ada").await;
    let tokens = tokens_of(&server, &ada).await;
    for token in tokens.iter().chain([&script]) {
        server.get("/users", token).await.expect(200);
    }

    change_person(&server, "ada", json!({ "disabled": true })).await.expect(200);
    ada.is_over(&server, "disabled").await;
    for token in tokens.iter().chain([&script]) {
        server.get("/users", token).await.refused(401, "unauthenticated");
        server.get("/manifest/shop/web/v1", token).await.refused(401, "unauthenticated");
    }
    let refused = try_login(&server, "ada", PASSWORD).await;
    assert_eq!(said(&refused), said(&try_login(&server, "nobody", PASSWORD).await));

    // What was ended stays ended; what only rested works again.
    change_person(&server, "ada", json!({ "disabled": false })).await.expect(200);
    ada.is_over(&server, "a session from before").await;
    server.get("/users", &script).await.refused(401, "unauthenticated");
    for token in &tokens {
        server.get("/users", token).await.expect(200);
    }
    log_in(&server, "ada").await.get(&server, "/users").await.expect(200);
}

/// Tokens that hang on a person: a personal one, one for a robot, and two that were made with tokens.
async fn tokens_of(server: &TestServer, person: &Session) -> Vec<String> {
    let personal = personal_token(server, person, &["admin"], &json!({})).await.expect(201).json();
    let personal = text(&personal["token"]);
    let robot = json!({ "name": "robot", "permissions": ["admin"], "scopes": [{}] });
    let robot = person.call(server, Method::POST, "/tokens", Some(robot)).await.expect(201).json();
    let child = text(&everything(server, &personal, "child").await.expect(201).json()["token"]);
    let grandchild = text(&everything(server, &child, "grandchild").await.expect(201).json()["token"]);
    vec![personal, text(&robot["token"]), child, grandchild]
}

async fn accounts_are_shown_without_anything_to_guess_against(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let new = json!({ "login": "ada", "role": "none", "password": PASSWORD });
    let made = server.post("/users", &server.admin, new).await.expect(201);
    let got = server.get("/users/ada", &server.admin).await.expect(200);
    let listed = server.get("/users", &server.admin).await.expect(200);
    let changed = change_person(&server, "ada", json!({ "role": "readonly" })).await.expect(200);
    let in_list = listed.json()["items"][0].clone();
    for account in [made.json(), got.json(), in_list, changed.json()] {
        let mut keys: Vec<_> = account.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, SHOWN, "{account}");
    }
    for answer in [&made, &got, &listed, &changed] {
        let text = answer.text();
        assert!(!text.contains("$2") && !text.contains(PASSWORD), "{text}");
    }
    server.post("/users", &server.admin, json!({ "login": "ada", "role": "admin" })).await.expect(409);
    for bad in ["", "Ada", "a b", "ada/../eve", "ada\n", &"a".repeat(65)] {
        let new = json!({ "login": bad, "role": "none", "password": PASSWORD });
        server.post("/users", &server.admin, new).await.refused(400, "invalid_request");
    }
}

async fn a_change_of_an_account_sets_nothing_that_it_may_not_name(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    let before = server.get("/users/ada", &server.admin).await.expect(200).json();
    for body in [
        json!({ "is_admin": true }),
        json!({ "generation": 7 }),
        json!({ "password_hash": "$2b$04$abcdefghijklmnopqrstuu" }),
        json!({ "password": "correct horse staple" }),
        json!({ "must_change_password": false }),
        json!({ "principal_id": 1 }),
        json!({ "login": "grace" }),
        json!({ "groups": ["release-team"] }),
        json!({ "locked_until": null }),
        json!({ "role": "root" }),
        json!({ "role": ["admin"] }),
        json!({ "role": "admin", "is_admin": true }),
        json!("admin"),
    ] {
        change_person(&server, "ada", body).await.refused(400, "invalid_request");
    }
    assert_eq!(server.get("/users/ada", &server.admin).await.expect(200).json(), before);
    log_in(&server, "ada").await;
    change_person(&server, "nobody", json!({ "role": "none" })).await.refused(404, "not_found");
}

async fn role_of(server: &TestServer, login: &str) -> Value {
    server.get(&format!("/users/{login}"), &server.admin).await.expect(200).json()["role"].clone()
}

/// Name, value and attributes of the cookie that an answer sets.
#[track_caller]
fn cookie(answer: &Answer) -> (String, String, Vec<String>) {
    let mut parts = answer.header("set-cookie").split(';');
    let (name, value) = parts.next().unwrap().split_once('=').unwrap();
    let attributes = parts.map(|part| part.trim().to_lowercase()).collect();
    (name.to_owned(), value.to_owned(), attributes)
}

on_both_databases! {
    the_cookie_of_a_login_is_out_of_reach_of_scripts_and_other_sites,
    over_https_no_other_host_and_no_plain_page_can_set_the_cookie,
    a_script_gets_its_credential_in_the_body_and_never_a_cookie,
    a_readonly_person_sees_and_reads_everything_and_does_nothing,
    a_person_without_a_role_does_what_a_binding_says_and_nowhere_else,
    a_new_role_holds_on_the_next_request_of_every_credential,
    disabling_somebody_ends_everything_of_theirs_on_the_next_request,
    accounts_are_shown_without_anything_to_guess_against,
    a_change_of_an_account_sets_nothing_that_it_may_not_name,
}
