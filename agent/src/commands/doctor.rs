//! What works and what does not, with what to do about it.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use serde::Serialize;

use crate::client::Client;
use crate::config::{Config, Overrides, Place};
use crate::error::{AgentError, Result};
use crate::pull::state::Target;
use crate::tree::open_root;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Each check.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found.
    pub found: String,
}

impl Diagnosis {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }

    fn add(&mut self, name: &'static str, result: Result<String, String>) {
        let good = result.is_ok();
        let found = result.unwrap_or_else(|wrong| wrong);
        self.checks.push(Check { name, good, found });
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{} {:14} {}", if check.good { '✓' } else { '✗' }, check.name, check.found)?;
        }
        write!(f, "{}", if self.is_good() { "all is well" } else { "something needs mending" })
    }
}

/// Checks configuration, server, credential and, where one is given, the target.
pub async fn doctor(flags: &Overrides, path: Option<&Path>) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let config = match Config::load(flags, path.map_or(Place::Nowhere, Place::Required)) {
        Ok(config) => config,
        Err(error) => {
            diagnosis.add("configuration", Err(explain(&error)));
            return diagnosis;
        }
    };
    diagnosis.add("configuration", Ok(format!("server {}", config.server_url)));
    if let Some(path) = path {
        diagnosis.add("file mode", file_mode(path));
    }
    diagnosis.add("encryption", encryption(&config.server_url));
    match Client::new(&config.server_url, Some(&config.token)) {
        Ok(client) => {
            let who = client.whoami().await.map_err(|error| explain(&error));
            diagnosis.add("server", who.map(|who| format!("signed in as {}", who.name)));
            if let (Some(project), Some(app)) = (&config.project, &config.app) {
                let versions = client.versions(project, app, 1).await.map_err(|error| explain(&error));
                diagnosis
                    .add("app", versions.map(|page| format!("{project}/{app} has {} versions", page.total)));
            }
        }
        Err(error) => diagnosis.add("server", Err(explain(&error))),
    }
    if let Some(path) = path {
        diagnosis.add("target", target(path));
    }
    diagnosis
}

fn explain(error: &AgentError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; try: {hint}"),
        None => error.to_string(),
    }
}

fn file_mode(path: &Path) -> Result<String, String> {
    let file = path.join(kkartifact_model::path::CONFIG_FILE);
    let Ok(found) = fs::metadata(&file) else { return Ok("no file here".into()) };
    let has_token =
        fs::read_to_string(&file).is_ok_and(|text| text.lines().any(|line| line.starts_with("token:")));
    if has_token && found.permissions().mode() & 0o077 != 0 {
        return Err(format!("{} holds a token and others can read it; chmod 600 it", file.display()));
    }
    Ok("nobody else can read a token".into())
}

fn encryption(url: &str) -> Result<String, String> {
    let host = url.trim_start_matches("http://");
    let local = ["127.", "localhost", "[::1]"].iter().any(|name| host.starts_with(name));
    if url.starts_with("https://") {
        Ok("https".into())
    } else if local {
        Ok("http, but only on this machine".into())
    } else {
        Err("http: token and content can be read and changed on the way; put TLS before the server".into())
    }
}

/// Whether files can be exchanged between the state and the target: what makes a change safe.
fn target(path: &Path) -> Result<String, String> {
    let Some(target) = Target::existing(path).map_err(|error| explain(&error))? else {
        return Ok("nothing was deployed there yet".into());
    };
    let Some(root) = target.root().map_err(|error| explain(&error))? else {
        return Err(format!("{} is gone; 'kkartifact-agent pull' makes it again", target.path.display()));
    };
    let state = open_root(&target.dir).map_err(|error| explain(&error))?;
    let failed = |errno| format!("can't change {}: {errno}", target.path.display());
    // A name that no version can have.
    let name = ".probe.kkartifact";
    for dir in [&state, &root] {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(dir, name, flags, rustix::fs::Mode::RUSR).map_err(failed)?;
    }
    let swapped = renameat_with(&state, name, &root, name, RenameFlags::EXCHANGE);
    for dir in [&state, &root] {
        unlinkat(dir, name, AtFlags::empty()).map_err(failed)?;
    }
    match swapped {
        Ok(()) => Ok(format!("state in {}, files are exchanged atomically", target.dir.display())),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(format!(
            "state in {}; the file system can't exchange, a path is absent for a moment",
            target.dir.display()
        )),
        Err(error) => Err(failed(error)),
    }
}
