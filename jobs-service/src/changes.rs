//! What happens to jobs, as a stream (server-sent events) that resumes where it was cut.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use kkartifact_model::api::job::JobInfo;
use kkartifact_service::{ApiError, ApiResult, Caller, Resources};
use kkartifact_store::{ChangePlace, JobViewRow};

use crate::job::visible;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a quiet stream says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How many changes are read at once.
const BATCH: u32 = 100;

/// What happens to the jobs that the caller may see from now on; with `Last-Event-ID`, from behind that on. Of
/// several changes of one job that come close together only the last is told.
pub(crate) async fn stream(
    State(resources): State<Resources>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = if let Some(value) = headers.get("last-event-id") {
        let place = value.to_str().ok().and_then(|text| text.parse().ok());
        place.ok_or_else(|| ApiError::invalid("Last-Event-ID is not one that this stream has sent"))?
    } else {
        let mut tx = resources.db.read().await?;
        tx.last_job_change().await?
    };
    let turn = resources.event_streams.take().await?;
    let start = (resources, caller, after, turn);
    let batches = stream::unfold(start, |(resources, caller, mut after, turn)| async move {
        let rows = next(&resources, &caller, &mut after).await?;
        let last = rows.last().map_or(after, JobViewRow::place);
        let events: Vec<_> = rows.into_iter().map(|row| Ok::<_, Infallible>(event(row))).collect();
        Some((stream::iter(events), (resources, caller, last, turn)))
    });
    Ok(Sse::new(batches.flatten()).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response())
}

/// The next changes, once there are some; `None` when the caller's credential has ended. What nobody sees is passed.
async fn next(resources: &Resources, caller: &Caller, after: &mut ChangePlace) -> Option<Vec<JobViewRow>> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        match read(resources, caller, *after).await {
            Ok((rows, end)) if rows.is_empty() => *after = end.max(*after),
            Ok((rows, _)) => return Some(rows),
            Err(error) if error.code == kkartifact_model::Code::Unauthenticated => return None,
            // The stream waits for the database as everybody does.
            Err(error) => tracing::warn!(%error, cause = error.cause, "changes can't be read; trying again"),
        }
    }
}

/// What has changed and may be seen by what the caller may see now.
async fn read(
    resources: &Resources,
    caller: &Caller,
    after: ChangePlace,
) -> ApiResult<(Vec<JobViewRow>, ChangePlace)> {
    let mut tx = resources.db.snapshot().await?;
    let caller = resources.auth.again(&mut tx, caller, resources.clock.now()).await?;
    let end = tx.last_job_change().await?;
    Ok((tx.job_changes(&visible(&caller), after, BATCH).await?, end))
}

fn event(row: JobViewRow) -> Event {
    let id = row.place().to_string();
    let event = Event::default().id(id).event("job");
    // A job is made of texts and numbers: it can always be written.
    event
        .json_data(JobInfo::from(row))
        .unwrap_or_else(|_| Event::default().comment("a job that can't be shown"))
}
