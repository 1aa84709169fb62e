//! What is known of a request before anybody looks at it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};

/// The header that names a request.
pub const REQUEST_ID: &str = "x-request-id";

/// What is known of a request before anybody looks at it.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Names the request in answers, logs and audit rows.
    pub id: String,
    /// Where it came from.
    pub address: Option<SocketAddr>,
    pub(super) seen: Arc<Seen>,
}

/// What the gate finds out for the log line.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) route: OnceLock<String>,
    pub(super) principal: OnceLock<String>,
}

impl RequestContext {
    /// Takes the request's own id if it is harmless, else makes one.
    pub(super) fn new(headers: &HeaderMap, address: Option<SocketAddr>) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let harmless = given.filter(|id| {
            (8..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let id = harmless.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        Self { id, address, seen: Arc::default() }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("the request has no context"))
    }
}
