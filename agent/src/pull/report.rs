//! Telling the server what has been applied. The report is written down with the change, so that one that could
//! not be sent is sent by the next run.

use std::collections::VecDeque;
use std::fs;

use kkartifact_model::api::version::PullReport as Report;
use kkartifact_model::{AppName, ProjectName, VersionName, failpoint};
use serde::{Deserialize, Serialize};

use super::state::Target;
use super::{Outcome, PullReport};
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};

#[derive(Serialize, Deserialize)]
struct Pending {
    project: ProjectName,
    app: AppName,
    version: VersionName,
    report: Report,
}

const FILE: &str = "report.json";
/// The most reports that wait; a server that is away for so many changes misses the oldest.
const MOST: usize = 100;

/// Reports what was done, and what earlier runs could not report. The version is in place either way, so failing
/// to tell is only worth a note.
pub(super) async fn send(agent: &Agent, target: &Target, done: &PullReport) -> Result<()> {
    let waiting = fs::read(target.file(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut waiting: VecDeque<Pending> = waiting.unwrap_or_default();
    if matches!(done.outcome, Outcome::Applied | Outcome::RolledBack) {
        waiting.push_back(pending(agent, target, done));
        waiting.drain(..waiting.len().saturating_sub(MOST));
        store(target, &waiting)?;
    }
    let before = waiting.len();
    while let Some(next) = waiting.front() {
        let told = agent.client.report_pull(&next.project, &next.app, &next.version, &next.report).await;
        match told {
            Err(error) if error.kind == Kind::Unavailable => {
                agent.say(&format!("note: the server could not be told: {error}; the next run tells it"));
                break;
            }
            Err(error) => agent.say(&format!("note: the server did not take the report: {error}")),
            Ok(()) => {}
        }
        waiting.pop_front();
    }
    if waiting.len() < before {
        store(target, &waiting)?;
    }
    failpoint::reach("pull.reported");
    Ok(())
}

fn pending(agent: &Agent, target: &Target, done: &PullReport) -> Pending {
    Pending {
        project: done.project.clone(),
        app: done.app.clone(),
        version: done.version.clone(),
        report: Report {
            agent: agent.info.clone(),
            target: target.path.display().to_string(),
            previous: done.previous.clone(),
            bytes_received: done.bytes_received,
            duration_ms: done.milliseconds,
            rollback: done.outcome == Outcome::RolledBack,
        },
    }
}

fn store(target: &Target, waiting: &VecDeque<Pending>) -> Result<()> {
    if waiting.is_empty() {
        return target.remove(FILE);
    }
    let text =
        serde_json::to_vec(waiting).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
    target.replace(FILE, &text)
}
