//! How each route is called so that it succeeds for whoever may: what it needs is there, and what it consumes was
//! made for this call alone.

mod background;

use chrono::TimeDelta;
use kkartifact_model::TreePath;
use kkartifact_model::manifest::{Entry, Mode, Node, RecordWriter, RefSet};
use kkartifact_model::wire::{STREAM_TYPE, encode_end, encode_records};
use kkartifact_service::routes::Route;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::principals::{
    Credential, PASSWORD, Person, Principal, ServiceAccount, Stage, World, as_admin, browser, fresh, keys,
    make, promote_twice, text,
};

/// The id of a session that nobody has.
const NO_SESSION: &str = "00000000-0000-0000-0000-000000000000";

/// One call that is to be made: by whom, of which route, at what.
pub(super) struct Cell<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) world: World,
    pub(super) route: &'a Route,
    pub(super) target: &'a str,
    pub(super) caller: Principal,
}

impl Cell<'_> {
    /// The project and app of the target.
    fn place(&self) -> (&str, &str) {
        match self.target {
            "sibling" => (&self.world.own, "api"),
            "other" => (&self.world.other, "app"),
            _ => (&self.world.own, "web"),
        }
    }

    /// The target as a scope.
    fn scope(&self) -> Value {
        let (project, app) = self.place();
        match self.target {
            "all" => json!({}),
            "project" => json!({ "project": project }),
            _ => json!({ "project": project, "app": app }),
        }
    }

    /// A body that names the target's app, with more in it.
    fn body(&self, more: &Value) -> Value {
        let mut body = self.scope();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    /// A role binding in the target for a group that has none.
    fn binding(&self) -> Value {
        json!({ "subject": { "group": fresh("group") }, "permissions": ["view"], "scope": self.scope() })
    }

    /// A trust policy for the world's project.
    fn policy(&self) -> Value {
        json!({
            "name": fresh("policy"), "issuer": "https://ci.example.com", "audience": "kkartifact",
            "claims": { "repository": "acme/shop" }, "permissions": ["pull"],
            "scopes": [{ "project": self.world.own }],
        })
    }

    /// The caller's request of the route, with these names in the path.
    fn call(&self, names: &[(&str, &str)]) -> RequestBuilder {
        self.call_with(&self.caller.credential, names)
    }

    /// The same with another credential.
    fn call_with(&self, credential: &Credential, names: &[(&str, &str)]) -> RequestBuilder {
        let (project, app) = self.place();
        let usual = [("project", project), ("app", app), ("version", "v1"), ("channel", "stable")];
        let mut path = self.route.path.trim_start_matches("/api/v1").to_owned();
        for (name, value) in names.iter().chain(&usual) {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        credential.request(self.stage.server, self.route.method.clone(), &path)
    }

    fn admin(&self) -> Credential {
        Credential::Bearer(self.stage.server.admin.clone())
    }
}

/// The request of a cell.
pub(super) async fn request(cell: &Cell<'_>) -> RequestBuilder {
    match cell.route.name.split('.').next().unwrap_or_default() {
        "bootstrap" | "login" | "logout" | "oauth" | "oidc" | "session" | "password" => way_in(cell).await,
        "token" | "role_binding" => grant(cell).await,
        "user" | "service_account" | "trust_policy" | "key" => account(cell).await,
        "project" | "app" | "version" | "channel" => metadata(cell).await,
        "upload" | "file" | "chunks" | "archive" => content(cell).await,
        "webhook" | "delivery" | "retention" | "job" | "schedule" | "batch" => {
            background::request(cell).await
        }
        "audit" if cell.route.name == "audit.export" => cell.call(&[]).query(&[("format", "jsonl")]),
        _ => cell.call(&[]),
    }
}

/// Logins and sessions. A call that ends a session gets one to end, so that the caller keeps theirs.
async fn way_in(cell: &Cell<'_>) -> RequestBuilder {
    let (stage, server) = (cell.stage, cell.stage.server);
    match cell.route.name.as_str() {
        "bootstrap" => cell.call(&[]).json(&json!({ "secret": "spent long ago" })),
        "login" => cell.call(&[]).json(&json!({ "login": stage.visitor.login, "password": PASSWORD })),
        "oauth.token" => stage.client.ask(cell.call(&[])),
        "oidc.login" => {
            let (_, request) = cell.call(&[]).query(&[("return_to", "/")]).build_split();
            RequestBuilder::from_parts(browser(), request.unwrap())
        }
        "oidc.callback" => cell.call(&[]).query(&[("code", "code"), ("state", "state")]),
        "logout" => match cell.caller.session() {
            Some(person) => cell.call_with(&person.log_in(server).await.0, &[]),
            None => cell.call(&[]),
        },
        "password.change" => {
            let change = json!({ "current": PASSWORD, "new": "another battery" });
            // It would end the caller's other sessions: somebody of the same role does it.
            let request = match cell.caller.session() {
                Some(person) if person.provider.is_some() => {
                    cell.call_with(&person.log_in(server).await.0, &[])
                }
                Some(person) => {
                    let double = Person::make(server, person.role).await;
                    cell.call_with(&double.log_in(server).await.0, &[])
                }
                None => cell.call(&[]),
            };
            request.json(&change)
        }
        "session.revoke" => {
            let whose = if cell.target == "own" { cell.caller.person.as_ref() } else { Some(&stage.visitor) };
            let session = match whose {
                Some(person) => person.log_in(server).await.1,
                None => NO_SESSION.to_owned(),
            };
            cell.call(&[("session", &session)])
        }
        _ => cell.call(&[]),
    }
}

/// Tokens and role bindings.
async fn grant(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let mut token = json!({ "name": "made", "permissions": ["view"], "scopes": [cell.scope()] });
    match cell.route.name.as_str() {
        "token.create" => {
            // Sooner than any caller ends.
            token["expires_at"] = json!(server.clock.now() + TimeDelta::minutes(5));
            cell.call(&[]).json(&token)
        }
        "token.revoke" => {
            let made = make(server, "/tokens", token).await;
            cell.call(&[("token", &text(&made["id"]))])
        }
        "role_binding.create" => cell.call(&[]).json(&cell.binding()),
        "role_binding.delete" => {
            let made = make(server, "/role-bindings", cell.binding()).await;
            cell.call(&[("binding", &made["id"].to_string())])
        }
        _ => cell.call(&[]),
    }
}

/// What only global admins have to do with.
async fn account(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    match cell.route.name.as_str() {
        "user.create" => {
            let new = json!({ "login": fresh("person"), "role": "none", "password": PASSWORD });
            cell.call(&[]).json(&new)
        }
        "user.update" => {
            let person = Person::make(server, "none").await;
            cell.call(&[("user", &person.login)]).json(&json!({ "disabled": true }))
        }
        "user.get" | "user.reset_password" | "user.unlock" => {
            cell.call(&[("user", &Person::make(server, "none").await.login)])
        }
        "service_account.create" => cell.call(&[]).json(&json!({ "name": fresh("robot") })),
        "service_account.get" => cell.call(&[("client", &cell.stage.client.id)]),
        "service_account.update" => {
            let account = ServiceAccount::make(server).await;
            cell.call(&[("client", &account.id)]).json(&json!({ "disabled": true }))
        }
        "service_account.rotate" => {
            let account = ServiceAccount::make(server).await;
            cell.call(&[("client", &account.id)]).json(&json!({ "secret_days": 30 }))
        }
        "trust_policy.create" => cell.call(&[]).json(&cell.policy()),
        "trust_policy.get" | "trust_policy.update" => {
            let made = make(server, "/trust-policies", cell.policy()).await;
            let request = cell.call(&[("policy", &text(&made["name"]))]);
            let looks = cell.route.method == Method::GET;
            if looks { request } else { request.json(&json!({ "disabled": true })) }
        }
        "key.revoke" => cell.call(&[("key", &spare_key(cell).await)]),
        _ => cell.call(&[]),
    }
}

/// A key on which nothing depends.
async fn spare_key(cell: &Cell<'_>) -> String {
    let server = cell.stage.server;
    let spare = async || {
        let mut keys = keys(server).await.into_iter();
        keys.find(|(id, signs)| !signs && !cell.stage.keys.contains(id)).map(|(id, _)| id)
    };
    if let Some(key) = spare().await {
        return key;
    }
    // The first one that is made signs nothing before the second takes its place.
    for _ in 0..2 {
        as_admin(server, Method::POST, "/keys/rotate", None).await;
    }
    spare().await.unwrap()
}

/// Projects, apps, versions and channels.
async fn metadata(cell: &Cell<'_>) -> RequestBuilder {
    let server = cell.stage.server;
    let (project, app) = cell.place();
    let spare = format!("/projects/{project}/apps/{app}/versions/v0");
    match cell.route.name.as_str() {
        "project.create" => cell.call(&[]).json(&json!({ "name": fresh("project") })),
        "app.create" => cell.call(&[]).json(&json!({ "name": fresh("app") })),
        "project.update" | "app.update" => cell.call(&[]).json(&json!({ "description": "changed" })),
        "version.update" => cell.call(&[]).json(&json!({ "notes": "looked at" })),
        "version.quarantine" | "version.release" => {
            let before = if cell.route.name == "version.release" { "quarantine" } else { "release" };
            // Whether or not it was so already.
            server.call(Method::POST, &format!("{spare}/{before}"), &server.admin, None).await;
            cell.call(&[("version", "v0")])
        }
        "version.delete" | "version.archive" => {
            as_admin(server, Method::POST, &format!("{spare}/restore"), None).await;
            cell.call(&[("version", "v0")])
        }
        "version.restore" => {
            as_admin(server, Method::DELETE, &spare, None).await;
            cell.call(&[("version", "v0")])
        }
        "version.pulled" => cell.call(&[]).json(&json!({
            "agent": { "id": "agent-1", "host": "host-1" }, "target": "/srv/web", "bytes_received": 1,
            "duration_ms": 1,
        })),
        "version.diff" => cell.call(&[]).query(&[("from", "v1"), ("to", "v2")]),
        "version.prune" => {
            let dry_run = cell.target != "delete";
            // More than there are: what needs v0 to v2 still finds them.
            cell.call(&[]).json(&json!({ "keep": 10_000, "dry_run": dry_run }))
        }
        "channel.promote" => {
            let promote = cell.body(&json!({ "version": "v1", "channel": fresh("channel") }));
            cell.call(&[]).json(&promote)
        }
        "channel.rollback" => {
            promote_twice(server, (project, app)).await;
            cell.call(&[]).json(&cell.body(&json!({})))
        }
        _ => cell.call(&[]),
    }
}

/// Bytes in and out.
async fn content(cell: &Cell<'_>) -> RequestBuilder {
    match cell.route.name.as_str() {
        "upload.init" => cell.call(&[]).json(&cell.body(&json!({ "version": fresh("u") }))),
        "upload.list" => cell.call(&[]),
        "file.put" => {
            let version = fresh("u");
            let own = open(cell, &cell.caller.credential, cell.place(), &version).await;
            if own.is_none() {
                open(cell, &cell.admin(), cell.place(), &version).await.unwrap();
            }
            cell.call(&[("version", &version)]).query(&[("path", "a")]).body("content")
        }
        "file.get" => cell.call(&[]).query(&[("path", "a")]),
        "archive.get" => cell.call(&[]).query(&[("format", "tar.gz")]),
        "chunks.get" => {
            let mut first = RefSet::new(1);
            first.insert(0);
            cell.call(&[]).body(first.encode())
        }
        _ => of_upload(cell, &Upload::open(cell).await).await,
    }
}

/// What names an upload by its id.
async fn of_upload(cell: &Cell<'_>, upload: &Upload) -> RequestBuilder {
    let (server, id) = (cell.stage.server, upload.id.as_str());
    let request = cell.call(&[("upload", id)]);
    match cell.route.name.as_str() {
        "upload.manifest" => request.header("content-type", STREAM_TYPE).body(manifest()),
        "upload.chunks" => request.header("content-type", STREAM_TYPE).body(encode_end(0)),
        "upload.missing" => {
            let path = format!("/upload/{id}/manifest");
            let put = upload.opener.request(server, Method::PUT, &path);
            server.send(put.header("content-type", STREAM_TYPE).body(manifest())).await.expect(200);
            request
        }
        "upload.finish" => {
            let path = format!("/file/{}/web/{}", cell.world.own, upload.version);
            let put = upload.opener.request(server, Method::PUT, &path);
            let put = put.query(&[("path", "a"), ("upload_id", id)]);
            server.send(put.body("content")).await.expect(200);
            request.json(&json!({ "upload_id": id }))
        }
        _ => request,
    }
}

/// A manifest without content: one directory.
fn manifest() -> Vec<u8> {
    let node = Node::Directory { mode: Mode::EXECUTABLE };
    let mut records = RecordWriter::default();
    records.put(&Entry { path: TreePath::new("d").unwrap(), node });
    [encode_records(&records.take()), encode_end(1)].concat()
}

/// An open upload.
struct Upload {
    id: String,
    version: String,
    opener: Credential,
}

impl Upload {
    /// The caller's own where it can open one, else the admin's. All are of the app that callers are bound to: to
    /// be admin there does not make somebody else's upload one's own.
    async fn open(cell: &Cell<'_>) -> Self {
        let (place, version) = ((cell.world.own.as_str(), "web"), fresh("u"));
        let (caller, admin) = (&cell.caller.credential, cell.admin());
        if cell.target == "own"
            && let Some(id) = open(cell, caller, place, &version).await
        {
            return Self { id, version, opener: caller.clone() };
        }
        let id = open(cell, &admin, place, &version).await.unwrap();
        Self { id, version, opener: admin }
    }
}

/// Opens an upload with this credential, if it may; the upload's id.
async fn open(
    cell: &Cell<'_>,
    credential: &Credential,
    (project, app): (&str, &str),
    version: &str,
) -> Option<String> {
    let server = cell.stage.server;
    let init = json!({ "project": project, "app": app, "version": version });
    let request = credential.request(server, Method::POST, "/upload/init").json(&init);
    let answer = server.send(request).await;
    (answer.status == 201).then(|| text(&answer.json()["upload_id"]))
}
