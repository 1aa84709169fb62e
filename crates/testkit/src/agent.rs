//! An agent of a test's own: the library, configured for a test server.

use std::path::Path;

use kkartifact_agent::config::Config;
use kkartifact_agent::progress::Progress;
use kkartifact_agent::pull::{PullOptions, PullReport, RollbackOptions};
use kkartifact_agent::push::{PushOptions, PushReport};
use kkartifact_agent::{Agent, Result};
use kkartifact_model::api::version::AgentInfo;

use crate::TestServer;

/// An agent that pushes to and pulls from one app.
pub struct TestAgent {
    /// It.
    pub agent: Agent,
}

impl TestAgent {
    /// An agent for `project/app` with this token. Keeps its memory in the test's directory.
    pub fn new(server: &TestServer, app: &str, token: &str) -> Self {
        let (project, name) = app.split_once('/').unwrap();
        let config = Config {
            server_url: server.url.clone(),
            token: token.to_owned(),
            project: Some(project.parse().unwrap()),
            app: Some(name.parse().unwrap()),
            concurrency: 4,
            chunk_size: 64 << 10,
            retain_versions: None,
            ignore: Vec::new(),
            max_shrink: 50,
            max_delete: 50,
            cache_dir: Some(server.dir().join("agent-cache")),
        };
        let mut agent = Agent::new(config, Progress::Quiet).unwrap();
        agent.info = AgentInfo { id: "agent-1".into(), host: "host-1".into() };
        Self { agent }
    }

    /// The same agent with a changed configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.agent.config);
        self
    }

    /// Counts bytes from zero again, as a new process would.
    fn fresh(&self) -> Agent {
        let mut agent = Agent::new(self.agent.config.clone(), Progress::Quiet).unwrap();
        agent.info = self.agent.info.clone();
        agent
    }

    /// Pushes a directory.
    pub async fn push(&self, path: &Path, version: &str) -> Result<PushReport> {
        let version = Some(version.parse().unwrap());
        let options = PushOptions { path: path.to_owned(), version, force: false, dry_run: false };
        kkartifact_agent::push::push(&self.fresh(), &options).await
    }

    /// Applies a version to a directory.
    pub async fn pull(&self, path: &Path, version: &str) -> Result<PullReport> {
        let version = version.parse().unwrap();
        let options = PullOptions { path: path.to_owned(), version, force: false, dry_run: false, show: 100 };
        kkartifact_agent::pull::pull(&self.fresh(), &options).await
    }

    /// Goes back to the version before.
    pub async fn rollback(&self, path: &Path) -> Result<PullReport> {
        let options = RollbackOptions { path: path.to_owned(), to: None, dry_run: false, show: 100 };
        kkartifact_agent::pull::rollback(&self.fresh(), &options).await
    }
}
