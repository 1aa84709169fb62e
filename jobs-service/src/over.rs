//! What follows when a job has come to nothing for good.

use chrono::{DateTime, Utc};
use kkartifact_model::api::webhook::DeliveryState;
use kkartifact_model::event::EventKind;
use kkartifact_model::job::Job;
use kkartifact_store::{JobId, NewEvent, ProjectId, StoreError, Tx};
use serde_json::json;

/// Says so: to whoever follows the delivery, or else to webhooks. What says that a delivery has failed is not
/// delivered itself: it would never end. A job that can't be read is `None`.
pub(crate) async fn announce(
    tx: &mut Tx,
    kind: &str,
    job: Option<&Job>,
    id: JobId,
    project: Option<ProjectId>,
    error: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if let Some(Job::DeliverWebhook { delivery }) = job {
        tx.close_delivery(*delivery, DeliveryState::Failed, error, now).await?;
        return Ok(());
    }
    let event = NewEvent {
        kind: EventKind::JobFailed,
        // Not the app's: its sequence is locked by whoever changes the app, and endings come many at a time.
        app: None,
        project,
        payload: json!({ "job_id": id.0, "job_kind": kind, "error": error }),
        trace_parent: None,
    };
    tx.insert_event(&event, now).await.map(drop)
}
