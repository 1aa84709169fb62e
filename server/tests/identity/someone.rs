//! What these tests share: people and their sessions, programs and their secrets, and what they are allowed.

use chrono::TimeDelta;
use kkartifact_testkit::{Answer, TestDatabase, TestServer};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// Everybody's password.
pub(crate) const PASSWORD: &str = "correct horse battery";
/// One that is nobody's.
pub(crate) const WRONG: &str = "wrong horse battery";

/// The text that an answer has in this place.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The answer, if what was asked for was done.
#[track_caller]
pub(crate) fn done(answer: Answer) -> Answer {
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    answer
}

/// What a caller learns from an answer: all of it but the id that each request has of its own.
#[track_caller]
pub(crate) fn said(answer: &Answer) -> (u16, Value) {
    let mut body = answer.json();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    (answer.status.as_u16(), body)
}

/// A server with a version of shop/web, and with other/app beside it.
pub(crate) async fn shop(db: TestDatabase) -> TestServer {
    let server = TestServer::start(db).await;
    server.make_app("shop", "web").await;
    server.make_app("other", "app").await;
    server.push_files("shop/web", "v1", &server.admin, &[("a", b"content")]).await.expect(201);
    server
}

/// Points a channel of shop/web to its version.
pub(crate) fn promotion() -> Value {
    json!({ "project": "shop", "app": "web", "version": "v1" })
}

/// The body of an upload's beginning.
pub(crate) fn init(project: &str, app: &str) -> Value {
    json!({ "project": project, "app": app, "version": "new" })
}

/// A person in a browser.
#[derive(Clone)]
pub(crate) struct Session {
    /// `name=value`
    pub(crate) cookie: String,
    /// What a page of the server sends with it.
    pub(crate) csrf: String,
    /// The session's id.
    pub(crate) id: String,
}

impl Session {
    /// The session that a login has answered.
    #[track_caller]
    pub(crate) fn of(login: &Answer) -> Self {
        let cookie = login.header("set-cookie").split(';').next().unwrap().to_owned();
        let body = login.json();
        Self { cookie, csrf: text(&body["csrf_token"]), id: text(&body["session"]["id"]) }
    }

    /// A request with the cookie alone, not yet sent: what any page makes a browser send.
    pub(crate) fn request(&self, server: &TestServer, method: Method, path: &str) -> RequestBuilder {
        server.request(method, path, "").header("cookie", &self.cookie)
    }

    /// `GET`
    pub(crate) async fn get(&self, server: &TestServer, path: &str) -> Answer {
        server.send(self.request(server, Method::GET, path)).await
    }

    /// A call as a page of the server makes it.
    pub(crate) async fn call(
        &self,
        server: &TestServer,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = self.request(server, method, path).header("x-csrf-token", &self.csrf);
        server.send(if let Some(body) = body { request.json(&body) } else { request }).await
    }

    /// Asserts that the session is good for nothing.
    pub(crate) async fn is_over(&self, server: &TestServer, why: &str) {
        let me = self.get(server, "/whoami").await;
        assert_eq!(me.status, 401, "{why}: {}", me.text());
    }
}

/// Makes somebody's account.
pub(crate) async fn make_person(server: &TestServer, login: &str, role: &str) {
    let new = json!({ "login": login, "role": role, "password": PASSWORD });
    server.post("/users", &server.admin, new).await.expect(201);
}

/// Changes somebody's account.
pub(crate) async fn change_person(server: &TestServer, login: &str, change: Value) -> Answer {
    server.call(Method::PATCH, &format!("/users/{login}"), &server.admin, Some(change)).await
}

/// Tries to log in.
pub(crate) async fn try_login(server: &TestServer, login: &str, password: &str) -> Answer {
    server.post("/login", "", json!({ "login": login, "password": password })).await
}

/// Logs in.
pub(crate) async fn log_in(server: &TestServer, login: &str) -> Session {
    Session::of(&done(try_login(server, login, PASSWORD).await))
}

/// Logs in without a browser: the session as a credential for scripts.
pub(crate) async fn script_token(server: &TestServer, login: &str) -> String {
    let body = json!({ "login": login, "password": PASSWORD, "cookie": false });
    text(&done(server.post("/login", "", body).await).json()["access_token"])
}

/// Makes a personal token with a session; what the server says of it.
pub(crate) async fn personal_token(
    server: &TestServer,
    session: &Session,
    permissions: &[&str],
    scope: &Value,
) -> Answer {
    let body = json!({ "name": "laptop", "permissions": permissions, "scopes": [scope], "personal": true });
    session.call(server, Method::POST, "/tokens", Some(body)).await
}

/// Asks for a token that may do everything for five minutes: less than any maker has left.
pub(crate) async fn everything(server: &TestServer, maker: &str, name: &str) -> Answer {
    let end = server.clock.now() + TimeDelta::minutes(5);
    let body = json!({ "name": name, "permissions": ["admin"], "scopes": [{}], "expires_at": end });
    server.post("/tokens", maker, body).await
}

/// The public part of a token.
pub(crate) fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}

/// Gives a role; the binding's id.
pub(crate) async fn bind(server: &TestServer, subject: &Value, permissions: &[&str], scope: &Value) -> i64 {
    let body = json!({ "subject": subject, "permissions": permissions, "scope": scope });
    let made = server.post("/role-bindings", &server.admin, body).await.expect(201).json();
    made["id"].as_i64().unwrap()
}

/// A service account.
pub(crate) struct Robot {
    /// Its client id.
    pub(crate) id: String,
    /// Its secret.
    pub(crate) secret: String,
}

impl Robot {
    /// Makes a service account.
    pub(crate) async fn make(server: &TestServer, name: &str) -> Self {
        let made = server.post("/service-accounts", &server.admin, json!({ "name": name })).await;
        let made = made.expect(201).json();
        Self { id: text(&made["client_id"]), secret: text(&made["client_secret"]) }
    }

    /// Makes a service account with a role.
    pub(crate) async fn with_role(server: &TestServer, permissions: &[&str], scope: &Value) -> Self {
        let robot = Self::make(server, "robot").await;
        robot.bind(server, permissions, scope).await;
        robot
    }

    /// Gives it a role; the binding's id.
    pub(crate) async fn bind(&self, server: &TestServer, permissions: &[&str], scope: &Value) -> i64 {
        bind(server, &json!({ "service_account": self.id }), permissions, scope).await
    }

    /// Asks for a token, narrowed to a scope.
    pub(crate) async fn ask(&self, server: &TestServer, scope: &str) -> Answer {
        let (id, secret) = (self.id.as_str(), self.secret.as_str());
        let mut form =
            vec![("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        if !scope.is_empty() {
            form.push(("scope", scope));
        }
        server.send(server.request(Method::POST, "/oauth/token", "").form(&form)).await
    }

    /// A token with all that it may.
    pub(crate) async fn token(&self, server: &TestServer) -> String {
        self.narrowed(server, "").await
    }

    /// A token that is narrowed to a scope.
    pub(crate) async fn narrowed(&self, server: &TestServer, scope: &str) -> String {
        text(&self.ask(server, scope).await.expect(200).json()["access_token"])
    }

    /// Disables or enables it.
    pub(crate) async fn disable(&self, server: &TestServer, disabled: bool) {
        let path = format!("/service-accounts/{}", self.id);
        let change = Some(json!({ "disabled": disabled }));
        server.call(Method::PATCH, &path, &server.admin, change).await.expect(200);
    }
}
