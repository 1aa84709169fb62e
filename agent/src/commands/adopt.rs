//! Taking over a directory that rsync or a person deployed: nothing in it is changed, but from now on the agent
//! knows what is there, so that the next pull moves the difference only.

use std::fmt;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use kkartifact_model::time::Clock;
use kkartifact_model::{AppName, ProjectName, TreeDigest, VersionName};
use serde::Serialize;

use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::pull::state::{Deployed, State, Target};
use crate::push::{crashed, scan, short};
use crate::tree::IgnoreRules;

/// What was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// The version that the directory is, if it is exactly one.
    pub version: Option<VersionName>,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// Regular files.
    pub files: u64,
}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (project, app, files) = (&self.project, &self.app, self.files);
        match &self.version {
            Some(version) => {
                write!(f, "✓ adopted for {project}/{app}: {files} files, exactly version {version}")
            }
            None => write!(
                f,
                "✓ adopted for {project}/{app}: {files} files, tree {}, which is no version of the app\n  next     \
                 kkartifact-agent pull --dry-run   shows what a pull would change",
                short(&self.tree_digest)
            ),
        }
    }
}

/// Takes over a directory.
pub async fn adopt(agent: &Agent, path: &Path) -> Result<Adopted> {
    let (project, app) = agent.config.app()?;
    let target = Target::open(path)?;
    if let Some(state) = target.state()? {
        let message = format!("{} is deployed already: {}/{}", path.display(), state.project, state.app);
        return Err(AgentError::new(Kind::Conflict, message).hint("kkartifact-agent status"));
    }
    if target.is_interrupted() {
        let message = format!("a change of {} was interrupted: it may be a mix", path.display());
        return Err(AgentError::new(Kind::Conflict, message).hint("kkartifact-agent pull"));
    }
    let nothing = || AgentError::new(Kind::NotFound, format!("{} does not exist", path.display()));
    let root = target.root()?.ok_or_else(nothing)?;
    let ignore = IgnoreRules::new(&agent.config.ignore)?;
    let step = agent.progress.step("reading");
    let scanned = {
        let (target, step) = (target.clone(), step.clone());
        let work = move || {
            let files = scan::ScanFiles {
                old_manifest: None,
                old_stats: target.file("none"),
                manifest: target.file("manifest.new"),
                stats: target.file("stats.new"),
            };
            scan::scan(root.as_fd(), &ignore, &files, &step)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| crashed(&error))??
    };
    step.done();
    let (tree_digest, manifest_digest) =
        (scanned.manifest.root().tree_digest, scanned.manifest.root().manifest_digest);
    let versions = agent.client.versions_of_tree(&project, &app, &tree_digest).await?;
    let version = versions.items.first().map(|version| version.version.clone());

    let keep = |from: &Path, to: &Path| fs::rename(from, to).map_err(AgentError::io("keeping what was read"));
    keep(scanned.manifest.path(), &target.manifest_path(&manifest_digest))?;
    keep(&target.file("stats.new"), &target.file("stats"))?;
    let state = State {
        server_url: agent.config.server_url.clone(),
        project: project.clone(),
        app: app.clone(),
        current: Deployed { version: version.clone(), tree_digest, manifest_digest },
        previous: None,
        applied_at: Clock::System.now(),
        ignore: agent.config.ignore.clone(),
    };
    target.replace("state.json", &state.to_json()?)?;
    Ok(Adopted { project, app, version, tree_digest, files: scanned.manifest.root().files })
}
