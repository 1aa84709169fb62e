//! The sections of the configuration, and their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use kkartifact_model::manifest::TreeLimits;
use kkartifact_model::size::ByteSize;
use serde::{Deserialize, Serialize};

/// Where the server listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port.
    pub listen: SocketAddr,
    /// Everything that the embedded server keeps: database, content, keys.
    pub data_dir: PathBuf,
    /// How people and issuers reach it, such as `https://releases.example.com`.
    pub public_url: Option<String>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Other origins whose pages may call the API.
    pub cors_origins: Vec<String>,
}

/// Where the metadata is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://…`; SQLite in the data directory if absent.
    pub url: Option<String>,
    /// The most connections of a process.
    pub max_connections: Option<u32>,
}

/// Where the content is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// The directory; `content` in the data directory if absent.
    pub path: Option<PathBuf>,
    /// Free bytes that new content must leave on the disk.
    pub reserve: ByteSize,
}

/// Credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// bcrypt's cost, 4 to 16. Each step doubles the time.
    pub bcrypt_cost: u32,
    /// How many first uses of credentials are checked at the same time.
    pub parallel_checks: usize,
    /// How many checked credentials are remembered.
    pub remembered: u64,
    /// The server's secret key; `secret.key` in the data directory, made at the first start, if absent.
    pub secret_key_file: Option<PathBuf>,
    /// How long a personal token may live, in days.
    pub personal_token_days: u32,
    /// How long tokens of service accounts and workloads live, in minutes.
    pub access_token_minutes: u32,
    /// How long a session lives without a request, in minutes.
    pub session_idle_minutes: u32,
    /// How long a session lives at most, in hours.
    pub session_hours: u32,
    /// After how many failed logins in a row an account is locked…
    pub lock_after: u32,
    /// … and for how many minutes.
    pub lock_minutes: u32,
    /// After how many days a new key signs.
    pub key_days: u32,
    /// How often open streams are checked again, in seconds.
    pub recheck_seconds: u32,
}

/// Login of people through an OIDC provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Oidc {
    /// The provider; none if absent.
    pub issuer: Option<String>,
    /// What the provider calls this server.
    pub client_id: String,
    /// The client's secret; none for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that names a person…
    pub login_claim: String,
    /// … and the one that lists their groups.
    pub groups_claim: String,
    /// Whether who is unknown gets an account, with role `none`.
    pub sign_up: bool,
}

/// How often callers may call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Logins, and requests without a valid credential, per address and minute.
    pub guesses_per_minute: u32,
    /// Requests per principal and second; four times as many at once.
    pub requests_per_second: u32,
}

/// Requests that the server makes to addresses that somebody else has chosen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Networks, addresses and host names that are allowed though they are not public.
    pub allow: Vec<String>,
}

/// The audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// For how many days rows are kept; 0 for ever.
    pub keep_days: u32,
    /// For how long refusals and reads are counted before they become a row, in seconds.
    pub window_seconds: u32,
}

/// Uploads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upload {
    /// How long an upload stays open without a call, in seconds.
    pub idle_seconds: u32,
    /// Who may create projects and apps by pushing to them.
    pub create_on_push: CreateOnPush,
    /// The most files that are put one by one in an upload.
    pub put_files: u32,
    /// How many streams of content are taken at the same time; others wait.
    pub streams: usize,
    /// How many versions are verified for publishing at the same time; others wait.
    pub publishing: usize,
}

/// Who may create projects and apps by pushing to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreateOnPush {
    /// Whoever may push in the scope above: a project's pusher creates apps, a global one projects too.
    Push,
    /// Only who is admin in the scope above.
    Admin,
    /// Nobody.
    Never,
}

/// How large things may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most entries of a version.
    pub manifest_entries: u64,
    /// The most bytes of a file, at most 512 GiB.
    pub file_size: ByteSize,
    /// The most bytes of a version.
    pub version_size: ByteSize,
    /// How many downloads are sent at the same time; others wait.
    pub downloads: usize,
    /// How many event streams are open at the same time; others wait.
    pub event_streams: usize,
    /// The most connections at the same time; others wait.
    pub connections: usize,
    /// The most bytes of a manifest as it is sent.
    pub manifest_size: ByteSize,
    /// Bytes of manifests that are kept in memory.
    pub manifest_cache: ByteSize,
}

/// Logging.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `kkartifact=debug,info`.
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            data_dir: PathBuf::from("kkartifact-data"),
            public_url: None,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { path: None, reserve: ByteSize(256 << 20) }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            bcrypt_cost: 10,
            parallel_checks: 4,
            remembered: 10_000,
            secret_key_file: None,
            personal_token_days: 90,
            access_token_minutes: 60,
            session_idle_minutes: 30,
            session_hours: 12,
            lock_after: 5,
            lock_minutes: 15,
            key_days: 30,
            recheck_seconds: 3,
        }
    }
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: None,
            client_id: "kkartifact".into(),
            client_secret_file: None,
            scopes: vec!["profile".into(), "email".into(), "groups".into()],
            login_claim: "preferred_username".into(),
            groups_claim: "groups".into(),
            sign_up: false,
        }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { guesses_per_minute: 60, requests_per_second: 2000 }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { keep_days: 400, window_seconds: 10 }
    }
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            idle_seconds: 86_400,
            create_on_push: CreateOnPush::Push,
            put_files: 10_000,
            streams: 32,
            publishing: 4,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let tree = TreeLimits::default();
        Self {
            manifest_entries: tree.entries,
            file_size: ByteSize(tree.file_size),
            version_size: ByteSize(tree.tree_size),
            downloads: 256,
            event_streams: 1024,
            connections: 4096,
            manifest_size: ByteSize(1 << 30),
            manifest_cache: ByteSize(32 << 20),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}
