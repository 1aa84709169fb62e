//! Reading on after a refusal. HTTP/1 clients that are still sending see a reset instead of the answer if the
//! server stops reading at once, so a body that was not read to its end is read and thrown away for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};

/// How long, and how much, is read on.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST: usize = 256 << 20;

/// A body that is read on when it is dropped early.
pub(super) struct Draining {
    body: Option<Body>,
    ended: bool,
}

impl Draining {
    /// The same body, read on when it is dropped early.
    pub(super) fn around(body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Self { body: Some(body), ended: false }) }
    }
}

impl HttpBody for Draining {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !self.ended && !body.is_end_stream()) else { return };
        // Outside of a runtime there is no connection to be polite to.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(PATIENCE, async move {
            let (mut pieces, mut read) = (body.into_data_stream(), 0);
            while let Some(Ok(piece)) = pieces.next().await {
                read += piece.len();
                if read > MOST {
                    return;
                }
            }
        }));
    }
}
