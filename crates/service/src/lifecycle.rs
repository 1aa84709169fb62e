//! The life of a version after it was published, and the one gate that every read of content passes.

use chrono::{DateTime, Utc};
use kkartifact_model::api::version::VersionState;
use kkartifact_model::event::EventKind;
use kkartifact_model::job::Job;
use kkartifact_model::{Code, VersionRef};
use kkartifact_store::{
    Actor, AppRow, Database, NewAudit, NewEvent, NewJob, Outcome, StoreError, Tx, VersionId, VersionRow,
};

use crate::auth::AuthorizedApp;
use crate::error::{ApiError, ApiResult};

/// The version that a caller may see, in whatever state.
pub async fn visible(tx: &mut Tx, app: &AuthorizedApp, which: &VersionRef) -> ApiResult<VersionRow> {
    let found = tx.find_version(app.id, which).await?;
    found.ok_or_else(|| ApiError::not_found(&format!("version {which} of {}/{}", app.project, app.name)))
}

/// The version whose content a caller may read. Every path to content passes here.
pub async fn readable(tx: &mut Tx, app: &AuthorizedApp, which: &VersionRef) -> ApiResult<VersionRow> {
    require_readable(visible(tx, app, which).await?)
}

fn require_readable(row: VersionRow) -> ApiResult<VersionRow> {
    match row.state {
        VersionState::Published => Ok(row),
        VersionState::Quarantined => Err(ApiError::new(
            Code::VersionQuarantined,
            format!("version {} is quarantined until somebody releases it", row.name),
        )),
        VersionState::Archived => Err(archived(&row)),
        VersionState::Deleted | VersionState::Purged => Err(ApiError::new(
            Code::VersionDeleted,
            format!("version {} was deleted; pushing the same content again restores it", row.name),
        )),
    }
}

/// Why content could not be read of versions that were readable when it began: `error`, unless one of them has gone
/// since. Its bytes may be gone as well then, and that is no fault of ours.
pub async fn explain(db: &Database, read: &[VersionRow], error: ApiError) -> ApiError {
    if error.code != Code::Internal {
        return error;
    }
    for before in read {
        // If nobody can tell, it stays what it is.
        if let Ok(Some(gone)) = gone_since(db, before).await {
            return gone;
        }
    }
    error
}

async fn gone_since(db: &Database, before: &VersionRow) -> Result<Option<ApiError>, StoreError> {
    let mut tx = db.read().await?;
    let Some(row) = tx.version(before.id).await? else { return Ok(None) };
    tx.commit().await?;
    Ok(match require_readable(row) {
        Ok(row) if row.revision == before.revision => None,
        // Gone and back, perhaps with another manifest of the same tree.
        Ok(row) => {
            let message = format!("version {} was changed while it was read; try again", row.name);
            Some(ApiError::new(Code::Unavailable, message))
        }
        Err(gone) => Some(gone),
    })
}

/// The refusal of what can't be done with a version as long as it is archived.
pub fn archived(row: &VersionRow) -> ApiError {
    let message =
        format!("version {} is archived; restore it, or push the same content again, to use it", row.name);
    ApiError::new(Code::VersionArchived, message)
}

/// What happened to a version: audit row and event, in the caller's transaction, which has locked the app.
pub struct Happened<'a> {
    /// To which app.
    pub app: &'a AppRow,
    /// To which version.
    pub version: (VersionId, &'a str),
    /// What.
    pub kind: EventKind,
    /// What the audit log calls it.
    pub action: &'a str,
    /// By which agent on which host.
    pub agent: Option<(&'a str, &'a str)>,
    /// What else receivers and the audit log get.
    pub detail: serde_json::Value,
}

impl Happened<'_> {
    /// Records it.
    pub async fn record(&self, tx: &mut Tx, actor: &Actor, now: DateTime<Utc>) -> ApiResult<()> {
        let (_, version) = self.version;
        let mut payload = serde_json::json!({
            "project": self.app.project, "app": self.app.name, "version": version, "actor": actor.name,
        });
        if let (Some(payload), Some(detail)) = (payload.as_object_mut(), self.detail.as_object()) {
            payload.extend(detail.clone());
        }
        let event = NewEvent {
            kind: self.kind,
            app: Some((self.app.project_id, self.app.id)),
            project: None,
            payload,
            trace_parent: actor.trace_parent.clone(),
        };
        tx.insert_event(&event, now).await?;
        let row = NewAudit {
            action: self.action,
            times: 1,
            project: Some(self.app.project.as_str()),
            app: Some(self.app.name.as_str()),
            version: Some(version),
            agent_id: self.agent.map(|(id, _)| id),
            host: self.agent.map(|(_, host)| host),
            detail: self.detail.clone(),
        };
        tx.audit(actor, Outcome::Done, &row, now).await?;
        Ok(())
    }
}

/// Queues the job that writes the version's marker into storage, in the trace of whoever changed the version.
pub async fn queue_marker(
    tx: &mut Tx,
    app: &AppRow,
    version: VersionId,
    actor: &Actor,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    let job = Job::VersionMarker { version_id: version.0 };
    let (project, app) = (Some(app.project_id), Some(app.id));
    let trace_parent = actor.trace_parent.as_deref();
    tx.insert_job(&NewJob { project, app, trace_parent, ..NewJob::new(&job, now) }, now).await?;
    Ok(())
}

/// Tombstones a version. Its bytes stay until they are collected. The transaction has locked the app.
pub async fn delete(
    tx: &mut Tx,
    app: &AppRow,
    row: &VersionRow,
    actor: &Actor,
    why: &str,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    tx.delete_version(row.id, now).await?;
    let happened = Happened {
        app,
        version: (row.id, row.name.as_str()),
        kind: EventKind::Delete,
        action: "version.delete",
        agent: None,
        detail: serde_json::json!({ "reason": why }),
    };
    happened.record(tx, actor, now).await?;
    queue_marker(tx, app, row.id, actor, now).await
}

/// Archives a version: nobody reads it until it is restored, and its bytes stay until it is deleted. The transaction
/// has locked the app.
pub async fn archive(
    tx: &mut Tx,
    app: &AppRow,
    row: &VersionRow,
    actor: &Actor,
    why: &str,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    tx.archive_version(row.id).await?;
    let happened = Happened {
        app,
        version: (row.id, row.name.as_str()),
        kind: EventKind::Archive,
        action: "version.archive",
        agent: None,
        detail: serde_json::json!({ "reason": why }),
    };
    happened.record(tx, actor, now).await?;
    queue_marker(tx, app, row.id, actor, now).await
}

/// Brings a tombstoned or archived version back. The transaction has locked the app.
pub async fn restore(
    tx: &mut Tx,
    app: &AppRow,
    row: &VersionRow,
    actor: &Actor,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    tx.restore_version(row.id, now).await?;
    let happened = Happened {
        app,
        version: (row.id, row.name.as_str()),
        kind: EventKind::Restore,
        action: "version.restore",
        agent: None,
        detail: serde_json::json!({}),
    };
    happened.record(tx, actor, now).await?;
    queue_marker(tx, app, row.id, actor, now).await
}
