//! The server's configuration: defaults in code, then a file, then the environment.
//!
//! `KKARTIFACT_SERVER__LISTEN` in the environment is `listen` of `[server]` in the file. Everything missing has
//! a default; everything wrong is refused at the start, all mistakes at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use ipnet::IpNet;
use kkartifact_model::manifest::TreeLimits;
use kkartifact_model::size::ByteSize;
use kkartifact_store::DatabaseConfig;
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[database]`
    pub database: Database,
    /// `[storage]`
    pub storage: Storage,
    /// `[auth]`
    pub auth: Auth,
    /// `[oidc]`
    pub oidc: Oidc,
    /// `[rate]`
    pub rate: Rate,
    /// `[outbound]`
    pub outbound: Outbound,
    /// `[audit]`
    pub audit: Audit,
    /// `[upload]`
    pub upload: Upload,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
}

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

/// What is wrong with a configuration: all of it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong:\n{}", .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

const SECTIONS: [&str; 11] =
    ["server", "database", "storage", "auth", "oidc", "rate", "outbound", "audit", "upload", "limits", "log"];

impl Config {
    /// Reads the file (if one is given) and the environment, and checks everything.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            if !path.is_file() {
                return Err(ConfigError(vec![format!("{} is not a file", path.display())]));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        // Variables of other parts of the program have no `__`.
        let env = Env::prefixed("KKARTIFACT_").filter(|key| key.as_str().contains("__")).split("__");
        Self::from_figment(&figment.merge(env))
    }

    fn from_figment(figment: &Figment) -> Result<Self, ConfigError> {
        let mut mistakes = unknown_sections(figment);
        let config = Self {
            server: section(figment, "server", &mut mistakes),
            database: section(figment, "database", &mut mistakes),
            storage: section(figment, "storage", &mut mistakes),
            auth: section(figment, "auth", &mut mistakes),
            oidc: section(figment, "oidc", &mut mistakes),
            rate: section(figment, "rate", &mut mistakes),
            outbound: section(figment, "outbound", &mut mistakes),
            audit: section(figment, "audit", &mut mistakes),
            upload: section(figment, "upload", &mut mistakes),
            limits: section(figment, "limits", &mut mistakes),
            log: section(figment, "log", &mut mistakes),
        };
        config.check(&mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError(mistakes)) }
    }

    fn check(&self, mistakes: &mut Vec<String>) {
        let mut range = |what: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                mistakes.push(format!("{what} is {value}; it must be {least} to {most}"));
            }
        };
        range("auth.bcrypt_cost", self.auth.bcrypt_cost.into(), 4, 16);
        range("auth.parallel_checks", self.auth.parallel_checks as u64, 1, 1024);
        range("auth.personal_token_days", self.auth.personal_token_days.into(), 1, 366);
        range("auth.access_token_minutes", self.auth.access_token_minutes.into(), 1, 1440);
        range("auth.session_idle_minutes", self.auth.session_idle_minutes.into(), 1, 1440);
        range("auth.session_hours", self.auth.session_hours.into(), 1, 720);
        range("auth.lock_after", self.auth.lock_after.into(), 1, 1000);
        range("auth.lock_minutes", self.auth.lock_minutes.into(), 1, 1440);
        range("auth.key_days", self.auth.key_days.into(), 1, 3650);
        range("auth.recheck_seconds", self.auth.recheck_seconds.into(), 1, 60);
        range("rate.guesses_per_minute", self.rate.guesses_per_minute.into(), 1, 1 << 30);
        range("rate.requests_per_second", self.rate.requests_per_second.into(), 1, 1 << 28);
        range("audit.keep_days", self.audit.keep_days.into(), 0, 36_500);
        range("audit.window_seconds", self.audit.window_seconds.into(), 1, 3600);
        range("upload.idle_seconds", self.upload.idle_seconds.into(), 60, 30 * 86_400);
        range("upload.streams", self.upload.streams as u64, 1, 1024);
        range("upload.publishing", self.upload.publishing as u64, 1, 64);
        range("limits.downloads", self.limits.downloads as u64, 1, 1024);
        range("limits.event_streams", self.limits.event_streams as u64, 1, 1 << 16);
        range("limits.connections", self.limits.connections as u64, 16, 1 << 20);
        range("limits.version_size", self.limits.version_size.0, 1, 1 << 50);
        range("upload.put_files", self.upload.put_files.into(), 1, 100_000);
        range("limits.manifest_entries", self.limits.manifest_entries, 1, 10_000_000);
        range("limits.file_size", self.limits.file_size.0, 1, 512 << 30);
        range("limits.manifest_size", self.limits.manifest_size.0, 1 << 10, 16 << 30);
        range("database.max_connections", self.database.max_connections.unwrap_or(16).into(), 2, 1000);
        if let Some(url) = &self.database.url
            && !url.starts_with("postgres://")
            && !url.starts_with("postgresql://")
        {
            mistakes.push("database.url must start with postgres://; leave it out for SQLite".into());
        }
        self.check_urls(mistakes);
    }

    fn check_urls(&self, mistakes: &mut Vec<String>) {
        let web = |url: &str| {
            // Word for word: it is compared as text, here and by others.
            reqwest::Url::parse(url).is_ok_and(|parsed| {
                matches!(parsed.scheme(), "http" | "https")
                    && parsed.origin().ascii_serialization() == url.trim_end_matches('/')
            })
        };
        if self.server.public_url.as_deref().is_some_and(|url| !web(url)) {
            mistakes.push("server.public_url must be https:// or http:// and a host, without a path".into());
        }
        for origin in self.server.cors_origins.iter().filter(|origin| !web(origin) || origin.ends_with('/')) {
            mistakes.push(format!(
                "server.cors_origins: {origin:?} is not an origin such as https://ui.example.com"
            ));
        }
        if self.oidc.issuer.is_some() && self.server.public_url.is_none() {
            mistakes.push("oidc.issuer needs server.public_url: the provider leads people back there".into());
        }
        for entry in &self.outbound.allow {
            if let Err(error) = entry.parse::<crate::outbound::Allowed>() {
                mistakes.push(format!("outbound.allow: {error}"));
            }
        }
    }

    /// Whether browsers reach the server by https.
    pub fn is_https(&self) -> bool {
        self.server.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// What tokens that this server signs say of their issuer.
    pub fn issuer(&self) -> &str {
        self.server.public_url.as_deref().unwrap_or("kkartifact").trim_end_matches('/')
    }

    /// Which database to connect to.
    pub fn database(&self) -> DatabaseConfig {
        match &self.database.url {
            Some(url) => DatabaseConfig::Postgres {
                url: url.clone(),
                max_connections: self.database.max_connections.unwrap_or(16),
            },
            None => DatabaseConfig::Sqlite { path: self.server.data_dir.join("kkartifact.db") },
        }
    }

    /// Where the content is.
    pub fn storage_path(&self) -> PathBuf {
        self.storage.path.clone().unwrap_or_else(|| self.server.data_dir.join("content"))
    }

    /// Where the secret key is.
    pub fn secret_key_path(&self) -> PathBuf {
        self.auth.secret_key_file.clone().unwrap_or_else(|| self.server.data_dir.join("secret.key"))
    }

    /// How large a tree may be.
    pub fn tree_limits(&self) -> TreeLimits {
        TreeLimits {
            entries: self.limits.manifest_entries,
            file_size: self.limits.file_size.0,
            tree_size: self.limits.version_size.0,
        }
    }
}

fn section<T: Default + for<'de> Deserialize<'de>>(
    figment: &Figment,
    name: &str,
    mistakes: &mut Vec<String>,
) -> T {
    if figment.find_value(name).is_err() {
        return T::default();
    }
    figment.extract_inner(name).unwrap_or_else(|error| {
        mistakes.extend(error.into_iter().map(|error| {
            let place = error.metadata.as_ref().map(|m| format!(" (in {})", m.name)).unwrap_or_default();
            // The section stands behind the key.
            let key: Vec<_> = error.path.iter().filter(|part| *part != name).map(String::as_str).collect();
            format!("{name}.{}: {}{place}", key.join("."), error.kind)
        }));
        T::default()
    })
}

fn unknown_sections(figment: &Figment) -> Vec<String> {
    let Ok(all) = figment.extract::<figment::value::Dict>() else { return Vec::new() };
    let unknown = all.keys().filter(|key| !SECTIONS.contains(&key.as_str()));
    unknown.map(|key| format!("{key}: there is no such section; there are {}", SECTIONS.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::from_figment(&Figment::from(Toml::string(text)))
    }

    #[test]
    fn nothing_is_a_working_configuration() {
        let config = load("").unwrap();
        assert_eq!(config.server.listen.port(), 8420);
        assert!(matches!(config.database(), DatabaseConfig::Sqlite { .. }));
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let error = load(
            "[server]\nlisten = 'nowhere'\n[auth]\nbcrypt_cost = 99\n[limits]\nfile_size = '4 parsecs'\n[databse]\nurl = ''\n\
             [database]\nurl = 'mysql://x'\n[upload]\nspeed = 1",
        )
        .unwrap_err()
        .to_string();
        for part in ["server.listen", "bcrypt_cost is 99", "4 parsecs", "databse", "postgres://", "speed"] {
            assert!(error.contains(part), "{part} not in {error}");
        }
    }

    #[test]
    fn urls_are_origins_word_for_word_and_addresses_are_checked() {
        let server = |key: &str| load(&format!("[server]\n{key}"));
        assert!(server("public_url = 'https://releases.example.com/'").unwrap().is_https());
        for bad in [
            "HTTPS://x.example",
            "https://x.example/path",
            "https://u@x.example",
            "ftp://x.example",
            "x.example",
        ] {
            let error = server(&format!("public_url = '{bad}'")).unwrap_err().to_string();
            assert!(error.contains("server.public_url"), "{bad}: {error}");
        }
        assert!(server("cors_origins = ['https://ui.example.com']").is_ok());
        assert!(server("cors_origins = ['https://ui.example.com/']").is_err());
        assert!(server("cors_origins = ['*']").is_err());
        assert!(server("trusted_proxies = ['10.0.0.0/8']").is_ok());
        assert!(server("trusted_proxies = ['everybody']").is_err());
        let error = load("[oidc]\nissuer = 'https://id.example.com'\n[outbound]\nallow = ['Not a host']\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("needs server.public_url") && error.contains("Not a host"), "{error}");
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        assert_eq!(load("[storage]\nreserve = '1GB'").unwrap().storage.reserve, ByteSize(1 << 30));
    }
}
