//! The versions and channels of the app: listing, promoting, moving back, pruning.

use std::fmt;

use kkartifact_model::api::channel::{Channel, Promote, Rollback};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::version::{Prune, Pruned, Version};
use kkartifact_model::size::ByteSize;
use kkartifact_model::{ChannelName, VersionName};
use serde::Serialize;

use crate::context::Agent;
use crate::error::{AgentError, Result};

/// Versions, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Versions(pub Page<Version>);

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.0.items.iter().map(|version| version.version.as_str().len()).max().unwrap_or(0).max(7);
        writeln!(
            f,
            "{:width$}  {:19}  {:>8}  {:>11}  CHANNELS",
            "VERSION", "PUBLISHED (UTC)", "FILES", "SIZE"
        )?;
        for version in &self.0.items {
            let channels: Vec<_> = version.channels.iter().map(ChannelName::as_str).collect();
            let at = version.created_at.format("%Y-%m-%d %H:%M:%S");
            let (name, size) = (version.version.as_str(), ByteSize(version.bytes).to_string());
            writeln!(
                f,
                "{name:width$}  {at}  {:>8}  {size:>11}  {}",
                version.file_count,
                channels.join(", ")
            )?;
        }
        write!(f, "{} of {}", self.0.items.len(), self.0.total)
    }
}

/// Where a channel points now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Moved(pub Channel);

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.0.previous.as_ref().map(|version| format!(" (was {version})")).unwrap_or_default();
        write!(f, "✓ {} → {}{before}", self.0.channel, self.0.version)
    }
}

/// What a prune took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PruneReport(pub Pruned);

impl fmt::Display for PruneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[VersionName]| {
            let names: Vec<_> = list
                .iter()
                .map(|name| {
                    format!(
                        "
    {name}"
                    )
                })
                .collect();
            names.concat()
        };
        let what = if self.0.dry_run { "would delete" } else { "✓ deleted" };
        write!(f, "{what} {} versions{}", self.0.deleted.len(), names(&self.0.deleted))?;
        if !self.0.protected.is_empty() {
            write!(f, "\n  kept although old, since something relies on them:{}", names(&self.0.protected))?;
        }
        Ok(())
    }
}

/// The newest versions of the app.
pub async fn versions(agent: &Agent, limit: u32) -> Result<Versions> {
    let (project, app) = agent.config.app()?;
    Ok(Versions(agent.client.versions(&project, &app, limit).await?))
}

/// Points a channel to a version.
pub async fn promote(agent: &Agent, version: VersionName, channel: ChannelName) -> Result<Moved> {
    let (project, app) = agent.config.app()?;
    Ok(Moved(agent.client.promote(&Promote { project, app, version, channel }).await?))
}

/// Moves a channel back.
pub async fn move_back(agent: &Agent, channel: ChannelName, to: Option<VersionName>) -> Result<Moved> {
    let (project, app) = agent.config.app()?;
    Ok(Moved(agent.client.rollback(&Rollback { project, app, channel, to }).await?))
}

/// Deletes the oldest versions of the app.
pub async fn prune(agent: &Agent, keep: Option<u32>, dry_run: bool) -> Result<PruneReport> {
    let (project, app) = agent.config.app()?;
    let keep = keep.or(agent.config.retain_versions).ok_or_else(|| {
        AgentError::usage(
            "how many versions to keep? Use --keep or set 'retain_versions' in the configuration",
        )
    })?;
    Ok(PruneReport(agent.client.prune(&project, &app, &Prune { keep, dry_run }).await?))
}
