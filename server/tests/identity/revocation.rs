//! What is ended is over at once: with the next request in every process, and within seconds for what is open.

mod streams;
mod uploads;

use std::time::Duration;

use kkartifact_testkit::process::Programs;
use kkartifact_testkit::tree::noise;
use kkartifact_testkit::{ServiceProcess, TestDatabase, TestServer, on_both_databases};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, timeout_at};

use streams::{Asking, open_download, open_events};

/// More than a slow reader takes while a test runs, with all the buffers on the way to it.
const LARGE: usize = 64 << 20;
/// When every stream must have ended.
const WITHIN: Duration = Duration::from_secs(10);
/// How many streams of a kind are open.
const STREAMS: usize = 3;
/// How many requests are answered at least, before and after.
const REQUESTS: usize = 50;

/// Where the API is: one server, or services that share a database. Has shop/web v1 with a small and a large file.
struct Site {
    api: String,
    transfer: String,
    admin: String,
    http: Client,
}

impl Site {
    async fn with_files(api: String, transfer: String, admin: String) -> Self {
        let site = Self { api, transfer, admin, http: Client::new() };
        site.post(&site.api, "/projects", &site.admin, &json!({ "name": "shop" })).await;
        site.post(&site.api, "/projects/shop/apps", &site.admin, &json!({ "name": "web" })).await;
        let init = json!({ "project": "shop", "app": "web", "version": "v1" });
        let opened = site.post(&site.transfer, "/upload/init", &site.admin, &init).await;
        for (path, content) in [("small", noise(1, 100)), ("large", noise(2, LARGE))] {
            let put = site.request(Method::PUT, &site.transfer, "/file/shop/web/v1", &site.admin);
            site.done(put.query(&[("path", path)]).body(content)).await;
        }
        let finish = json!({ "upload_id": opened["upload_id"] });
        site.post(&site.transfer, "/upload/finish", &site.admin, &finish).await;
        site
    }

    fn request(&self, method: Method, base: &str, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{base}/api/v1{path}")).bearer_auth(token)
    }

    /// Sends a request that must succeed.
    async fn done(&self, request: RequestBuilder) -> Value {
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_default()
    }

    async fn post(&self, base: &str, path: &str, token: &str, body: &Value) -> Value {
        self.done(self.request(Method::POST, base, path, token).json(body)).await
    }

    /// What is read again and again: in turn from each service.
    fn reads(&self) -> Vec<String> {
        let (api, transfer) = (&self.api, &self.transfer);
        vec![
            format!("{api}/api/v1/projects/shop/apps/web"),
            format!("{transfer}/api/v1/file/shop/web/v1?path=small"),
            format!("{api}/api/v1/whoami"),
            format!("{transfer}/api/v1/manifest/shop/web/v1"),
        ]
    }
}

/// A credential that may pull from shop, and the request that ends it.
struct Credential {
    what: &'static str,
    token: String,
    end: RequestBuilder,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

async fn token_of_a_script(site: &Site) -> Credential {
    let new = json!({ "name": "ci", "permissions": ["pull"], "scopes": [{ "project": "shop" }] });
    let made = site.post(&site.api, "/tokens", &site.admin, &new).await;
    let path = format!("/tokens/{}", text(&made["id"]));
    let end = site.request(Method::DELETE, &site.api, &path, &site.admin);
    Credential { what: "a token that was revoked", token: text(&made["token"]), end }
}

async fn token_of_a_person(site: &Site) -> Credential {
    let password = "correct horse battery";
    let new = json!({ "login": "ada", "role": "readonly", "password": password });
    site.post(&site.api, "/users", &site.admin, &new).await;
    let login = json!({ "login": "ada", "password": password, "cookie": false });
    let login = site.http.post(format!("{}/api/v1/login", site.api)).json(&login);
    let session = text(&site.done(login).await["access_token"]);
    let scopes = json!([{ "project": "shop" }]);
    let new = json!({ "name": "laptop", "permissions": ["pull"], "scopes": scopes, "personal": true });
    let token = text(&site.post(&site.api, "/tokens", &session, &new).await["token"]);
    let end = site.request(Method::PATCH, &site.api, "/users/ada", &site.admin);
    Credential { what: "a disabled person's token", token, end: end.json(&json!({ "disabled": true })) }
}

async fn token_of_a_service_account(site: &Site) -> Credential {
    let made = site.post(&site.api, "/service-accounts", &site.admin, &json!({ "name": "deployer" })).await;
    let (id, secret) = (text(&made["client_id"]), text(&made["client_secret"]));
    let subject = json!({ "service_account": id });
    let role = json!({ "subject": subject, "permissions": ["pull"], "scope": { "project": "shop" } });
    site.post(&site.api, "/role-bindings", &site.admin, &role).await;
    let ask = site.http.post(format!("{}/api/v1/oauth/token", site.api)).basic_auth(&id, Some(secret));
    let token = text(&site.done(ask.form(&[("grant_type", "client_credentials")])).await["access_token"]);
    let path = format!("/service-accounts/{id}");
    let end = site.request(Method::PATCH, &site.api, &path, &site.admin);
    Credential {
        what: "a disabled service account's JWT",
        token,
        end: end.json(&json!({ "disabled": true })),
    }
}

/// Uses a credential everywhere at once and ends it. Nothing that begins afterwards succeeds, and nothing that is
/// open comes to its own end.
async fn is_over_everywhere(site: &Site, credential: Credential) {
    let Credential { what, token, end } = credential;
    let begun = Instant::now();
    let mut asking = Asking::start(&site.http, site.reads(), &token);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(("download", open_download(&site.transfer, &token).await));
        let events = site.request(Method::GET, &site.api, "/projects/shop/apps/web/events", &token);
        streams.push(("event stream", open_events(events).await));
    }
    asking.answered_since(begun, REQUESTS).await;
    for (name, stream) in &streams {
        assert!(!stream.is_finished(), "{what}: the {name} ended by itself");
    }

