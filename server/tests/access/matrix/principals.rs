//! Who calls: the principals of the matrix's columns, and the projects that they are bound in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use kkartifact_model::api::oauth::{SUBJECT_TOKEN_TYPES, TOKEN_EXCHANGE};
use kkartifact_testkit::oidc::OidcProvider;
use kkartifact_testkit::{Answer, Receiver, TestServer};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// The columns in order; `matrix.txt` says who is who.
pub(super) const COLUMNS: &str = "axnvlpmAPqswgRGT";

/// The columns that have permissions in the world's own project only.
const BOUND: &str = "vlpmAPqswg";

/// Everybody's password.
pub(super) const PASSWORD: &str = "correct horse battery";

/// A name that nothing has yet.
pub(super) fn fresh(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The text that an answer has in this place.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Does something as the global admin.
pub(super) async fn as_admin(server: &TestServer, method: Method, path: &str, body: Option<Value>) -> Answer {
    let what = format!("{method} {path}");
    let answer = server.call(method, path, &server.admin, body).await;
    assert!(answer.status.is_success(), "{what}: {} {}", answer.status, answer.text());
    answer
}

/// Makes something as the global admin; what the server says of it.
pub(super) async fn make(server: &TestServer, path: &str, body: Value) -> Value {
    as_admin(server, Method::POST, path, Some(body)).await.json()
}

/// Moves the channel `stable` of an app to `v1`, then to `v2`: it can be rolled back.
pub(super) async fn promote_twice(server: &TestServer, (project, app): (&str, &str)) {
    for version in ["v1", "v2"] {
        make(server, "/promote", json!({ "project": project, "app": app, "version": version })).await;
    }
}

/// Two projects: callers are bound to `own` or to its app `web`. It also has the app `api`, and the other one `app`.
#[derive(Clone)]
pub(super) struct World {
    pub(super) own: String,
    pub(super) other: String,
}

impl World {
    /// Makes the projects and apps; nothing is in them.
    async fn make(server: &TestServer) -> Self {
        let world = Self { own: fresh("shop"), other: fresh("other") };
        server.make_app(&world.own, "web").await;
        make(server, &format!("/projects/{}/apps", world.own), json!({ "name": "api" })).await;
        server.make_app(&world.other, "app").await;
        world
    }

    /// Gives every app two versions, a third one to be deleted and restored, and a channel.
    async fn fill(&self, server: &TestServer) {
        for (project, app) in [(&self.own, "web"), (&self.own, "api"), (&self.other, "app")] {
            let place = format!("{project}/{app}");
            for version in ["v0", "v1", "v2"] {
                let content = format!("{version} of {place}");
                let files = [("a", content.as_bytes())];
                server.push_files(&place, version, &server.admin, &files).await.expect(201);
            }
            promote_twice(server, (project, app)).await;
        }
    }
}

/// What proves who calls.
#[derive(Clone)]
pub(super) enum Credential {
    Nothing,
    Bearer(String),
    Cookie { cookie: String, csrf: String },
}

impl Credential {
    /// A request with it, not yet sent.
    pub(super) fn request(&self, server: &TestServer, method: Method, path: &str) -> RequestBuilder {
        match self {
            Self::Nothing => server.request(method, path, ""),
            Self::Bearer(token) => server.request(method, path, token),
            Self::Cookie { cookie, csrf } => {
                let changes = method != Method::GET;
                let request = server.request(method, path, "").header("cookie", cookie);
                if changes { request.header("x-csrf-token", csrf) } else { request }
            }
        }
    }
}

/// A person's account.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) login: String,
    pub(super) role: &'static str,
    /// Where they log in, if not with a password.
    pub(super) provider: Option<Arc<OidcProvider>>,
}

/// Shows redirects instead of following them.
pub(super) fn browser() -> reqwest::Client {
    reqwest::Client::builder().redirect(Policy::none()).build().unwrap()
}

