//! Streams outlive the check that let them begin: while they flow, their caller is checked again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use kkartifact_model::{AppName, Code, ProjectName};
use tokio::time::{Instant, Sleep};

use crate::auth::{AuthorizedApp, AuthorizedProject, Caller};
use crate::error::{ApiError, ApiResult};
use crate::resources::Resources;
use crate::routes::{Access, Route, Scope};

/// Bodies up to this size are over before anything could be revoked.
const SMALL: u64 = 64 << 10;

/// What a request was admitted for, to be asked again.
pub(super) struct Admission {
    pub(super) resources: Resources,
    pub(super) route: &'static Route,
    pub(super) caller: Caller,
    /// What the path names, where the route's scope is the path.
    pub(super) names: Option<(ProjectName, Option<AppName>)>,
}

impl Admission {
    /// Whether the request would be admitted now. While the database is away nobody knows, and the stream goes on.
    async fn holds(self: Arc<Self>) -> bool {
        let Err(error) = self.ask().await else { return true };
        !matches!(error.code, Code::Unauthenticated | Code::Forbidden | Code::NotFound)
    }

    async fn ask(&self) -> ApiResult<()> {
        let mut tx = self.resources.db.read().await?;
        let now = self.resources.clock.now();
        let caller = self.resources.auth.again(&mut tx, &self.caller, now).await?;
        match (self.route.access, &self.names) {
            (Access::Needs(permission, Scope::Global), _) => caller.require_global(permission)?,
            (Access::Needs(permission, _), Some((project, Some(app)))) => {
                AuthorizedApp::load(&mut tx, &caller, permission, project, app).await?;
            }
            (Access::Needs(permission, _), Some((project, None))) => {
                AuthorizedProject::load(&mut tx, &caller, permission, project).await?;
            }
            _ => {}
        }
        Ok(tx.commit().await?)
    }
}

type Asking = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A body that ends with an error once its caller may no longer have it.
pub(super) struct Watched {
    body: Body,
    admission: Arc<Admission>,
    every: Duration,
    next: Pin<Box<Sleep>>,
    asking: Option<Asking>,
    over: bool,
}

impl Watched {
    /// The same body, watched unless it is small.
    pub(super) fn around(body: Body, admission: &Arc<Admission>) -> Body {
        if body.is_end_stream() || body.size_hint().upper().is_some_and(|size| size <= SMALL) {
            return body;
        }
        let every = Duration::from_secs(admission.resources.config.auth.recheck_seconds.into());
        let next = Box::pin(tokio::time::sleep(every));
        let admission = admission.clone();
        Body::new(Self { body, admission, every, next, asking: None, over: false })
    }

    /// Whether it is time to stop.
    fn poll_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.asking.is_none() && self.next.as_mut().poll(context).is_ready() {
            self.asking = Some(Box::pin(self.admission.clone().holds()));
        }
        if let Some(asking) = &mut self.asking
            && let Poll::Ready(holds) = asking.as_mut().poll(context)
        {
            self.asking = None;
            self.over = !holds;
            self.next.as_mut().reset(Instant::now() + self.every);
            // So that the timer wakes this stream.
            if holds && self.next.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
        }
        self.over
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.poll_over(context) {
            let ended = ApiError::new(Code::Unauthenticated, "the credential was revoked or has ended");
            return Poll::Ready(Some(Err(axum::Error::new(ended))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        !self.over && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
