//! Events of an app as a stream (server-sent events), resumed by sequence.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use kkartifact_service::{ApiError, ApiResult, AuthorizedApp, Resources};
use kkartifact_store::{AppId, EventRow};
use serde_json::json;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a quiet stream says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How many events are read at once.
const BATCH: u32 = 100;

/// What happens to an app from now on; with `Last-Event-ID`, from behind that on.
pub(crate) async fn stream(
    State(resources): State<Resources>,
    app: AuthorizedApp,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = if let Some(value) = headers.get("last-event-id") {
        let text = value.to_str().unwrap_or_default();
        text.parse().map_err(|_| ApiError::invalid("Last-Event-ID is a number"))?
    } else {
        let mut tx = resources.db.read().await?;
        tx.last_event(app.id).await?
    };
    let turn = resources.event_streams.take().await?;
    let id = app.id;
    let batches = stream::unfold((resources, after, turn), move |(resources, after, turn)| async move {
        let rows = next(&resources, id, after).await;
        let last = rows.last().map_or(after, |row| row.seq);
        let events: Vec<_> = rows.iter().map(|row| Ok::<_, Infallible>(event(row))).collect();
        Some((stream::iter(events), (resources, last, turn)))
    });
    // The gate ends it when its caller may no longer see the app.
    Ok(Sse::new(batches.flatten()).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response())
}

/// The next events, once there are some.
async fn next(resources: &Resources, app: AppId, after: i64) -> Vec<EventRow> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        match read(resources, app, after).await {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => return rows,
            // The stream waits for the database as everybody does.
            Err(error) => tracing::warn!(%error, cause = error.cause, "events can't be read; trying again"),
        }
    }
}

async fn read(resources: &Resources, app: AppId, after: i64) -> ApiResult<Vec<EventRow>> {
    let mut tx = resources.db.read().await?;
    Ok(tx.events_after(app, after, BATCH).await?)
}

fn event(row: &EventRow) -> Event {
    let data = json!({ "seq": row.seq, "kind": row.kind, "at": row.created_at, "payload": row.payload.0 });
    Event::default().id(row.seq.to_string()).event(&row.kind).data(data.to_string())
}
