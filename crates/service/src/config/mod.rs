//! The server's configuration: defaults in code, then a file, then the environment.
//!
//! `KKARTIFACT_SERVER__LISTEN` in the environment is `listen` of `[server]` in the file. Everything missing has
//! a default; everything wrong is refused at the start, all mistakes at once.

mod background;
mod sections;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use kkartifact_model::api::retention::{MOST_DAYS, Retention};
use kkartifact_model::manifest::TreeLimits;
use kkartifact_store::DatabaseConfig;
use serde::Deserialize;

use crate::webhook;

pub use background::{DeclaredSchedule, DeclaredWebhook, Gc, Jobs, Redis, Webhooks};
pub use sections::{
    Audit, Auth, CreateOnPush, Database, Limits, Log, LogFormat, Oidc, Outbound, Rate, Server, Storage,
    Upload,
};

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
    /// `[redis]`
    pub redis: Redis,
    /// `[jobs]`
    pub jobs: Jobs,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[retention]`: the rule, if it stands in the configuration.
    pub retention: Option<Retention>,
    /// `[gc]`
    pub gc: Gc,
    /// `[upload]`
    pub upload: Upload,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
}

/// What is wrong with a configuration: all of it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong:\n{}", .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

const SECTIONS: [&str; 16] = [
    "server",
    "database",
    "storage",
    "auth",
    "oidc",
    "rate",
    "outbound",
    "audit",
    "redis",
    "jobs",
    "webhooks",
    "retention",
    "gc",
    "upload",
    "limits",
    "log",
];

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
            redis: section(figment, "redis", &mut mistakes),
            jobs: section(figment, "jobs", &mut mistakes),
            webhooks: section(figment, "webhooks", &mut mistakes),
            retention: figment.contains("retention").then(|| section(figment, "retention", &mut mistakes)),
            gc: section(figment, "gc", &mut mistakes),
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
        range("jobs.lease_seconds", self.jobs.lease_seconds.into(), 1, 3600);
        range("jobs.deliveries", self.jobs.deliveries as u64, 1, 4096);
        range("jobs.workers", self.jobs.workers as u64, 1, 64);
        range("jobs.batch_queries", self.jobs.batch_queries.into(), 1, 1000);
        range("jobs.keep_days", self.jobs.keep_days.into(), 1, 3650);
        range("jobs.event_days", self.jobs.event_days.into(), 1, 36_500);
        range("webhooks.timeout_seconds", self.webhooks.timeout_seconds.into(), 1, 60);
        range("webhooks.per_receiver", self.webhooks.per_receiver as u64, 1, 1024);
        range("webhooks.disable_after_hours", self.webhooks.disable_after_hours.into(), 0, 8760);
        range("webhooks.keep_days", self.webhooks.keep_days.into(), 1, 3650);
        range("webhooks.most", self.webhooks.most.into(), 1, 10_000);
        let retention = self.retention.unwrap_or_default();
        range("retention.keep", retention.keep.unwrap_or(1).into(), 1, u32::MAX.into());
        range("retention.keep_days", retention.keep_days.into(), 0, MOST_DAYS.into());
        range("gc.grace_minutes", self.gc.grace_minutes.into(), 0, 5_256_000);
        range("gc.delay_minutes", self.gc.delay_minutes.into(), 0, 5_256_000);
        range("gc.dead_percent", self.gc.dead_percent.into(), 1, 90);
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
        if self
            .redis
            .url
            .as_deref()
            .is_some_and(|url| !url.starts_with("redis://") && !url.starts_with("rediss://"))
        {
            mistakes.push("redis.url must start with redis:// or rediss://".into());
        }
        if self.jobs.time_zone.parse::<chrono_tz::Tz>().is_err() {
            mistakes.push(format!(
                "jobs.time_zone: {:?} is not a time zone such as Europe/Berlin",
                self.jobs.time_zone
            ));
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
        mistakes.extend(webhook::check::declared(&self.webhooks.declared, &self.outbound.allow));
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
    use kkartifact_model::size::ByteSize;

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
    fn schedules_and_retention_may_be_declared() {
        assert_eq!(load("").unwrap().retention, None);
        let config = load(
            "[retention]\nkeep = 20\nkeep_days = 90\n[jobs.schedules.garbage]\ncron = '30 1 * * 6'\n\
             [jobs.schedules.ends]\nenabled = false",
        )
        .unwrap();
        let rule = config.retention.unwrap();
        assert_eq!((rule.keep, rule.keep_days), (Some(20), 90));
        let schedules = &config.jobs.schedules;
        assert!(schedules["garbage"].enabled && !schedules["ends"].enabled);
        assert_eq!(schedules["garbage"].cron.as_deref(), Some("30 1 * * 6"));
        let error = load("[retention]\nkeep = 0\nkeep_days = 40000").unwrap_err().to_string();
        assert!(error.contains("retention.keep is 0") && error.contains("keep_days is 40000"), "{error}");
        assert!(load("[retention]\nkept = 1").is_err() && load("[jobs.schedules.ends]\nchron = ''").is_err());
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        assert_eq!(load("[storage]\nreserve = '1GB'").unwrap().storage.reserve, ByteSize(1 << 30));
    }
}
