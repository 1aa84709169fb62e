//! What is in place, and what the server has.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kkartifact_model::api::channel::Channel;
use kkartifact_model::{AppName, ProjectName};
use serde::Serialize;

use crate::context::Agent;
use crate::error::Result;
use crate::pull::converge::compare;
use crate::pull::plan::Counts;
use crate::pull::state::{Deployed, Target};

/// How long the server's part is worth waiting for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether the agent has deployed or adopted it.
    pub deployed: bool,
    /// Whose.
    pub project: Option<ProjectName>,
    /// Whose.
    pub app: Option<AppName>,
    /// What is in place.
    pub current: Option<Deployed>,
    /// What was before: where a rollback goes.
    pub previous: Option<Deployed>,
    /// Since when.
    pub applied_at: Option<DateTime<Utc>>,
    /// Whether a change was interrupted: the next pull finishes it.
    pub interrupted: bool,
    /// How the directory differs from what was put there. Files that look untouched are not read.
    pub drift: Option<Counts>,
    /// Where the app's channels point; absent if the server can't be asked.
    pub channels: Option<Vec<Channel>>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(project), Some(app), Some(current)) = (&self.project, &self.app, &self.current) else {
            let what = if self.interrupted {
                "a first pull was interrupted; 'kkartifact-agent pull' finishes it"
            } else {
                "nothing was deployed here by this agent"
            };
            return f.write_str(what);
        };
        writeln!(f, "{project}/{app}")?;
        let since = self.applied_at.map(|at| at.format(" since %Y-%m-%d %H:%M:%S UTC").to_string());
        writeln!(f, "  in place  {}{}", current.shown(), since.unwrap_or_default())?;
        if let Some(previous) = &self.previous {
            writeln!(f, "  before    {}", previous.shown())?;
        }
        if self.interrupted {
            writeln!(f, "  state     a change was interrupted; 'kkartifact-agent pull' finishes it")?;
        } else if let Some(drift) = &self.drift {
            let Counts { added, changed, deleted, .. } = drift;
            if drift.is_empty() {
                writeln!(f, "  state     as it was put there")?;
            } else {
                writeln!(
                    f,
                    "  state     changed since: {added} missing, {changed} changed, {deleted} surplus"
                )?;
            }
        }
        match &self.channels {
            None => write!(f, "  channels  unknown: the server can't be asked"),
            Some(channels) if channels.is_empty() => write!(f, "  channels  none"),
            Some(channels) => {
                let list =
                    channels.iter().map(|channel| format!("{} → {}", channel.channel, channel.version));
                write!(f, "  channels  {}", list.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Looks at a directory. Changes nothing, not even an interrupted change.
pub async fn status(agent: &Agent, path: &Path) -> Result<Status> {
    let mut status = Status {
        deployed: false,
        project: None,
        app: None,
        current: None,
        previous: None,
        applied_at: None,
        interrupted: false,
        drift: None,
        channels: None,
    };
    let Some(target) = Target::existing(path)? else { return Ok(status) };
    status.interrupted = target.is_interrupted();
    let Some(state) = target.state()? else { return Ok(status) };
    if let Some(manifest) = target.manifest(&state.current.manifest_digest).filter(|_| !status.interrupted) {
        let ignore = state.all_ignored(&agent.config.ignore);
        status.drift = Some(compare(&target, &manifest, &ignore, 0, true).await?.counts);
    }
    // Nobody who wants to change something has to wait for the server's answer.
    drop(target);
    let channels = agent.client.channels(&state.project, &state.app);
    status.channels = tokio::time::timeout(PATIENCE, channels).await.ok().and_then(Result::ok);
    status.deployed = true;
    status.applied_at = Some(state.applied_at);
    (status.project, status.app) = (Some(state.project), Some(state.app));
    (status.current, status.previous) = (Some(state.current), state.previous);
    Ok(status)
}
