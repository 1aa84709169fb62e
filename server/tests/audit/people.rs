//! Logins, logouts and what is done to accounts: one row each, also for what was refused.

use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{counting, left_one_row, nowhere_in_the_log, rows};

const ADMIN: &str = "token first-admin";
const PASSWORD: &str = "correct horse battery";
const WRONG: &str = "wrong horse battery";

async fn log_in(server: &TestServer, password: &str) -> Answer {
    let login = json!({ "login": "ada", "password": password, "cookie": false });
    server.post("/login", "", login).await
}

/// Changes an account as the first admin.
async fn change(server: &TestServer, method: Method, path: &str, body: Value, action: &str) -> Value {
    let body = Some(body).filter(|body| !body.is_null());
    let answer = server.call(method, path, &server.admin, body).await;
    assert!(answer.status.is_success(), "{action}: {}", answer.text());
    let row = left_one_row(server, &answer, action, ADMIN).await;
    assert!(row["detail"].to_string().contains("ada"), "whose account: {row}");
    answer.json()
}

async fn each_login_and_each_change_of_an_account_leaves_one_row(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.auth.lock_after = 2).await;
    let (post, patch) = (Method::POST, Method::PATCH);
    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned()];
    let new = json!({ "login": "ada", "role": "none", "password": PASSWORD });
    change(&server, post.clone(), "/users", new, "user.create").await;

    // The second failure locks, and then the right password is no better.
    for (password, locked) in [(WRONG, false), (WRONG, true), (PASSWORD, true)] {
        let refused = log_in(&server, password).await.expect(401);
        let row = left_one_row(&server, &refused, "login", "user ada").await;
        assert_eq!(row["detail"]["locked"], locked, "{row}");
    }
    change(&server, post.clone(), "/users/ada/unlock", Value::Null, "user.unlock").await;

    let entered = log_in(&server, PASSWORD).await.expect(200);
    left_one_row(&server, &entered, "login", "user ada").await;
    let entered = entered.json();
    let session = entered["access_token"].as_str().unwrap();
    let new = "another horse battery";
    let body = Some(json!({ "current": PASSWORD, "new": new }));
    let changed = server.call(Method::PUT, "/password", session, body).await.expect(204);
    left_one_row(&server, &changed, "password.change", "user ada").await;
    let left = server.call(post.clone(), "/logout", session, None).await.expect(204);
    left_one_row(&server, &left, "logout", "user ada").await;
    secrets.extend([session.to_owned(), new.to_owned(), entered["csrf_token"].as_str().unwrap().to_owned()]);

    let entered = log_in(&server, new).await.expect(200).json();
    let session = format!("/sessions/{}", entered["session"]["id"].as_str().unwrap());
    change(&server, Method::DELETE, &session, Value::Null, "session.revoke").await;
    change(&server, patch.clone(), "/users/ada", json!({ "role": "readonly" }), "user.update").await;
    let reset = change(&server, post, "/users/ada/password", Value::Null, "user.reset_password").await;
    secrets.push(reset["temporary_password"].as_str().unwrap().to_owned());
    change(&server, patch, "/users/ada", json!({ "disabled": true }), "user.update").await;
    nowhere_in_the_log(&server, &secrets).await;
}

/// A password that was typed where the login belongs would else be there for every admin to read.
async fn what_was_typed_as_the_login_of_nobody_is_not_written_down(db: TestDatabase) {
    let server = counting(db).await;
    for _ in 0..3 {
        let login = json!({ "login": PASSWORD, "password": WRONG, "cookie": false });
        server.post("/login", "", login).await.refused(401, "unauthenticated");
    }
    let written = rows(&server, "action=login").await;
    assert_eq!(written.len(), 3, "{written:?}");
    for row in &written {
        assert_eq!((&row["actor_kind"], &row["outcome"]), (&json!("anonymous"), &json!("refused")), "{row}");
        assert_eq!((&row["times"], &row["address"]), (&json!(1), &json!("127.0.0.1")), "{row}");
    }
    nowhere_in_the_log(&server, &[PASSWORD.into(), WRONG.into()]).await;
}

on_both_databases! {
    each_login_and_each_change_of_an_account_leaves_one_row,
    what_was_typed_as_the_login_of_nobody_is_not_written_down,
}
