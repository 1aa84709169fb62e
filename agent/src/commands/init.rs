//! Writing a first `.kkartifact.yml`.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kkartifact_model::path::CONFIG_FILE;
use kkartifact_model::{AppName, ProjectName};
use serde::Serialize;

use crate::error::{AgentError, Kind, Result};

/// The file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Where.
    pub file: PathBuf,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "✓ wrote {}", self.file.display())?;
        write!(f, "  next     kkartifact-agent doctor")
    }
}

/// Writes the file, unless there is one.
pub fn init(
    path: &Path,
    server_url: Option<&str>,
    project: Option<&ProjectName>,
    app: Option<&AppName>,
) -> Result<Written> {
    let file = path.join(CONFIG_FILE);
    let server = server_url
        .map_or("# server_url: https://repo.example.com".to_owned(), |url| format!("server_url: {url:?}"));
    let project = project.map_or("# project: my-project".to_owned(), |name| format!("project: \"{name}\""));
    let app = app.map_or("# app: my-app".to_owned(), |name| format!("app: \"{name}\""));
    let text = format!(
        "# kkArtifact agent. Flags and KKARTIFACT_* variables go before this file.\n\
         # It is never pushed and never overwritten by a pull.\n\
         {server}\n\
         # token: better in the environment (KKARTIFACT_TOKEN) or kept by 'kkartifact-agent login'\n\
         {project}\n\
         {app}\n\
         \n\
         # Neither pushed nor touched by a pull; written as in a .gitignore.\n\
         ignore:\n  - logs/\n  - tmp/\n  - '*.log'\n\
         \n\
         # concurrency: 8        streams at the same time\n\
         # chunk_size: 1MB       how much is put together in one piece of a stream\n\
         # retain_versions: 5    what 'prune' keeps\n\
         # max_shrink: 50        a push is refused if the source shrank by more percent\n\
         # max_delete: 50        a pull is refused if it would delete more percent of the files\n"
    );
    let mut options = fs::OpenOptions::new();
    // It may hold a token one day.
    let opened = options.write(true).create_new(true).mode(0o600).open(&file);
    let mut out = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            AgentError::new(Kind::Conflict, format!("{} exists already", file.display()))
        }
        _ => AgentError::io(format!("writing {}", file.display()))(error),
    })?;
    out.write_all(text.as_bytes()).map_err(AgentError::io(format!("writing {}", file.display())))?;
    Ok(Written { file })
}
