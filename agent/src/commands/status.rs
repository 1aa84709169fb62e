//! What is in place, and what the server has.

use std::fmt;
use std::path::Path;

use chrono::{DateTime, Utc};
use kkartifact_model::api::channel::Channel;
use kkartifact_model::{AppName, ProjectName};
use serde::Serialize;

use crate::context::Agent;
use crate::error::Result;
use crate::pull::converge::compare;
use crate::pull::plan::Counts;
use crate::pull::state::{Deployed, Target};

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
            return write!(f, "nothing was deployed here by this agent");
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

/// Looks at a directory.
pub async fn status(agent: &Agent, path: &Path) -> Result<Status> {
    let target = Target::open(path)?;
    let interrupted = target.file("journal").is_file();
    let Some(state) = target.state()? else {
        return Ok(Status {
            deployed: false,
            project: None,
            app: None,
            current: None,
            previous: None,
            applied_at: None,
            interrupted,
            drift: None,
            channels: None,
        });
    };
    let drift = match target.manifest(&state.current.manifest_digest) {
        Some(manifest) if !interrupted => Some(compare(agent, &target, &manifest, 0, true).await?.counts),
        _ => None,
    };
    let channels = agent.client.channels(&state.project, &state.app).await.ok();
    Ok(Status {
        deployed: true,
        project: Some(state.project),
        app: Some(state.app),
        current: Some(state.current),
        previous: state.previous,
        applied_at: Some(state.applied_at),
        interrupted,
        drift,
        channels,
    })
}
