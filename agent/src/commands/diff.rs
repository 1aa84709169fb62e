//! What differs: between two versions, or between a directory and a version.

use std::fmt;

use kkartifact_model::VersionRef;
use kkartifact_model::api::version::{PathChange, VersionDiff};
use kkartifact_model::size::ByteSize;
use serde::Serialize;

use crate::context::Agent;
use crate::error::Result;

/// The differences between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diff(pub VersionDiff);

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let diff = &self.0;
        for item in &diff.items {
            let sign = match item.change {
                PathChange::Added => '+',
                PathChange::Removed => '-',
                PathChange::Changed => '~',
            };
            let sizes = match (item.old_size, item.new_size) {
                (Some(old), Some(new)) if old != new => format!("  {} → {}", ByteSize(old), ByteSize(new)),
                (None, Some(size)) | (Some(size), None) => format!("  {}", ByteSize(size)),
                _ => String::new(),
            };
            writeln!(f, "{sign} {}{sizes}", item.path)?;
        }
        if diff.truncated {
            writeln!(f, "  … and more; --limit shows more")?;
        }
        let VersionDiff { from, to, added, changed, removed, .. } = diff;
        write!(f, "{from} → {to}: {added} added, {changed} changed, {removed} removed")
    }
}

/// The differences between two versions of the app.
pub async fn diff(agent: &Agent, from: &VersionRef, to: &VersionRef, limit: u32) -> Result<Diff> {
    let (project, app) = agent.config.app()?;
    Ok(Diff(agent.client.diff(&project, &app, from, to, limit).await?))
}
