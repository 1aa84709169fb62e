//! Bodies that are too large to hold: in as a channel of pieces, out as a channel of pieces.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kkartifact_model::Code;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{ApiError, ApiResult};

/// How many pieces may wait for a slower side.
const QUEUE: usize = 8;
/// The same for what goes out, where pieces are larger and receivers many.
const QUEUE_OUT: usize = 2;
/// Fewer bytes than this in the time of a silence are silence: else a few slow clients would hold every turn.
const TRICKLE: usize = 4096;

/// The pieces of a body, for a thread that may block. A silent client ends it with an error; a cut connection
/// too, so that an end is always a real one.
pub fn incoming(body: Body, limit: u64, silence: Duration) -> mpsc::Receiver<ApiResult<Bytes>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut pieces = body.into_data_stream();
        let mut total = 0u64;
        // Only waiting for the client counts, not the time that this side takes.
        let (mut waited, mut arrived) = (Duration::ZERO, 0);
        loop {
            let start = Instant::now();
            let piece = match tokio::time::timeout(silence.saturating_sub(waited), pieces.next()).await {
                Ok(None) => return,
                Ok(Some(Ok(piece))) => {
                    waited += start.elapsed();
                    arrived += piece.len();
                    if arrived >= TRICKLE {
                        (waited, arrived) = (Duration::ZERO, 0);
                    }
                    total += piece.len() as u64;
                    if total > limit { Err(too_large(limit)) } else { Ok(piece) }
                }
                Ok(Some(Err(error))) => {
                    Err(ApiError::new(Code::RequestTimeout, format!("the body broke off: {error}")))
                }
                Err(_) => {
                    Err(ApiError::new(Code::RequestTimeout, "nothing, or too little, arrived for too long"))
                }
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

/// The sender's end of a body.
#[derive(Debug)]
pub struct Outgoing {
    pieces: mpsc::Sender<ApiResult<Bytes>>,
    silence: Duration,
}

/// A body of which nothing has been sent.
#[derive(Debug)]
pub struct Unsent(mpsc::Receiver<ApiResult<Bytes>>);

impl Outgoing {
    /// Sends a piece; whether the receiver is still there, and takes what it asked for.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.pieces.send_timeout(Ok(piece), self.silence).await.is_ok()
    }

    /// Ends the body with an error: it is the answer if nothing has been sent yet; else the connection is cut, so that
    /// no reader takes a part for the whole.
    pub async fn fail(&self, error: ApiError) {
        drop(self.pieces.send_timeout(Err(error), self.silence).await);
    }
}

impl Unsent {
    /// The body, as soon as there is something to send.
    ///
    /// # Errors
    ///
    /// What its sender has failed with before that.
    pub async fn begin(mut self) -> ApiResult<Body> {
        let first = self.0.recv().await.transpose()?;
        let mut pieces = self.0;
        let rest = stream::poll_fn(move |context| pieces.poll_recv(context));
        let all = stream::iter(first.map(Ok)).chain(rest);
        Ok(Body::from_stream(all.inspect_err(log_cut)))
    }
}

/// Logs what has ended an answer that had begun. A fault of ours is one that has a cause.
pub fn log_cut(error: &ApiError) {
    if let Some(cause) = &error.cause {
        tracing::error!(%error, cause, "an answer was cut");
    } else {
        tracing::info!(%error, "an answer was cut");
    }
}

/// A body that is fed by whoever holds the sender. A receiver that takes nothing for so long is given up. Only an
/// explicit end is one: what a body must end with is up to its format.
pub fn outgoing(silence: Duration) -> (Outgoing, Unsent) {
    let (pieces, receiver) = mpsc::channel(QUEUE_OUT);
    (Outgoing { pieces, silence }, Unsent(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_and_trickles_end_a_stream_and_slow_ones_go_on() {
        let silence = Duration::from_secs(10);
        let body = |piece: &'static [u8], every: u64| {
            Body::from_stream(stream::unfold(0, move |sent| async move {
                tokio::time::sleep(Duration::from_secs(every)).await;
                (sent < 20).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(piece)), sent + 1))
            }))
        };
        let mut silent = incoming(body(b"x", 11), u64::MAX, silence);
        assert_eq!(silent.recv().await.unwrap().unwrap_err().code, Code::RequestTimeout);
        // A byte now and then holds a turn as well as nothing does.
        let mut trickle = incoming(body(b"x", 3), u64::MAX, silence);
        let mut count = 0;
        while trickle.recv().await.unwrap().is_ok() {
            count += 1;
        }
        assert_eq!(count, 3);
        let mut slow = incoming(body(&[0; 4096], 9), u64::MAX, silence);
        let mut count = 0;
        while let Some(piece) = slow.recv().await {
            piece.unwrap();
            count += 1;
        }
        assert_eq!(count, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_nothing_is_given_up() {
        let (sender, body) = outgoing(Duration::from_secs(10));
        let mut sent = 0;
        while sender.send(Bytes::from_static(b"piece")).await {
            sent += 1;
        }
        assert_eq!(sent, QUEUE_OUT);
        drop(body);
    }

    #[tokio::test]
    async fn what_fails_before_anything_is_sent_is_the_answer() {
        let gone = || ApiError::new(Code::VersionDeleted, "gone");
        let (sender, body) = outgoing(Duration::from_secs(10));
        sender.fail(gone()).await;
        assert_eq!(body.begin().await.unwrap_err().code, Code::VersionDeleted);

        let (sender, body) = outgoing(Duration::from_secs(10));
        assert!(sender.send(Bytes::from_static(b"piece")).await);
        sender.fail(gone()).await;
        let mut pieces = body.begin().await.unwrap().into_data_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap(), "piece");
        assert!(pieces.next().await.unwrap().is_err(), "the connection is cut");

        let (sender, body) = outgoing(Duration::from_secs(10));
        drop(sender);
        let mut pieces = body.begin().await.unwrap().into_data_stream();
        assert!(pieces.next().await.is_none(), "an empty body is one as well");
    }
}