/// The name and value that an answer sets as the first cookie that is not taken away.
fn cookie_of(answer: &Answer) -> String {
    let lines = answer.headers.get_all("set-cookie").into_iter().map(|line| line.to_str().unwrap());
    let mut pairs = lines.filter_map(|line| line.split(';').next()).filter(|pair| !pair.ends_with('='));
    pairs.next().unwrap_or_default().to_owned()
}

/// Logs in at the provider, in the group of a world's own project.
async fn log_in_there(server: &TestServer, provider: &OidcProvider, login: &str) -> (Credential, String) {
    let (subject, group) = login.split_once('.').unwrap();
    provider.set_person(subject, login, "person@example.com", &[group]);
    let browser = browser();
    let start = format!("{}/api/v1/oidc/login", server.url);
    let sent = server.send(browser.get(start)).await.expect(302);
    let back = server.send(browser.get(sent.header("location"))).await;
    let query = back.header("location").split_once('?').unwrap().1.to_owned();
    let callback = format!("{}/api/v1/oidc/callback?{query}", server.url);
    let done = server.send(browser.get(callback).header("cookie", cookie_of(&sent))).await.expect(302);
    let cookie = cookie_of(&done);
    let get = |path: &str| server.request(Method::GET, path, "").header("cookie", &cookie);
    let me = server.send(get("/whoami")).await.expect(200).json();
    let sessions = server.send(get("/sessions")).await.expect(200).json();
    let session = sessions["items"].as_array().unwrap().iter().find(|one| one["current"] == true).unwrap();
    (Credential::Cookie { cookie, csrf: text(&me["csrf_token"]) }, text(&session["id"]))
}

impl Person {
    pub(super) async fn make(server: &TestServer, role: &'static str) -> Self {
        let login = fresh("person");
        make(server, "/users", json!({ "login": login, "role": role, "password": PASSWORD })).await;
        Self { login, role, provider: None }
    }

    /// Logs in once more: the new session's cookie and id.
    pub(super) async fn log_in(&self, server: &TestServer) -> (Credential, String) {
        if let Some(provider) = &self.provider {
            return log_in_there(server, provider, &self.login).await;
        }
        let body = json!({ "login": self.login, "password": PASSWORD });
        let answer = server.post("/login", "", body).await;
        assert!(answer.status.is_success(), "{}: {}", self.login, answer.text());
        let cookie = answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        let said = answer.json();
        (Credential::Cookie { cookie, csrf: text(&said["csrf_token"]) }, text(&said["session"]["id"]))
    }

    /// A personal token.
    async fn token(&self, server: &TestServer, permission: &str, scope: &Value) -> Credential {
        let body = json!({
            "name": "personal", "permissions": [permission], "scopes": [scope], "personal": true,
        });
        let (session, _) = self.log_in(server).await;
        let request = session.request(server, Method::POST, "/tokens").json(&body);
        Credential::Bearer(text(&server.send(request).await.expect(201).json()["token"]))
    }
}

/// A service account.
pub(super) struct ServiceAccount {
    pub(super) id: String,
    secret: String,
}

impl ServiceAccount {
    pub(super) async fn make(server: &TestServer) -> Self {
        let made = make(server, "/service-accounts", json!({ "name": fresh("robot") })).await;
        Self { id: text(&made["client_id"]), secret: text(&made["client_secret"]) }
    }

    /// A request to the token endpoint, completed with id and secret.
    pub(super) fn ask(&self, request: RequestBuilder) -> RequestBuilder {
        let (id, secret) = (&self.id, &self.secret);
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        request.header("content-type", "application/x-www-form-urlencoded").body(form)
    }
}

/// Who calls.
#[derive(Clone)]
pub(super) struct Principal {
    pub(super) credential: Credential,
    /// The person behind it, where there is one.
    pub(super) person: Option<Person>,
}

impl Principal {
    /// The person, if this is a session of theirs.
    pub(super) fn session(&self) -> Option<&Person> {
        self.person.as_ref().filter(|_| matches!(self.credential, Credential::Cookie { .. }))
    }
}

