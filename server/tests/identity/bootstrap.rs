//! The one-time secret: what it is spent for, and what does not spend it.

use futures_util::future::join_all;
use kkartifact_service::bootstrap;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use serde_json::{Value, json};

use crate::someone::{PASSWORD, Session, done, make_person, text, try_login};

async fn a_person_is_made_and_a_token_only_if_it_is_wanted(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let wish = json!({ "secret": new_secret(&server).await, "login": "ada", "password": PASSWORD });
    let made = spend(&server, wish).await.expect(201).json();
    assert!(made.get("token").is_none(), "{made}");
    assert_eq!((&made["user"]["login"], &made["user"]["role"]), (&json!("ada"), &json!("admin")), "{made}");
    assert_eq!(made["user"]["must_change_password"], false, "{made}");
    let ada = Session::of(&done(try_login(&server, "ada", PASSWORD).await));
    ada.get(&server, "/users").await.expect(200);

    let wish = json!({
        "secret": new_secret(&server).await, "login": "grace", "password": PASSWORD, "token_name": "hers",
    });
    let both = spend(&server, wish).await.expect(201).json();
    assert_eq!((&both["name"], &both["owner"]), (&json!("hers"), &json!("grace")), "{both}");
    server.get("/users", &text(&both["token"])).await.expect(200);
    done(try_login(&server, "grace", PASSWORD).await);

    let token = spend(&server, json!({ "secret": new_secret(&server).await })).await.expect(201).json();
    assert_eq!((&token["name"], &token["owner"]), (&json!("first-admin"), &Value::Null), "{token}");
    assert!(token.get("user").is_none(), "{token}");
    let total = server.get("/tokens", &server.admin).await.expect(200).json()["total"].clone();
    assert_eq!(total, 3, "the first one, hers, and the last one");
}

async fn what_is_refused_does_not_spend_the_secret(db: TestDatabase) {
    let server = TestServer::start(db).await;
    make_person(&server, "ada", "none").await;
    let secret = new_secret(&server).await;
    let wish =
        |login: Value, password: Value| json!({ "secret": secret, "login": login, "password": password });
    for bad in [
        wish(json!("grace"), json!("short")),
        wish(json!("grace"), json!("x1".repeat(37))),
        wish(json!("grace"), json!("grace.grace")),
        wish(json!("grace.hopper"), json!("grace.hopper")),
        wish(json!("grace"), json!("aaaaaaaaaaaaaaaa")),
        wish(json!("grace"), Value::Null),
        wish(Value::Null, json!(PASSWORD)),
        wish(json!(""), json!(PASSWORD)),
        wish(json!("Grace Hopper"), json!(PASSWORD)),
        json!({ "secret": secret, "token_name": "" }),
        json!({ "secret": secret, "token_name": "x".repeat(101) }),
        json!({ "secret": secret, "login": "grace", "password": PASSWORD, "role": "admin" }),
        json!({ "login": "grace", "password": PASSWORD }),
    ] {
        spend(&server, bad).await.refused(400, "invalid_request");
    }
    // Nor does a login that is taken, and nobody takes over the account of its name.
    spend(&server, wish(json!("ada"), json!("another horse battery"))).await.refused(409, "already_exists");
    let ada = server.get("/users/ada", &server.admin).await.expect(200).json();
    assert_eq!(ada["role"], "none", "{ada}");
    done(try_login(&server, "ada", PASSWORD).await);
    server.get("/users/grace", &server.admin).await.refused(404, "not_found");

    let wish = json!({ "secret": secret, "login": "grace", "password": PASSWORD });
    spend(&server, wish.clone()).await.expect(201);
    spend(&server, wish).await.refused(409, "bootstrap_done");
}

async fn of_many_who_spend_the_secret_at_once_one_does(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secret = new_secret(&server).await;
    let wishes = (0..8).map(|number| {
        let login = format!("person{number}");
        spend(&server, json!({ "secret": secret, "login": login, "password": PASSWORD, "token_name": login }))
    });
    let answers = join_all(wishes).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| matches!(answer.status.as_u16(), 401 | 409)).count();
    assert_eq!((made, refused), (1, 7), "{:?}", answers.iter().map(Answer::text).collect::<Vec<_>>());
    assert_eq!(server.get("/users", &server.admin).await.expect(200).json()["total"], 1);
    assert_eq!(server.get("/tokens", &server.admin).await.expect(200).json()["total"], 2);
}

async fn a_new_one_time_secret_ends_the_one_before(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let (old, new) = (new_secret(&server).await, new_secret(&server).await);
    spend(&server, json!({ "secret": old })).await.refused(401, "unauthenticated");
    spend(&server, json!({ "secret": new })).await.expect(201);
    // Whoever was in before is still in.
    server.get("/users", &server.admin).await.expect(200);
}

/// What the command line prints for who lost the last way in.
async fn new_secret(server: &TestServer) -> String {
    bootstrap::again(server.resources()).await.unwrap()
}

async fn spend(server: &TestServer, wish: Value) -> Answer {
    server.post("/bootstrap", "", wish).await
}

on_both_databases! {
    a_person_is_made_and_a_token_only_if_it_is_wanted,
    what_is_refused_does_not_spend_the_secret,
    of_many_who_spend_the_secret_at_once_one_does,
    a_new_one_time_secret_ends_the_one_before,
}
