//! Where secrets must not turn up: in answers to who sends them, in lists, in the audit log and in the database.

use chrono::TimeDelta;
use kkartifact_service::bootstrap;
use kkartifact_testkit::{Answer, TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

use crate::someone::{
    PASSWORD, Robot, Session, WRONG, id_of, log_in, make_person, personal_token, script_token, text,
    try_login,
};

/// A password that is sent and refused.
const REFUSED: &str = "refused horse battery";

/// Everything that proves somebody, good and ended.
struct Secrets {
    ada: Session,
    script: String,
    token: String,
    revoked: String,
    expired: String,
    robot: Robot,
    disabled: Robot,
    signed: String,
    one_time: String,
    temporary: String,
}

impl Secrets {
    async fn make(server: &TestServer) -> Self {
        make_person(server, "ada", "admin").await;
        make_person(server, "grace", "none").await;
        let ada = log_in(server, "ada").await;
        let token = personal_token(server, &ada, &["view"], &json!({})).await.expect(201).json();
        let end = server.clock.now() + TimeDelta::minutes(1);
        let brief = json!({ "name": "brief", "permissions": ["view"], "scopes": [{}], "expires_at": end });
        let brief = server.post("/tokens", &server.admin, brief).await.expect(201).json();
        let revoked = server.token(&["view"], "").await;
        let path = format!("/tokens/{}", id_of(&revoked));
        server.call(Method::DELETE, &path, &server.admin, None).await.expect(200);
        let robot = Robot::with_role(server, &["view"], &json!({})).await;
        let disabled = Robot::make(server, "disabled").await;
        disabled.disable(server, true).await;
        let reset = server.call(Method::POST, "/users/grace/password", &server.admin, None).await;
        server.clock.advance(TimeDelta::minutes(1));
        Self {
            script: script_token(server, "ada").await,
            signed: robot.token(server).await,
            one_time: bootstrap::again(server.resources()).await.unwrap(),
            temporary: text(&reset.json()["temporary_password"]),
            token: text(&token["token"]),
            expired: text(&brief["token"]),
            ada,
            revoked,
            robot,
            disabled,
        }
    }

    /// What must not be seen anywhere: of what has public parts, the others.
    fn parts(&self, server: &TestServer) -> Vec<String> {
        let mut parts = vec![PASSWORD, WRONG, REFUSED, &self.one_time, &self.temporary, &self.ada.csrf];
        for token in [&server.admin, &self.token, &self.revoked, &self.expired] {
            parts.extend(token.split('_').nth(2));
        }
        for robot in [&self.robot, &self.disabled] {
            parts.extend(robot.secret.split('_').nth(1));
        }
        for signed in [&self.script, &self.signed, &self.ada.cookie] {
            parts.extend(signed.rsplit('.').next());
        }
        assert!(parts.iter().all(|part| part.len() >= 12), "{parts:?}");
        parts.into_iter().map(str::to_owned).collect()
    }
}

async fn no_answer_and_no_audit_row_repeats_a_secret(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secrets = Secrets::make(&server).await;
    let mut answers = refusals(&server, &secrets).await;
    assert!(answers.iter().all(|answer| answer.status.is_client_error()));
    answers.extend(lists(&server).await);
    server.resources().tally.flush(server.resources()).await.unwrap();
    let audit = server.get("/audit?limit=500", &server.admin).await.expect(200);
    let rows = server.resources().db.read().await.unwrap().latest_audit(500).await.unwrap();
    assert!(rows.len() > 10 && rows.iter().any(|row| row.outcome == "refused"));
    let audited = format!("{rows:?}");
    for part in secrets.parts(&server) {
        for answer in answers.iter().chain([&audit]) {
            let text = format!("{:?} {}", answer.headers, answer.text());
            assert!(!text.contains(&part), "{part} in {text}");
        }
        assert!(!audited.contains(&part), "{part} in the audit log");
    }
}

/// Sends every secret to where it is refused.
async fn refusals(server: &TestServer, secrets: &Secrets) -> Vec<Answer> {
    let Secrets { ada, token, revoked, expired, robot, disabled, signed, one_time, temporary, .. } = secrets;
    let mut answers = Vec::new();
    for token in [revoked, expired, &format!("{token}x"), &format!("{signed}x"), one_time, temporary] {
        answers.push(server.get("/whoami", token).await);
    }
    for (token, path) in [(token, "/users"), (signed, "/users"), (token, "/tokens/x"), (signed, "/nowhere")] {
        answers.push(server.call(Method::POST, path, token, None).await);
    }
    for (login, password) in
        [("ada", WRONG), ("ada", REFUSED), ("nobody", PASSWORD), (PASSWORD, "x"), ("ada", one_time.as_str())]
    {
        answers.push(try_login(server, login, password).await);
    }
    for secret in [&disabled.secret, &robot.secret, one_time] {
        let wrong = Robot { id: disabled.id.clone(), secret: secret.clone() };
        answers.push(wrong.ask(server, "").await);
    }
    answers.push(server.post("/oauth/token", "", json!({ "client_secret": robot.secret })).await);
    answers.push(server.post("/bootstrap", "", json!({ "secret": REFUSED })).await);
    let weak = json!({ "secret": one_time, "login": "ada", "password": PASSWORD, "extra": REFUSED });
    answers.push(server.post("/bootstrap", "", weak).await);
    let other = json!({ "secret": one_time, "login": "ada", "password": REFUSED });
    answers.push(server.post("/bootstrap", "", other).await);
    let mine = json!({ "current": WRONG, "new": REFUSED });
    answers.push(ada.call(server, Method::PUT, "/password", Some(mine)).await);
    let same = json!({ "current": PASSWORD, "new": PASSWORD });
    answers.push(ada.call(server, Method::PUT, "/password", Some(same)).await);
    let user = json!({ "login": "ada", "role": "none", "password": REFUSED });
    answers.push(server.post("/users", &server.admin, user).await);
    answers.push(server.send(ada.request(server, Method::POST, "/projects")).await);
    answers
}

async fn lists(server: &TestServer) -> Vec<Answer> {
    let mut answers = Vec::new();
    for path in [
        "/tokens?limit=500",
        "/users",
        "/users/grace",
        "/service-accounts",
        "/keys",
        "/sessions?user=ada",
        "/role-bindings",
        "/audit/export?format=jsonl",
        "/audit/export?format=csv",
    ] {
        answers.push(server.get(path, &server.admin).await.expect(200));
    }
    answers
}

/// A backup of the database lets nobody in.
async fn no_secret_is_in_the_database_in_clear(db: TestDatabase) {
    let server = TestServer::start(db).await;
    let secrets = Secrets::make(&server).await;
    let mut tx = server.resources().db.read().await.unwrap();
    let ada = tx.find_user("ada").await.unwrap().unwrap();
    let robot = tx.find_service_account(&secrets.robot.id).await.unwrap().unwrap();
    let token = tx.find_token(&id_of(&secrets.token).parse().unwrap()).await.unwrap().unwrap();
    let session = tx.find_session(secrets.ada.id.parse().unwrap()).await.unwrap().unwrap();
    let one_time = tx.setting("bootstrap_secret").await.unwrap().unwrap();
    let hash = ada.password_hash.clone().unwrap();
    for hash in [&hash, &robot.secret_hash, &token.secret_hash] {
        assert!(hash.starts_with("$2"), "{hash}");
    }
    let stored = format!("{ada:?} {robot:?} {token:?} {session:?} {one_time}");
    for part in secrets.parts(&server) {
        assert!(!stored.contains(&part), "{part} in {stored}");
    }
}

on_both_databases! {
    no_answer_and_no_audit_row_repeats_a_secret,
    no_secret_is_in_the_database_in_clear,
}