impl From<Credential> for Principal {
    fn from(credential: Credential) -> Self {
        Self { credential, person: None }
    }
}

async fn bind(server: &TestServer, subject: &Value, permission: &str, world: &World) {
    let scope = json!({ "project": world.own });
    let body = json!({ "subject": subject, "permissions": [permission], "scope": scope });
    make(server, "/role-bindings", body).await;
}

/// A token on the app `web`.
async fn app_token(server: &TestServer, world: &World, permission: &str) -> Principal {
    let token = server.token(&[permission], &format!("{}/web", world.own)).await;
    Credential::Bearer(token).into()
}

/// A service account that is bound to the project, by its signed token.
async fn service_account(server: &TestServer, world: &World, permission: &str) -> Principal {
    let account = ServiceAccount::make(server).await;
    bind(server, &json!({ "service_account": account.id }), permission, world).await;
    let request = account.ask(server.request(Method::POST, "/oauth/token", ""));
    let answer = server.send(request).await.expect(200).json();
    Credential::Bearer(text(&answer["access_token"])).into()
}

/// A job of the provider that a trust policy lets push in the project.
async fn workload(server: &TestServer, provider: &OidcProvider, world: &World) -> Principal {
    let name = fresh("policy");
    let policy = json!({
        "name": name, "issuer": provider.issuer(), "audience": "kkartifact", "claims": { "sub": "job:*" },
        "permissions": ["push"], "scopes": [{ "project": world.own }],
    });
    make(server, "/trust-policies", policy).await;
    let now = server.clock.now();
    let job = provider.sign(&json!({
        "iss": provider.issuer(), "aud": "kkartifact", "sub": "job:7", "iat": now.timestamp(),
        "exp": (now + TimeDelta::minutes(5)).timestamp(),
    }));
    let form = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token_type", SUBJECT_TOKEN_TYPES[0]),
        ("subject_token", &job),
        ("policy", &name),
    ];
    let request = server.request(Method::POST, "/oauth/token", "").form(&form);
    let answer = server.send(request).await.expect(200).json();
    Credential::Bearer(text(&answer["access_token"])).into()
}

/// Somebody of the provider's whose group may promote in the project.
async fn member(server: &TestServer, provider: &Arc<OidcProvider>, world: &World) -> Principal {
    bind(server, &json!({ "group": world.own }), "promote", world).await;
    let login = format!("{}.{}", fresh("member"), world.own);
    let person = Person { login, role: "none", provider: Some(provider.clone()) };
    let (credential, _) = person.log_in(server).await;
    Principal { credential, person: Some(person) }
}

/// The personal token of somebody who may push in the project.
async fn personal_token(server: &TestServer, world: &World) -> Principal {
    let person = Person::make(server, "none").await;
    bind(server, &json!({ "user": person.login }), "push", world).await;
    let credential = person.token(server, "push", &json!({ "project": world.own })).await;
    Principal { credential, person: Some(person) }
}

/// A person of this role, by the cookie of a session.
async fn person(server: &TestServer, role: &'static str) -> Principal {
    let person = Person::make(server, role).await;
    let (credential, _) = person.log_in(server).await;
    Principal { credential, person: Some(person) }
}

