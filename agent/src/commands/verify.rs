//! Whether a directory is exactly the version that the agent put there: every file is read.

use std::fmt;
use std::path::Path;

use kkartifact_model::VersionName;
use serde::Serialize;

use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::pull::converge::compare;
use crate::pull::plan::{Counts, Shown};
use crate::pull::state::Target;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The version that should be in place.
    pub version: Option<VersionName>,
    /// Whether it is, exactly.
    pub intact: bool,
    /// Whether a change was interrupted.
    pub interrupted: bool,
    /// What a pull of the same version would change.
    pub counts: Counts,
    /// The first differences: `-` is there and should not be, `+` should be there, `~` differs.
    pub differences: Vec<Shown>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_ref().map_or("the adopted content", |version| version.as_str());
        if self.interrupted {
            writeln!(f, "✗ a change was interrupted; 'kkartifact-agent pull' finishes it")?;
        }
        if self.intact {
            return write!(f, "✓ exactly {version}: {} files and links compared", self.counts.kept);
        }
        for shown in &self.differences {
            writeln!(f, "    {} {}", shown.change, shown.path)?;
        }
        let Counts { added, changed, deleted, .. } = self.counts;
        write!(f, "✗ not {version}: {added} missing, {changed} changed, {deleted} surplus")
    }
}

/// How many differences are shown.
const SHOW: usize = 100;

/// Reads everything in a directory and compares it with the version in place.
pub async fn verify(agent: &Agent, path: &Path) -> Result<Verified> {
    let nothing = || {
        AgentError::new(Kind::NotFound, format!("{} was not deployed by this agent", path.display()))
            .hint("kkartifact-agent adopt")
    };
    let target = Target::existing(path)?.ok_or_else(nothing)?;
    let interrupted = target.is_interrupted();
    let state = match target.state()? {
        Some(state) => state,
        None if interrupted => {
            return Err(
                AgentError::new(Kind::Invalid, "a first pull was interrupted").hint("kkartifact-agent pull")
            );
        }
        None => return Err(nothing()),
    };
    let manifest = target.manifest(&state.current.manifest_digest).ok_or_else(|| {
        AgentError::new(Kind::Invalid, "the manifest of what is in place is missing or damaged")
            .hint("kkartifact-agent pull")
    })?;
    let step = agent.progress.step("reading");
    let ignore = state.all_ignored(&agent.config.ignore);
    let plan = compare(&target, &manifest, &ignore, SHOW, false).await?;
    step.done();
    // What was read is what is known from now on: the next pull mends what this found, however it looks.
    std::fs::rename(target.file("stats.kept"), target.file("stats"))
        .map_err(AgentError::io("keeping what was read"))?;
    let intact = plan.counts.is_empty() && !interrupted;
    let version = state.current.version;
    Ok(Verified { version, intact, interrupted, counts: plan.counts, differences: plan.shown })
}
