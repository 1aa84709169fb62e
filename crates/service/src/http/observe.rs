//! Around every request: its id, its log line, its metrics, and an answer in our form whatever happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, Method, header};
use ipnet::IpNet;
use kkartifact_model::Code;
use kkartifact_model::api::error::ErrorBody;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tracing::Instrument as _;

use super::context::{REQUEST_ID, RequestContext};
use crate::auth::sessions::CSRF_HEADER;
use crate::config::Config;
use crate::error::ApiError;

/// The router with everything that is around every request.
pub fn observed(router: Router, config: &Config) -> Router {
    let trusted: Arc<[IpNet]> = config.server.trusted_proxies.as_slice().into();
    // Other origins are told nothing unless they are named: browsers then keep their pages from reading answers.
    let origins = config.server.cors_origins.iter().filter_map(|origin| origin.parse().ok());
    let cors = CorsLayer::new()
        .allow_origin(origins.collect::<Vec<HeaderValue>>())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static(CSRF_HEADER)])
        .allow_credentials(true);
    let router = router
        .fallback(|| async { ApiError::new(Code::NotFound, "there is no such path; see the API reference") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(Code::MethodNotAllowed, "this path does not take that method")
        });
    // Around the fallbacks, which answer preflights else.
    let router = if config.server.cors_origins.is_empty() { router } else { router.layer(cors) };
    router
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            ApiError::internal(format!("a handler panicked: {}", text.unwrap_or_default())).into_response()
        }))
        .layer(from_fn(move |request: Request, next: Next| observe(trusted.clone(), request, next)))
}

async fn observe(trusted: Arc<[IpNet]>, mut request: Request, next: Next) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let context = RequestContext::new(request.headers(), address, &trusted);
    request.extensions_mut().insert(context.clone());
    let span = tracing::info_span!("request", id = %context.id, trace = context.trace.id());
    let (method, started) = (request.method().clone(), Instant::now());
    let response = next.run(request).instrument(span.clone()).await;
    let response = finish(response, &context).await;

    let _entered = span.enter();
    let (elapsed, status) = (started.elapsed(), response.status().as_u16());
    let route = context.seen.route.get().map_or("none", String::as_str);
    let principal = context.seen.principal.get().map_or("-", String::as_str);
    let code = response.extensions().get::<Code>().map_or("", |code| code.as_str());
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    if route.starts_with("health") || route == "metrics" {
        tracing::debug!(%method, route, status, milliseconds, "answered");
    } else {
        tracing::info!(%method, route, status, code, milliseconds, principal, "answered");
    }
    let labels = [("route", route.to_owned()), ("status", status.to_string())];
    metrics::histogram!("kkartifact_request_seconds", &labels).record(elapsed.as_secs_f64());
    response
}

/// Adds the request id to the answer, and to the body of an error.
async fn finish(response: Response, context: &RequestContext) -> Response {
    let mut response = with_request_id(response, &context.id).await;
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn with_request_id(response: Response, id: &str) -> Response {
    let Some(code) = response.extensions().get::<Code>().copied() else { return response };
    let (parts, body) = response.into_parts();
    // An error body is small: we made it a moment ago.
    let size = body.size_hint().upper().unwrap_or(0).min(64 << 10);
    let bytes = axum::body::to_bytes(body, usize::try_from(size).unwrap_or(0)).await.unwrap_or_default();
    let mut body = serde_json::from_slice(&bytes).unwrap_or_else(|_| ErrorBody::new(code, code.meaning()));
    body.request_id = Some(id.to_owned());
    let mut answer = Json(body).into_response();
    *answer.status_mut() = parts.status;
    for (name, value) in &parts.headers {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer.extensions_mut().insert(code);
    if parts.status == http::StatusCode::NOT_MODIFIED {
        *answer.body_mut() = Body::empty();
    }
    answer
}
