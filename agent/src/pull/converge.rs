//! Bringing a target to a manifest: plan, stage, then change it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use kkartifact_model::failpoint;
use kkartifact_model::size::ByteSize;
use kkartifact_model::time::Clock;

use super::change::{change, recover_staging, sync_file_system};
use super::collide::check_names;
use super::journal::Header;
use super::plan::{Counts, Files, Plan, Shown, plan};
use super::remember::{remember_current, remember_previous};
use super::report::{self, Pending};
use super::source::{Previous, Source, Sources};
use super::stage::Staging;
use super::state::{State, Target};
use crate::client::{Client, VersionPath};
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::push::crashed;
use crate::stat_cache::{StatReader, clock_now, wait_a_tick};
use crate::tree::{IgnoreRules, open_root};

/// The goal of a change.
pub struct Wanted {
    /// What should be in place.
    pub manifest: ManifestFile,
    /// Where content comes from that is not on this host.
    pub remote: Option<(Client, VersionPath)>,
    /// The state after the change.
    pub to: State,
    /// What the server is told of a change; filled in when it is made.
    pub report: Option<Pending>,
    /// When the work began.
    pub started: Instant,
}

/// What protects against mistakes.
pub struct Guards {
    /// Switches them off.
    pub force: bool,
    /// The most files that may be deleted, in percent of those that are there.
    pub max_delete: u8,
}

/// What a change did.
pub struct Converged {
    /// What changed.
    pub counts: Counts,
    /// The first changes, if they were asked for.
    pub shown: Vec<Shown>,
    /// Whether anything was changed.
    pub applied: bool,
}

/// Fewer deletions than this are never too many.
const FEW: u64 = 10;
/// Free bytes that a change leaves on the disk.
const SPARE: u64 = 16 << 20;

/// Brings a target to a manifest. With `show`, only says what would change, and shows the first changes.
pub async fn converge(
    agent: &Agent,
    target: &Arc<Target>,
    wanted: Wanted,
    guards: &Guards,
    show: Option<usize>,
) -> Result<Converged> {
    let step = agent.progress.step("comparing");
    let plan = compare(target, &wanted.manifest, &wanted.to.ignore, show.unwrap_or(0), true).await?;
    step.done();
    failpoint::reach("pull.planned");
    let counts = plan.counts.clone();
    if !guards.force {
        guard(&counts, guards)?;
    }
    if show.is_some() {
        return Ok(Converged { counts, shown: plan.shown, applied: false });
    }
    let applied = !counts.is_empty();
    if applied {
        if let Err(error) = stage(agent, target, &wanted, &plan).await {
            if error.kind == Kind::Full {
                // What was staged would only keep the disk full.
                target.remove_tree("staging")?;
            }
            return Err(error);
        }
        failpoint::reach("pull.staged");
    }
    let (worker, received) = (target.clone(), agent.client.moved().1);
    let work = tokio::task::spawn_blocking(move || commit(&worker, wanted, &plan, received));
    // The version is in place now: what goes wrong from here on only costs the next run time.
    if let Err(error) = work.await.map_err(|error| crashed(&error))?? {
        agent.say(&format!("note: {error}"));
    }
    Ok(Converged { counts, shown: Vec::new(), applied })
}

