//! The agent's configuration: flags, then the environment, then the project's `.kkartifact.yml`, then the
//! user's own file.

use std::fs;
use std::path::{Path, PathBuf};

use kkartifact_model::path::CONFIG_FILE;
use kkartifact_model::size::ByteSize;
use kkartifact_model::{AppName, ProjectName};
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Kind, Result};

/// A configuration file. Every key is optional; the layers fill each other's gaps.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The server's address, such as `https://repo.example.com`.
    #[serde(default, alias = "server", skip_serializing_if = "Option::is_none")]
    pub server_url: Option<String>,
    /// The API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The project, unless told by a flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The app, unless told by a flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// How many streams at the same time, 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// How much is put together in one piece of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<ByteSize>,
    /// How many versions `prune` keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_versions: Option<u32>,
    /// What is neither pushed nor touched by a pull; written as in a `.gitignore`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// A push is refused if the source has shrunk by more than so many percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shrink: Option<u8>,
    /// A pull is refused if it would delete more than so many percent of the files that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delete: Option<u8>,
}

/// What flags and environment say.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--server-url`
    pub server_url: Option<String>,
    /// `--token`
    pub token: Option<String>,
    /// `--project`
    pub project: Option<ProjectName>,
    /// `--app`
    pub app: Option<AppName>,
    /// `--concurrency`
    pub concurrency: Option<usize>,
}

/// The configuration that holds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server's address.
    pub server_url: String,
    /// The API token.
    pub token: String,
    /// The project.
    pub project: Option<ProjectName>,
    /// The app.
    pub app: Option<AppName>,
    /// How many streams at the same time.
    pub concurrency: usize,
    /// How many bytes are put together in one piece of a stream.
    pub chunk_size: u64,
    /// How many versions `prune` keeps.
    pub retain_versions: Option<u32>,
    /// What is neither pushed nor touched.
    pub ignore: Vec<String>,
    /// A push is refused if the source has shrunk by more than so many percent.
    pub max_shrink: u8,
    /// A pull is refused if it would delete more than so many percent of the files.
    pub max_delete: u8,
    /// Where pushes are remembered; `$XDG_CACHE_HOME/kkartifact` unless told otherwise.
    pub cache_dir: Option<PathBuf>,
}

/// Pieces larger than this would only cost memory.
const MAX_PIECE: u64 = 16 << 20;

/// Where the project's file is looked for, beside the current directory.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Nowhere else.
    Nowhere,
    /// In a directory, if it is there.
    Optional(&'a Path),
    /// In a directory; it must be there or in the current one, since a directory without one is not meant to be
    /// synchronized.
    Required(&'a Path),
}

impl Config {
    /// Puts the layers together.
    pub fn load(flags: &Overrides, place: Place<'_>) -> Result<Self> {
        let project = match project_file(flags, place)? {
            Some(file) => read(&file)?,
            None => ConfigFile::default(),
        };
        let global = match global_file() {
            Some(file) if file.is_file() => read(&file)?,
            _ => ConfigFile::default(),
        };
        let missing = |key: &str| {
            AgentError::usage(format!(
                "{key} is not set: neither by a flag, nor in the environment, nor in a file"
            ))
            .hint("kkartifact-agent login --server-url URL")
        };
        let flag = flags.clone();
        let known = global.server_url.as_deref().map(without_slash).map(str::to_owned);
        let server_url = flag.server_url.or(project.server_url).or(global.server_url);
        let server_url = server_url.ok_or_else(|| missing("server_url"))?;
        // The token that was kept for one server is not for another, whoever names that in a file.
        let kept = global.token.filter(|_| known.is_none_or(|known| known == without_slash(&server_url)));
        let config = Self {
            token: flag.token.or(project.token).or(kept).ok_or_else(|| missing("token"))?,
            server_url: without_slash(&server_url).to_owned(),
            project: flag.project.or(project.project).or(global.project),
            app: flag.app.or(project.app).or(global.app),
            concurrency: flag.concurrency.or(project.concurrency).or(global.concurrency).unwrap_or(8),
            chunk_size: project.chunk_size.or(global.chunk_size).map_or(1 << 20, |size| size.0),
            retain_versions: project.retain_versions.or(global.retain_versions),
            ignore: [global.ignore, project.ignore].concat(),
            max_shrink: project.max_shrink.or(global.max_shrink).unwrap_or(50),
            max_delete: project.max_delete.or(global.max_delete).unwrap_or(50),
            cache_dir: cache_dir(),
        };
        config.check()
    }

    fn check(mut self) -> Result<Self> {
        if !(1..=64).contains(&self.concurrency) {
            return Err(AgentError::usage(format!(
                "concurrency is {}; it must be 1 to 64",
                self.concurrency
            )));
        }
        if self.max_shrink > 100 || self.max_delete > 100 {
            return Err(AgentError::usage("max_shrink and max_delete are percentages, 0 to 100"));
        }
        if self.retain_versions == Some(0) {
            return Err(AgentError::usage("retain_versions is 0; it must be at least 1"));
        }
        self.chunk_size = self.chunk_size.clamp(64 << 10, MAX_PIECE);
        Ok(self)
    }

    /// Project and app, which most commands need.
    pub fn app(&self) -> Result<(ProjectName, AppName)> {
        let missing = |what: &str| {
            AgentError::usage(format!("which {what}? Use --{what} or set '{what}' in {CONFIG_FILE}"))
        };
        let project = self.project.clone().ok_or_else(|| missing("project"))?;
        Ok((project, self.app.clone().ok_or_else(|| missing("app"))?))
    }
}

fn without_slash(url: &str) -> &str {
    url.trim_end_matches('/')
}

/// The project's configuration file.
fn project_file(flags: &Overrides, place: Place<'_>) -> Result<Option<PathBuf>> {
    if let Some(file) = &flags.config {
        if file.is_file() {
            return Ok(Some(file.clone()));
        }
        return Err(AgentError::usage(format!("{} is not a file", file.display())));
    }
    let here = PathBuf::from(CONFIG_FILE);
    let path = match place {
        Place::Nowhere => None,
        Place::Optional(path) | Place::Required(path) => Some(path),
    };
    let candidates: Vec<_> = path.map(|path| path.join(CONFIG_FILE)).into_iter().chain([here]).collect();
    if let Some(file) = candidates.iter().find(|file| file.is_file()) {
        return Ok(Some(file.clone()));
    }
    match place {
        Place::Nowhere | Place::Optional(_) => Ok(None),
        Place::Required(path) => Err(AgentError::usage(format!(
            "there is no {CONFIG_FILE} in {} or in the current directory; push and pull need one, so that no \
             directory is synchronized by accident",
            path.display()
        ))
        .hint(format!("kkartifact-agent init --path {}", path.display()))),
    }
}

/// The user's own file: `$XDG_CONFIG_HOME/kkartifact/agent.yml`.
pub fn global_file() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(base.join("kkartifact").join("agent.yml"))
}

