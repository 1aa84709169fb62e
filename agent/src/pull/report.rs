//! Telling the server what has been applied. A report is part of the change: the journal carries it, and it waits
//! beside the target until the server has it. The server protects from deletion what hosts say they run.

use std::collections::VecDeque;
use std::fs;

use chrono::{DateTime, Utc};
use kkartifact_model::api::version::PullReport as Report;
use kkartifact_model::{AppName, ProjectName, VersionName, failpoint};
use serde::{Deserialize, Serialize};

use super::state::Target;
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};

/// A report that the server has not got yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which change: when it was made.
    pub change: DateTime<Utc>,
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// What is in place.
    pub version: VersionName,
    /// What the server is told.
    pub report: Report,
}

const FILE: &str = "report.json";
/// The most reports that wait; a server that is away for so many changes misses the oldest.
const MOST: usize = 100;

/// Keeps a report until the server has it. One that is kept already is not kept twice.
pub(super) fn keep(target: &Target, report: &Pending) -> Result<()> {
    let mut waiting = waiting(target);
    if waiting.back().is_some_and(|last| last.change == report.change) {
        return Ok(());
    }
    waiting.push_back(report.clone());
    waiting.drain(..waiting.len().saturating_sub(MOST));
    store(target, &waiting)
}

/// Sends what waits, oldest first. The versions are in place either way, so failing is only worth a note.
pub(super) async fn send(agent: &Agent, target: &Target) -> Result<()> {
    let mut waiting = waiting(target);
    let before = waiting.len();
    while let Some(next) = waiting.front() {
        match agent.client.report_pull(&next.project, &next.app, &next.version, &next.report).await {
            Ok(()) => {}
            // The version is gone, or this can't be said: trying again would change nothing.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Invalid | Kind::Conflict) => {
                agent.say(&format!("note: the server did not take the report: {error}"));
            }
            Err(error) => {
                agent.say(&format!("note: the server could not be told: {error}; the next run tells it"));
                break;
            }
        }
        waiting.pop_front();
    }
    if waiting.len() < before {
        store(target, &waiting)?;
    }
    failpoint::reach("pull.reported");
    Ok(())
}

fn waiting(target: &Target) -> VecDeque<Pending> {
    let text = fs::read(target.file(FILE)).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn store(target: &Target, waiting: &VecDeque<Pending>) -> Result<()> {
    if waiting.is_empty() {
        return target.remove(FILE);
    }
    let text =
        serde_json::to_vec(waiting).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
    target.replace(FILE, &text)
}
