//! Pulling: plan against the manifest, stage what is new, apply it with a journal, tell the server.
//!
//! | module | what |
//! |---|---|
//! | [`state`], [`state_dir`] | what is kept beside the target, and where |
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
mod state_dir;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use kkartifact_model::api::version::{PullReport as Report, Version};
use kkartifact_model::size::ByteSize;
use kkartifact_model::time::Clock;
use kkartifact_model::{AppName, ProjectName, TreeDigest, VersionName, VersionRef, failpoint};
use serde::Serialize;

use crate::client::VersionPath;
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::push::{seconds, short};
use converge::{Converged, Guards, Wanted};
use plan::{Counts, Shown};
use report::Pending;
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
    /// The version in place now; absent for adopted content that is no version of the server.
    pub version: Option<VersionName>,
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
        let before = self.previous.as_ref().filter(|before| Some(*before) != self.version.as_ref());
        let before = before.map(|before| format!(" (was {before})")).unwrap_or_default();
        let (project, app, tree) = (&self.project, &self.app, short(&self.tree_digest));
        let version = self.version.as_ref().map_or("content of no version", |version| version.as_str());
        writeln!(f, "{what} {project}/{app} {version}{before}, tree {tree}")?;
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

/// What a directory is to become.
struct Goal {
    project: ProjectName,
    app: AppName,
    deployed: Deployed,
    manifest: ManifestFile,
    ignore: Vec<String>,
    rollback: bool,
}

/// Pulls a version.
pub async fn pull(agent: &Agent, options: &PullOptions) -> Result<PullReport> {
    let started = Instant::now();
    let (project, app) = agent.config.app()?;
    let target = Target::open(&options.path)?;
    failpoint::reach("pull.locked");
    let finished = recover(&target, options.dry_run).await?;
    let state = target.state()?;
    check_belongs(agent, &target, state.as_ref(), &project, &app)?;

    let step = agent.progress.step("resolving");
    let version = agent.client.version(&project, &app, &options.version).await?;
    let manifest = fetch::manifest(agent, &target, state.as_ref(), &version).await?;
    step.done();
    failpoint::reach("pull.manifest-stored");
    let ignore = agent.config.ignore.clone();
    let goal = Goal { project, app, deployed: deployed(&version), manifest, ignore, rollback: false };
    let guards = Guards { force: options.force, max_delete: agent.config.max_delete };
    let show = options.dry_run.then_some(options.show);
    reach(agent, &target, state.as_ref(), goal, &guards, show, (started, finished)).await
}

/// Finishes an interrupted change, unless only looking.
async fn recover(target: &Arc<Target>, dry_run: bool) -> Result<Option<State>> {
    if !dry_run {
        return change::recover(target).await;
    }
    if !target.is_interrupted() {
        return Ok(None);
    }
    let message = format!("a change of {} was interrupted", target.path.display());
    Err(AgentError::new(Kind::Conflict, message).hint("run it without --dry-run: that finishes the change"))
}

fn deployed(version: &Version) -> Deployed {
    Deployed {
        version: Some(version.version.clone()),
        tree_digest: version.tree_digest,
        manifest_digest: version.manifest_digest,
    }
}

