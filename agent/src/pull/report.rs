//! Telling the server what has been applied. The report is written down with the change, so that one that could
//! not be sent is sent by the next run.

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

/// Reports a change.
pub(super) async fn pulled(agent: &Agent, target: &Target, done: &PullReport) -> Result<()> {
    let pending = Pending {
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
    };
    let text =
        serde_json::to_vec(&pending).map_err(|error| AgentError::new(Kind::Failed, error.to_string()))?;
    target.replace(FILE, &text)?;
    send_pending(agent, target).await;
    failpoint::reach("pull.reported");
    Ok(())
}

/// Sends a report that has not been sent. The version is in place either way, so failing is only worth a note.
pub(super) async fn send_pending(agent: &Agent, target: &Target) {
    let Ok(text) = fs::read(target.file(FILE)) else { return };
    let Ok(pending) = serde_json::from_slice::<Pending>(&text) else {
        drop(target.remove(FILE));
        return;
    };
    let Pending { project, app, version, report } = pending;
    match agent.client.report_pull(&project, &app, &version, &report).await {
        Err(error) if error.kind == Kind::Unavailable => {
            agent.say(&format!("note: the server could not be told: {error}; the next run tells it"));
        }
        // Told, or refused for good.
        done => {
            if let Err(error) = done {
                agent.say(&format!("note: the server did not take the report: {error}"));
            }
            drop(target.remove(FILE));
        }
    }
}