/// Where this user's programs keep what only saves time.
fn cache_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("kkartifact"))
}

/// Reads a file; an error says file, line and key.
pub fn read(file: &Path) -> Result<ConfigFile> {
    let text = fs::read_to_string(file).map_err(AgentError::io(format!("reading {}", file.display())))?;
    parse(&text).map_err(|error| AgentError::new(Kind::Usage, format!("{}: {error}", file.display())))
}

fn parse(text: &str) -> std::result::Result<ConfigFile, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(ConfigFile::default());
    }
    serde_saphyr::from_str(text).map_err(|error| explain(text, &error))
}

/// The parser's reason, with the line and the key that stands there.
fn explain(text: &str, error: &serde_saphyr::Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let Some(at) = error.location() else { return first.to_owned() };
    let reason = first.split_once(&format!("column {}: ", at.column())).map_or(first, |(_, reason)| reason);
    let line = usize::try_from(at.line()).ok().and_then(|line| text.lines().nth(line.checked_sub(1)?));
    let key = line.and_then(|line| line.split_once(':')).map(|(key, _)| format!(", key '{}'", key.trim()));
    format!("line {}{}: {reason}", at.line(), key.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_reads() {
        let text = "server_url: https://repo.example.com\ntoken: xxx\nconcurrency: 8\nchunk_size: 4MB\nretain_versions: 5  # newest\nignore:\n  - logs/\n  - tmp/\n  - '*.log'\n";
        let file = parse(text).unwrap();
        assert_eq!(file.server_url.as_deref(), Some("https://repo.example.com"));
        assert_eq!(
            (file.concurrency, file.chunk_size, file.retain_versions),
            (Some(8), Some(ByteSize(4 << 20)), Some(5))
        );
        assert_eq!(file.ignore, ["logs/", "tmp/", "*.log"]);
        assert_eq!(parse("server: http://x").unwrap().server_url.as_deref(), Some("http://x"));
        assert!(parse("").unwrap().token.is_none());
        assert!(parse("# nothing yet\n").unwrap().token.is_none());
    }

    #[test]
    fn mistakes_are_told_with_line_and_key() {
        for (text, line, word) in [
            ("server_url: x\ntokn: y\n", "line 2", "tokn"),
            ("token: x\nchunk_size: 4 parsecs\n", "line 2", "parsecs"),
            ("token: x\n\nproject: a/b\n", "line 3", "a/b"),
            ("token: x\nconcurrency: many\n", "line 2", "'concurrency'"),
            ("token: [\n", "line", ""),
            ("token: x\ntoken: y\n", "line 2", "token"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(word), "{text:?}: {error}");
        }
    }
}
