//! Bodies that are too large to hold: in as a channel of pieces, out as a channel of pieces.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use kkartifact_model::Code;
use tokio::sync::mpsc;

use crate::error::{ApiError, ApiResult};

/// How many pieces may wait for a slower side.
const QUEUE: usize = 8;

/// The pieces of a body, for a thread that may block. A silent client ends it with an error; a cut connection
/// too, so that an end is always a real one.
pub fn incoming(body: Body, limit: u64, silence: Duration) -> mpsc::Receiver<ApiResult<Bytes>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut pieces = body.into_data_stream();
        let mut total = 0u64;
        loop {
            let piece = match tokio::time::timeout(silence, pieces.next()).await {
                Ok(None) => return,
                Ok(Some(Ok(piece))) => {
                    total += piece.len() as u64;
                    if total > limit { Err(too_large(limit)) } else { Ok(piece) }
                }
                Ok(Some(Err(error))) => {
                    Err(ApiError::new(Code::RequestTimeout, format!("the body broke off: {error}")))
                }
                Err(_) => Err(ApiError::new(Code::RequestTimeout, "nothing arrived for too long")),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(Code::TooLarge, format!("the body has more than {limit} bytes"))
}

/// A body that is fed by whoever holds the sender. An error, or a sender that is dropped by a panic, cuts the
/// connection, so that no reader takes a part for the whole.
pub fn outgoing() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, Body::from_stream(stream))
}