    let ending = Instant::now();
    site.done(end).await;
    let ended = Instant::now();
    for (name, stream) in streams {
        let over = timeout_at(ended + WITHIN, stream).await;
        assert!(over.is_ok(), "{what}: the {name} goes on");
        assert!(over.unwrap().unwrap() < LARGE, "{what}: the whole {name} was given out");
    }
    asking.answered_since(ended, REQUESTS).await;

    for asked in asking.stop().await {
        let allowed: &[Option<u16>] = if asked.finished < ending {
            &[Some(200)]
        } else if asked.started > ended {
            &[Some(401)]
        } else {
            &[Some(200), Some(401)]
        };
        assert!(allowed.contains(&asked.status), "{what}: {asked:?}, ended from {ending:?} to {ended:?}");
    }
}

async fn each_kind_of_credential_is_over_everywhere(site: &Site) {
    is_over_everywhere(site, token_of_a_script(site).await).await;
    is_over_everywhere(site, token_of_a_person(site).await).await;
    is_over_everywhere(site, token_of_a_service_account(site).await).await;
    // Whoever was not meant goes on.
    site.done(site.request(Method::GET, &site.transfer, "/manifest/shop/web/v1", &site.admin)).await;
}

/// Two services as processes, and what they share.
struct Cluster {
    api: ServiceProcess,
    transfer: ServiceProcess,
    secret: String,
    _dir: TempDir,
    _database: TestDatabase,
}

impl Cluster {
    fn start(database: TestDatabase) -> Self {
        let programs = Programs::beside(env!("CARGO_BIN_EXE_kkartifact"));
        let dir = tempfile::tempdir().unwrap();
        let secret = ServiceProcess::bootstrap_secret(&programs, dir.path(), &database);
        let start = |program: &str| ServiceProcess::start(&programs, program, dir.path(), &database);
        let (api, transfer) = (start("kkartifact-api-service"), start("kkartifact-transfer-service"));
        Self { api, transfer, secret, _dir: dir, _database: database }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_service_processes_forget_at_once_who_was_ended_and_cut_what_is_open() {
    let database = TestDatabase::postgres().await;
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(database)).await.unwrap();
    let (api, transfer) = (cluster.api.url(), cluster.transfer.url());
    let request = Client::new().post(format!("{api}/api/v1/bootstrap"));
    let spent = request.json(&json!({ "secret": cluster.secret })).send().await.unwrap();
    assert_eq!(spent.status(), 201, "{}", cluster.api.log());
    let admin = text(&spent.json::<Value>().await.unwrap()["token"]);
    let site = Site::with_files(api, transfer, admin).await;
    each_kind_of_credential_is_over_everywhere(&site).await;
}

async fn one_server_forgets_at_once_who_was_ended_and_cuts_what_is_open(db: TestDatabase) {
    // Its clock stands still; the look at open streams goes by real time.
    let server = TestServer::start_with(db, |config| config.auth.recheck_seconds = 1).await;
    let site = Site::with_files(server.url.clone(), server.url.clone(), server.admin.clone()).await;
    each_kind_of_credential_is_over_everywhere(&site).await;
}

on_both_databases! {
    one_server_forgets_at_once_who_was_ended_and_cuts_what_is_open,
}
