//! `POST /upload/{upload}/chunks`: takes chunks in one long stream.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use kkartifact_model::api::upload::ChunksReceived;
use kkartifact_model::wire::{BadStream, Frame};
use kkartifact_service::http::extract::Json;
use kkartifact_service::http::stream::incoming;
use kkartifact_service::routes::Route;
use kkartifact_service::{ApiError, ApiResult, Resources};
use tokio::sync::mpsc;

use super::intake::Intake;
use super::record_stream::Frames;
use super::session::OpenUpload;

pub(crate) async fn post(
    State(resources): State<Resources>,
    Extension(route): Extension<&'static Route>,
    upload: OpenUpload,
    body: Body,
) -> ApiResult<Json<ChunksReceived>> {
    let turn = resources.uploads.take().await?;
    let intake = Intake::new(&resources, upload.app, upload.row.id);
    let pieces = incoming(body, u64::MAX, route.timeout);
    // If the caller goes away, this goes on: what arrived whole is kept.
    let taken = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        take(intake, pieces)
    });
    taken.await.map_err(ApiError::internal)?.map(Json)
}

fn take(mut intake: Intake, pieces: mpsc::Receiver<ApiResult<Bytes>>) -> ApiResult<ChunksReceived> {
    let ended = take_frames(&mut intake, pieces);
    // Also after a cut or a bad chunk: what came before it is good.
    let received = intake.finish()?;
    ended.map(|()| received)
}

fn take_frames(intake: &mut Intake, pieces: mpsc::Receiver<ApiResult<Bytes>>) -> ApiResult<()> {
    let (mut frames, mut count) = (Frames::new(pieces), 0);
    loop {
        match frames.next_frame()? {
            Frame::Chunks(chunks) => {
                count += chunks.len() as u64;
                intake.take(chunks)?;
            }
            Frame::End(sent) if sent == count => return Ok(()),
            Frame::End(_) => return Err(BadStream("the end frame counts other chunks").into()),
            Frame::Records(_) => return Err(BadStream("records among chunks").into()),
            Frame::Error(error) => {
                return Err(ApiError::invalid(format!("the sender gave up: {}", error.error.message)));
            }
        }
    }
}