/// Three who were good for everything once, and one who never was. The clock advances.
async fn dead(server: &TestServer) -> Vec<Principal> {
    let end = server.clock.now() + TimeDelta::hours(1);
    let everything = |name: &str| json!({ "name": name, "permissions": ["admin"], "scopes": [{}] });
    let revoked = make(server, "/tokens", everything("revoked")).await;
    let mut expiring = everything("expired");
    expiring["expires_at"] = json!(end);
    let expired = make(server, "/tokens", expiring).await;
    let owner = Person::make(server, "admin").await;
    let orphan = owner.token(server, "admin", &json!({})).await;
    let credentials =
        [Credential::Bearer(text(&revoked["token"])), Credential::Bearer(text(&expired["token"])), orphan];
    for credential in &credentials {
        // It works, and is remembered wherever good ones are.
        server.send(credential.request(server, Method::GET, "/users")).await.expect(200);
    }
    as_admin(server, Method::DELETE, &format!("/tokens/{}", text(&revoked["id"])), None).await;
    let disable = Some(json!({ "disabled": true }));
    as_admin(server, Method::PATCH, &format!("/users/{}", owner.login), disable).await;
    server.clock.advance(TimeDelta::hours(2));
    let garbage = Credential::Bearer("kka_garbage".to_owned());
    credentials.into_iter().chain([garbage]).map(Principal::from).collect()
}

/// Makes the caller of a column, who is bound in this world if anywhere.
async fn principal(
    server: &TestServer,
    provider: &Arc<OidcProvider>,
    world: &World,
    column: char,
) -> Principal {
    match column {
        'w' => workload(server, provider, world).await,
        'g' => member(server, provider, world).await,
        'n' => person(server, "none").await,
        'v' => app_token(server, world, "view").await,
        'l' => app_token(server, world, "pull").await,
        'p' => app_token(server, world, "push").await,
        'm' => app_token(server, world, "promote").await,
        'A' => app_token(server, world, "admin").await,
        'P' => service_account(server, world, "admin").await,
        'q' => personal_token(server, world).await,
        's' => service_account(server, world, "pull").await,
        'R' => person(server, "readonly").await,
        'G' => person(server, "admin").await,
        'T' => Credential::Bearer(server.admin.clone()).into(),
        _ => Credential::Nothing.into(),
    }
}

/// Everything that calls share.
pub(super) struct Stage<'a> {
    pub(super) server: &'a TestServer,
    pub(super) world: World,
    /// Somebody who isn't a caller.
    pub(super) visitor: Person,
    /// A program that isn't one either.
    pub(super) client: ServiceAccount,
    /// The signing keys that callers' tokens depend on.
    pub(super) keys: Vec<String>,
    /// Where webhooks lead to.
    pub(super) receiver: Receiver,
    provider: Arc<OidcProvider>,
    callers: BTreeMap<char, Vec<Principal>>,
}

impl<'a> Stage<'a> {
    pub(super) async fn set(server: &'a TestServer, provider: OidcProvider) -> Self {
        let provider = Arc::new(provider);
        // First, since nobody else's time may go by.
        let mut callers = BTreeMap::from([('x', dead(server).await)]);
        let world = World::make(server).await;
        world.fill(server).await;
        for column in COLUMNS.chars().filter(|column| *column != 'x') {
            callers.insert(column, vec![principal(server, &provider, &world, column).await]);
        }
        let visitor = Person::make(server, "none").await;
        let client = ServiceAccount::make(server).await;
        let keys = keys(server).await.into_iter().map(|(id, _)| id).collect();
        let receiver = Receiver::start().await;
        Self { server, world, visitor, client, keys, receiver, provider, callers }
    }

    /// The callers of a column: all of them must get the same answer.
    pub(super) fn callers(&self, column: char) -> &[Principal] {
        &self.callers[&column]
    }

    /// A new world that may be destroyed, and the caller there.
    pub(super) async fn elsewhere(&self, column: char, caller: &Principal) -> (World, Principal) {
        let world = World::make(self.server).await;
        let bound = BOUND.contains(column);
        let caller =
            if bound { principal(self.server, &self.provider, &world, column).await } else { caller.clone() };
        (world, caller)
    }
}

/// The signing keys, and whether they sign now.
pub(super) async fn keys(server: &TestServer) -> Vec<(String, bool)> {
    let listed = server.get("/keys", &server.admin).await.expect(200).json();
    let keys = listed["keys"].as_array().unwrap().iter();
    keys.map(|key| (text(&key["id"]), key["signs"].as_bool().unwrap())).collect()
}