/// Brings the directory to a goal, and tells the server.
async fn reach(
    agent: &Agent,
    target: &Arc<Target>,
    state: Option<&State>,
    goal: Goal,
    guards: &Guards,
    show: Option<usize>,
    (started, finished): (Instant, Option<State>),
) -> Result<PullReport> {
    let Goal { project, app, deployed, manifest, ignore, rollback } = goal;
    let path = deployed.version.clone().map(|version| VersionPath {
        project: project.clone(),
        app: app.clone(),
        version,
    });
    let before = state.and_then(|state| state.current.version.clone());
    let wanted = Wanted {
        manifest,
        remote: path.clone().map(|path| (agent.client.clone(), path)),
        to: next_state(agent, state, project.clone(), app.clone(), deployed.clone(), ignore),
        report: path.map(|path| pending(agent, target, path, before.clone(), rollback)),
        started,
    };
    let Converged { counts, shown, applied } =
        converge::converge(agent, target, wanted, guards, show).await?;
    let outcome = match (show.is_some(), applied, rollback) {
        (true, _, _) => Outcome::DryRun,
        (false, true, true) => Outcome::RolledBack,
        (false, true, false) => Outcome::Applied,
        (false, false, _) => Outcome::Unchanged,
    };
    if outcome != Outcome::DryRun {
        report::send(agent, target).await?;
    }
    let (bytes_sent, bytes_received) = agent.client.moved();
    Ok(PullReport {
        project,
        app,
        version: deployed.version,
        tree_digest: deployed.tree_digest,
        previous: before,
        outcome,
        counts,
        changes: shown,
        bytes_sent,
        bytes_received,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        finished: finished.map(|state| state.current.shown()),
    })
}

/// What the server will be told, but for what only the end shows.
fn pending(
    agent: &Agent,
    target: &Target,
    path: VersionPath,
    previous: Option<VersionName>,
    rollback: bool,
) -> Pending {
    Pending {
        change: Clock::System.now(),
        project: path.project,
        app: path.app,
        version: path.version,
        report: Report {
            agent: agent.info.clone(),
            target: target.path.display().to_string(),
            previous,
            bytes_received: 0,
            duration_ms: 0,
            rollback,
        },
    }
}

/// The state after a change to `current`.
fn next_state(
    agent: &Agent,
    state: Option<&State>,
    project: ProjectName,
    app: AppName,
    current: Deployed,
    ignore: Vec<String>,
) -> State {
    let server_url = agent.config.server_url.clone();
    let unchanged = state.filter(|state| state.current == current && state.server_url == server_url);
    if let Some(state) = unchanged {
        return State { ignore, ..state.clone() };
    }
    // What was before stays what was before, if nothing but times or names change.
    let previous = match state {
        Some(state) if state.current.tree_digest == current.tree_digest => state.previous.clone(),
        Some(state) => Some(state.current.clone()),
        None => None,
    };
    State { server_url, project, app, current, previous, applied_at: Clock::System.now(), ignore }
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
    let nothing = || {
        AgentError::new(Kind::Conflict, "there is no earlier version on this host")
            .hint("kkartifact-agent versions")
    };
    let target = Target::existing(&options.path)?.ok_or_else(nothing)?;
    let finished = recover(&target, options.dry_run).await?;
    let state = target.state()?.ok_or_else(nothing)?;
    let known = match &options.to {
        Some(name) => std::iter::once(&state.current)
            .chain(&state.previous)
            .find(|deployed| deployed.version.as_ref() == Some(name)),
        // Also what was adopted, which has no name.
        None => Some(state.previous.as_ref().ok_or_else(nothing)?),
    };
    let local = known.and_then(|known| Some((known.clone(), target.manifest(&known.manifest_digest)?)));
    let (deployed, manifest) = if let Some(local) = local {
        local
    } else {
        let name = options.to.clone().or_else(|| known?.version.clone()).ok_or_else(nothing)?;
        let version = agent.client.version(&state.project, &state.app, &VersionRef::Name(name)).await?;
        let manifest = fetch::manifest(agent, &target, Some(&state), &version).await?;
        (deployed(&version), manifest)
    };
    let (project, app) = (state.project.clone(), state.app.clone());
    let ignore = state.all_ignored(&agent.config.ignore);
    let goal = Goal { project, app, deployed, manifest, ignore, rollback: true };
    // Going back is what people do in a hurry: the guards are for going forward.
    let guards = Guards { force: true, max_delete: 100 };
    let show = options.dry_run.then_some(options.show);
    reach(agent, &target, Some(&state), goal, &guards, show, (started, finished)).await
}
