//! Keeping a token for this user, after checking that it works.

use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use kkartifact_model::api::access::{Bootstrap, WhoAmI};
use serde::Serialize;

use crate::client::Client;
use crate::config::{ConfigFile, global_file, read};
use crate::error::{AgentError, Kind, Result};

/// Who is signed in now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedIn {
    /// Where.
    pub server_url: String,
    /// As whom.
    pub who: WhoAmI,
    /// Where the token is kept.
    pub file: PathBuf,
}

impl fmt::Display for LoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "✓ signed in to {} as {}", self.server_url, self.who.name)?;
        for grant in &self.who.grants {
            let scope = match (&grant.scope.project, &grant.scope.app) {
                (Some(project), Some(app)) => format!("{project}/{app}"),
                (Some(project), None) => format!("project {project}"),
                _ => "everything".to_owned(),
            };
            writeln!(f, "  may      {} on {scope}", grant.permissions)?;
        }
        write!(f, "  kept in  {}", self.file.display())
    }
}

/// Where the token comes from.
pub enum Credential {
    /// This one.
    Token(String),
    /// The first token of a new server, for its one-time secret.
    Bootstrap(String),
    /// A line of standard input.
    Ask,
}

/// Signs in and keeps the token in the user's own file.
pub async fn login(server_url: &str, credential: Credential) -> Result<LoggedIn> {
    let server_url = server_url.trim_end_matches('/');
    let file = global_file().ok_or_else(|| AgentError::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    // Before the one-time secret is spent: what is there must be readable, and the place writable.
    let mut config = if file.is_file() { read(&file)? } else { ConfigFile::default() };
    write(&file, &config)?;
    let token = match credential {
        Credential::Token(token) => token,
        Credential::Ask => ask()?,
        Credential::Bootstrap(secret) => {
            let name = Some("first-admin".to_owned());
            let bootstrap = Bootstrap { secret, token_name: name, login: None, password: None };
            let made = Client::new(server_url, None)?.bootstrap(&bootstrap).await?.token;
            made.ok_or_else(|| AgentError::new(Kind::Failed, "the server made no token"))?.token
        }
    };
    let who = Client::new(server_url, Some(&token))?.whoami().await?;
    config.server_url = Some(server_url.to_owned());
    config.token = Some(token);
    write(&file, &config)?;
    Ok(LoggedIn { server_url: server_url.to_owned(), who, file })
}

fn ask() -> Result<String> {
    if std::io::stdin().is_terminal() {
        drop(write!(std::io::stderr(), "token: "));
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(AgentError::io("reading the token"))?;
    let token = line.trim().to_owned();
    if token.is_empty() { Err(AgentError::usage("no token was given")) } else { Ok(token) }
}

fn write(file: &PathBuf, config: &ConfigFile) -> Result<()> {
    let text =
        serde_saphyr::to_string(config).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
    let failed = || AgentError::io(format!("writing {}", file.display()));
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(failed())?;
    }
    // Never readable by others, not even for a moment.
    let temporary = file.with_extension("new");
    drop(fs::remove_file(&temporary));
    let mut options = fs::OpenOptions::new();
    let mut out = options.write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed())?;
    out.write_all(text.as_bytes()).map_err(failed())?;
    fs::rename(&temporary, file).map_err(failed())
}
