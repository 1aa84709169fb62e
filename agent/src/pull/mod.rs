//! Pulling: plan against the manifest, stage what is new, apply it with a journal, tell the server.
//!
//! | module | what |
//! |---|---|
//! | [`state`] | what is kept beside the target |
//! | [`fetch`] | gets the manifest |
//! | [`plan`] | what has to change |
//! | [`source`] | content that is on this host already |
//! | [`stage`] | writes the new files beside the target |
//! | [`journal`] | what a change does, written before it begins |
//! | [`apply`] | does it |
//! | [`change`] | journal, apply, commit; finishes what was interrupted |
//! | [`remember`] | what is known of the files afterwards |
//! | [`collide`] | names that this file system would take for each other |
//! | [`converge`] | all of that in order |
//! | [`report`] | tells the server |

mod apply;
mod change;
mod collide;
pub mod converge;
mod fetch;
pub mod journal;
pub mod plan;
mod remember;
mod report;
pub mod source;
pub mod stage;
pub mod state;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use kkartifact_model::api::version::{BuildInfo, Version, VersionState};
use kkartifact_model::size::ByteSize;
use kkartifact_model::{AppName, ProjectName, TreeDigest, VersionName, VersionRef, failpoint};
use serde::Serialize;

use crate::client::VersionPath;
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::push::{seconds, short};
use converge::{Converged, Guards, Wanted};
use plan::{Counts, Shown};
use state::{Deployed, State, Target};

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The directory to apply the version to.
    pub path: PathBuf,
    /// Which version.
    pub version: VersionRef,
    /// Switches the guards off.
    pub force: bool,
    /// Only look.
    pub dry_run: bool,
    /// How many changes to show in a dry run.
    pub show: usize,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// The version in place now.
    pub version: VersionName,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// The version in place before.
    pub previous: Option<VersionName>,
    /// How it ended.
    pub outcome: Outcome,
    /// What changed.
    pub counts: Counts,
    /// The first changes, in a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Shown>,
    /// Bytes of request bodies.
    pub bytes_sent: u64,
    /// Bytes of answers that came over the network.
    pub bytes_received: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// An interrupted change that was finished first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The version is in place now.
    Applied,
    /// It was in place already.
    Unchanged,
    /// The host went back to it.
    RolledBack,
    /// Nothing was done.
    DryRun,
}

impl fmt::Display for PullReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(finished) = &self.finished {
            writeln!(f, "✓ finished the interrupted change to {finished}")?;
        }
        let what = match self.outcome {
            Outcome::Applied => "✓ in place:",
            Outcome::Unchanged => "✓ unchanged:",
            Outcome::RolledBack => "✓ rolled back to",
            Outcome::DryRun => "would apply",
        };
        let before = self.previous.as_ref().filter(|before| **before != self.version);
        let before = before.map(|before| format!(" (was {before})")).unwrap_or_default();
        writeln!(
            f,
            "{what} {}/{} {}{before}, tree {}",
            self.project,
            self.app,
            self.version,
            short(&self.tree_digest)
        )?;
        for shown in &self.changes {
            writeln!(f, "    {} {}", shown.change, shown.path)?;
        }
        let Counts { kept, added, changed, deleted, untouched, .. } = self.counts;
        writeln!(
            f,
            "  files    {added} added, {changed} changed, {deleted} deleted, {kept} kept, {untouched} left alone"
        )?;
        let (sent, received) = (ByteSize(self.bytes_sent), ByteSize(self.bytes_received));
        write!(f, "  moved    {received} received, {sent} sent, {}", seconds(self.milliseconds))
    }
}

/// Pulls a version.
pub async fn pull(agent: &Agent, options: &PullOptions) -> Result<PullReport> {
    let started = Instant::now();
    let (project, app) = agent.config.app()?;
    let target = Target::open(&options.path)?;
    failpoint::reach("pull.locked");
    let finished = change::recover(&target).await?;
    let state = target.state()?;
    check_belongs(agent, &target, state.as_ref(), &project, &app)?;

    let step = agent.progress.step("resolving");
    let version = agent.client.version(&project, &app, &options.version).await?;
    let manifest = fetch::manifest(agent, &target, state.as_ref(), &version).await?;
    step.done();
    failpoint::reach("pull.manifest-stored");
    let wanted = wanted(agent, &version, manifest, state.as_ref());
    let guards = Guards { force: options.force, max_delete: agent.config.max_delete };
    let show = options.dry_run.then_some(options.show);
    let converged = converge::converge(agent, &target, wanted, &guards, show).await?;
    let outcome = match (options.dry_run, converged.applied) {
        (true, _) => Outcome::DryRun,
        (false, true) => Outcome::Applied,
        (false, false) => Outcome::Unchanged,
    };
    let mut report = describe(agent, &version, state.as_ref(), outcome, converged, started);
    report.finished = finished.map(|state| state.current.shown());
    report::send(agent, &target, &report).await?;
    Ok(report)
}

/// A version of the server as a change's goal.
fn wanted(agent: &Agent, version: &Version, manifest: ManifestFile, state: Option<&State>) -> Wanted {
    let path = VersionPath {
        project: version.project.clone(),
        app: version.app.clone(),
        version: version.version.clone(),
    };
    let current = Deployed {
        version: Some(version.version.clone()),
        tree_digest: version.tree_digest,
        manifest_digest: version.manifest_digest,
    };
    Wanted {
        manifest,
        remote: Some((agent.client.clone(), path)),
        to: next_state(agent, state, version.project.clone(), version.app.clone(), current),
    }
}

