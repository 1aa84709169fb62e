//! What every command works with.

use std::fs;
use std::path::PathBuf;

use kkartifact_model::api::version::AgentInfo;
use uuid::Uuid;

use crate::client::Client;
use crate::config::{Config, global_file};
use crate::error::Result;
use crate::output::note;
use crate::progress::Progress;

/// The agent, ready to work.
#[derive(Clone)]
pub struct Agent {
    /// What holds.
    pub config: Config,
    /// The server.
    pub client: Client,
    /// What a person sees.
    pub progress: Progress,
    /// Who this agent is.
    pub info: AgentInfo,
}

impl Agent {
    /// An agent with this configuration.
    pub fn new(config: Config, progress: Progress) -> Result<Self> {
        let client = Client::new(&config.server_url, Some(&config.token))?;
        Ok(Self { config, client, progress, info: identity() })
    }

    /// Says something that is not a result.
    pub fn say(&self, text: &str) {
        if self.progress != Progress::Quiet {
            note(text);
        }
    }
}

/// This installation's id and the host's name.
fn identity() -> AgentInfo {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let id = id_file().and_then(|file| stored_id(&file)).unwrap_or_else(|| format!("host-{host}"));
    AgentInfo { id: id.chars().take(64).collect(), host: host.chars().take(200).collect() }
}

fn id_file() -> Option<PathBuf> {
    Some(global_file()?.with_file_name("agent-id"))
}

/// The id chosen at the first run on this host. Without a place to keep it, the host's name has to do.
fn stored_id(file: &PathBuf) -> Option<String> {
    if let Ok(id) = fs::read_to_string(file) {
        return Some(id.trim().to_owned()).filter(|id| !id.is_empty());
    }
    let id = Uuid::new_v4().to_string();
    fs::create_dir_all(file.parent()?).ok()?;
    fs::write(file, &id).ok()?;
    Some(id)
}