/// Makes the change, and remembers what is known of the files now. The inner error is of what comes after it.
fn commit(target: &Target, wanted: Wanted, plan: &Plan, received: u64) -> Result<Result<()>> {
    let Wanted { manifest, mut to, mut report, started, .. } = wanted;
    let (staged_until, state) = (clock_now(), target.state()?);
    let repair = state.as_ref().is_some_and(|state| state.current.tree_digest == to.current.tree_digest);
    let applied = !plan.counts.is_empty();
    if applied {
        // Each change has a state of its own, also one that puts the same version back in order: by it the
        // journal tells whether the change is complete.
        to.applied_at = Clock::System.now();
    }
    if let Some(pending) = &mut report {
        pending.change = to.applied_at;
        pending.report.bytes_received = received;
        pending.report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
    if applied {
        change(target, &Header { to: to.clone(), operations: plan.operations, repair, report })?;
    } else if state.as_ref() != Some(&to) {
        // The same content by another name.
        target.replace("state.json", &to.to_json()?)?;
        if let Some(pending) = report.filter(|_| state.is_none_or(|state| state.current != to.current)) {
            report::keep(target, &pending)?;
        }
    }
    let remember = || {
        if applied {
            // Else the next run would have to read all that was just written.
            wait_a_tick();
            if !repair {
                remember_previous(target)?;
            }
        }
        remember_current(target, &manifest, &plan.stage, staged_until)?;
        target.tidy(&to)?;
        failpoint::reach("pull.cleaned");
        Ok(())
    };
    Ok(remember())
}

/// Compares a target with a manifest. Without `trust`, every file is read.
pub async fn compare(
    target: &Arc<Target>,
    manifest: &ManifestFile,
    ignore: &[String],
    show: usize,
    trust: bool,
) -> Result<Plan> {
    let ignore = IgnoreRules::new(ignore)?;
    let (target, manifest) = (target.clone(), manifest.clone());
    let work = tokio::task::spawn_blocking(move || {
        let root = target.root()?;
        let [operations, kept, taken, stats] =
            ["operations", "stats.kept", "stats.taken", "stats"].map(|name| target.file(name));
        let files = Files { operations: &operations, kept: &kept, taken: &taken, stats: &stats, show };
        check_names(&target, &manifest)?;
        plan(root.as_ref().map(OwnedFd::as_fd), &manifest, &ignore, &files, trust)
    });
    work.await.map_err(|error| crashed(&error))?
}

fn guard(counts: &Counts, guards: &Guards) -> Result<()> {
    let there = counts.kept + counts.changed + counts.deleted;
    let too_many = counts.deleted >= FEW && counts.deleted * 100 > there * u64::from(guards.max_delete);
    if !too_many {
        return Ok(());
    }
    let message = format!(
        "this would delete {} of {there} files, more than max_delete = {} %; nothing was changed",
        counts.deleted, guards.max_delete
    );
    Err(AgentError::new(Kind::Guard, message)
        .hint("look with --dry-run; if it is meant to be so, add --force"))
}

/// What is free, and whether it is enough for so many more bytes.
fn room(target: &Target, bytes: u64) -> Result<(u64, bool)> {
    let stat = rustix::fs::statvfs(&target.dir).map_err(AgentError::os("asking for free space"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // What only changes places takes no room: going back must be possible on the fullest disk.
    Ok((free, bytes == 0 || free >= bytes.saturating_add(SPARE)))
}

fn check_room(target: &Target, bytes: u64) -> Result<()> {
    let (free, enough) = room(target, bytes)?;
    if enough {
        return Ok(());
    }
    let message = format!(
        "{} are free beside {}, but {} are needed; nothing was changed",
        ByteSize(free),
        target.path.display(),
        ByteSize(bytes.saturating_add(SPARE))
    );
    Err(AgentError::new(Kind::Full, message))
}

async fn stage(agent: &Agent, target: &Arc<Target>, wanted: &Wanted, plan: &Plan) -> Result<()> {
    recover_staging(target)?;
    if !room(target, plan.counts.bytes)?.1 {
        // What an earlier download left may be what fills the disk.
        target.remove_tree("leftover")?;
    }
    target.create_dir("staging")?;
    // Tells what an interrupted download was about.
    target.replace("staging/manifest", wanted.to.current.manifest_digest.to_string().as_bytes())?;
    target.create_dir("staging/tree")?;
    let (worker, manifest, remote) = (target.clone(), wanted.manifest.clone(), wanted.remote.clone());
    let (stage, concurrency, progress) = (plan.stage.clone(), agent.config.concurrency, agent.progress);
    let work = tokio::task::spawn_blocking(move || {
        let staging = Staging {
            want: manifest,
            stage,
            sources: Arc::new(Sources::new(sources(&worker)?)?),
            tree: open_root(&worker.file("staging/tree"))?,
            remote,
            concurrency,
        };
        let missing = staging.resolve(previous(&worker)?)?;
        check_room(&worker, missing.room)?;
        let step = progress.bytes("receiving", missing.bytes);
        staging.fill(&missing, &step)?;
        step.done();
        sync_file_system(&staging.tree)?;
        failpoint::reach("pull.staging-synced");
        Ok(())
    });
    work.await.map_err(|error| crashed(&error))?
}

/// What is on this host: the files in place, what the last change took out, what a download left.
fn sources(target: &Target) -> Result<Vec<Source>> {
    let mut list = Vec::new();
    if let Some(state) = target.state()? {
        if let (Some(root), Some(manifest)) =
            (target.root()?, target.manifest(&state.current.manifest_digest))
        {
            list.push(Source { root, manifest, sparse: false });
        }
        let before = state.previous.and_then(|previous| target.manifest(&previous.manifest_digest));
        if let (Ok(root), Some(manifest)) = (open_root(&target.file("previous/tree")), before) {
            list.push(Source { root, manifest, sparse: true });
        }
    }
    let left =
        std::fs::read_to_string(target.file("leftover/manifest")).ok().and_then(|digest| digest.parse().ok());
    let left = left.and_then(|digest| target.manifest(&digest));
    if let (Ok(root), Some(manifest)) = (open_root(&target.file("leftover/tree")), left) {
        list.push(Source { root, manifest, sparse: true });
    }
    Ok(list)
}

fn previous(target: &Target) -> Result<Option<Previous>> {
    let root = target.file("previous/tree");
    if !root.is_dir() {
        return Ok(None);
    }
    Ok(Some(Previous::new(open_root(&root)?, StatReader::open(&target.file("previous/stats")))))
}