/// The state after a change to `current`.
fn next_state(
    agent: &Agent,
    state: Option<&State>,
    project: ProjectName,
    app: AppName,
    current: Deployed,
) -> State {
    if let Some(state) =
        state.filter(|state| state.current == current && state.server_url == agent.config.server_url)
    {
        return state.clone();
    }
    // What was before stays what was before, if nothing but times or names change.
    let previous = match state {
        Some(state) if state.current.tree_digest == current.tree_digest => state.previous.clone(),
        Some(state) => Some(state.current.clone()),
        None => None,
    };
    let applied_at = kkartifact_model::time::Clock::System.now();
    State { server_url: agent.config.server_url.clone(), project, app, current, previous, applied_at }
}

fn describe(
    agent: &Agent,
    version: &Version,
    before: Option<&State>,
    outcome: Outcome,
    converged: Converged,
    started: Instant,
) -> PullReport {
    let (bytes_sent, bytes_received) = agent.client.moved();
    PullReport {
        project: version.project.clone(),
        app: version.app.clone(),
        version: version.version.clone(),
        tree_digest: version.tree_digest,
        previous: before.and_then(|state| state.current.version.clone()),
        outcome,
        counts: converged.counts,
        changes: converged.shown,
        bytes_sent,
        bytes_received,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        finished: None,
    }
}

/// Refuses a directory that is somebody else's: another app's, or nobody's and not empty.
fn check_belongs(
    agent: &Agent,
    target: &Target,
    state: Option<&State>,
    project: &ProjectName,
    app: &AppName,
) -> Result<()> {
    let path = target.path.display();
    if let Some(state) = state {
        if (&state.project, &state.app) == (project, app) {
            return Ok(());
        }
        let message = format!("{path} belongs to {}/{}, not to {project}/{app}", state.project, state.app);
        return Err(AgentError::new(Kind::Guard, message).hint("give the app's own directory with --path"));
    }
    let Some(root) = target.root()? else { return Ok(()) };
    let rules = crate::tree::IgnoreRules::new(&agent.config.ignore)?;
    let found = crate::tree::list(&root).map_err(AgentError::os(format!("reading {path}")))?;
    let content = found.iter().find(|found| {
        let is_directory = found.stat.kind == crate::tree::Kind::Directory;
        !kkartifact_model::path::is_reserved(&found.shown) && !rules.matches(&found.shown, is_directory)
    });
    match content {
        None => Ok(()),
        Some(found) => {
            let message = format!(
                "{path} is not empty (there is {:?}) and was not deployed by this agent",
                found.shown
            );
            let hint = format!("kkartifact-agent adopt --project {project} --app {app} --path {path}");
            Err(AgentError::new(Kind::Guard, message).hint(hint))
        }
    }
}

/// What to go back to.
#[derive(Debug, Clone)]
pub struct RollbackOptions {
    /// The directory.
    pub path: PathBuf,
    /// Which version; the one before if absent.
    pub to: Option<VersionName>,
    /// Only look.
    pub dry_run: bool,
    /// How many changes to show in a dry run.
    pub show: usize,
}

/// Goes back to an earlier version. From this host's own content where it can, else with the server's help.
pub async fn rollback(agent: &Agent, options: &RollbackOptions) -> Result<PullReport> {
    let started = Instant::now();
    let target = Target::open(&options.path)?;
    let finished = change::recover(&target).await?;
    let nothing = || {
        AgentError::new(Kind::Conflict, "there is no earlier version on this host")
            .hint("kkartifact-agent versions")
    };
    let state = target.state()?.ok_or_else(nothing)?;
    let to = match &options.to {
        Some(name) => name.clone(),
        None => state.previous.as_ref().and_then(|previous| previous.version.clone()).ok_or_else(nothing)?,
    };
    let local = local_version(&target, &state, &to);
    let (version, manifest) = if let Some(local) = local {
        local
    } else {
        let which = VersionRef::Name(to);
        let version = agent.client.version(&state.project, &state.app, &which).await?;
        let manifest = fetch::manifest(agent, &target, Some(&state), &version).await?;
        (version, manifest)
    };
    let wanted = wanted(agent, &version, manifest, Some(&state));
    // Going back is what people do in a hurry: the guards are for going forward.
    let guards = Guards { force: true, max_delete: 100 };
    let show = options.dry_run.then_some(options.show);
    let converged = converge::converge(agent, &target, wanted, &guards, show).await?;
    let outcome = match (options.dry_run, converged.applied) {
        (true, _) => Outcome::DryRun,
        (false, true) => Outcome::RolledBack,
        (false, false) => Outcome::Unchanged,
    };
    let mut report = describe(agent, &version, Some(&state), outcome, converged, started);
    report.finished = finished.map(|state| state.current.shown());
    report::send(agent, &target, &report).await?;
    Ok(report)
}

/// A version whose manifest is on this host: no need to ask the server.
fn local_version(target: &Target, state: &State, name: &VersionName) -> Option<(Version, ManifestFile)> {
    let known = std::iter::once(&state.current).chain(&state.previous);
    let deployed = known.into_iter().find(|deployed| deployed.version.as_ref() == Some(name))?;
    let manifest = target.manifest(&deployed.manifest_digest)?;
    let root = manifest.root();
    let version = Version {
        project: state.project.clone(),
        app: state.app.clone(),
        version: name.clone(),
        state: VersionState::Published,
        tree_digest: deployed.tree_digest,
        manifest_digest: deployed.manifest_digest,
        entry_count: root.entries(),
        file_count: root.files,
        bytes: root.bytes,
        build: BuildInfo::default(),
        created_at: state.applied_at,
        created_by: String::new(),
        deleted_at: None,
        channels: Vec::new(),
    };
    Some((version, manifest))
}
