//! What is known of a request before anybody looks at it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use ipnet::IpNet;
use uuid::Uuid;

use super::trace::Trace;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};

/// The header that names a request.
pub const REQUEST_ID: &str = "x-request-id";

/// What is known of a request before anybody looks at it.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Names the request in answers, logs and audit rows.
    pub id: String,
    /// The trace that it belongs to.
    pub trace: Trace,
    client: Option<IpAddr>,
    pub(super) seen: Arc<Seen>,
}

/// What the gate finds out for the log line.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) route: OnceLock<String>,
    pub(super) principal: OnceLock<String>,
}

impl RequestContext {
    /// Takes the request's own id if it is harmless, else makes one. What trusted proxies say of where it came from
    /// is believed.
    pub(super) fn new(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &[IpNet]) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let harmless = given.filter(|id| {
            (8..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let id = harmless.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        let client = peer.map(|peer| client(peer.ip(), headers, trusted));
        Self { id, trace: Trace::of(headers), client, seen: Arc::default() }
    }

    /// The context of work for a caller that goes on after the request was admitted.
    pub(crate) fn of(caller: &Caller) -> Self {
        let (id, trace) = (caller.request_id().to_owned(), caller.trace());
        Self { id, trace, client: None, seen: Arc::default() }
    }

    /// Where the request came from.
    pub fn ip(&self) -> Option<IpAddr> {
        self.client
    }
}

/// Each proxy appends whom it talks to: the last one that is no proxy of ours is the client.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));
    let lines = headers.get_all("x-forwarded-for").into_iter().rev().filter_map(|line| line.to_str().ok());
    let mut hops = lines.flat_map(|line| line.rsplit(',')).map(|hop| hop.trim().parse::<IpAddr>());
    let mut address = peer;
    while is_proxy(&address) {
        match hops.next() {
            Some(Ok(next)) => address = next,
            // Nobody before, or nonsense: what is known so far is all that is sure.
            Some(Err(_)) | None => break,
        }
    }
    address.to_canonical()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_that_are_trusted_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (peer, forwarded, expected) in [
            ("192.0.2.9", vec!["1.2.3.4"], "192.0.2.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
            // What the client itself made up stands further left.
            ("10.0.0.1", vec!["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", vec!["6.6.6.6", "1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", vec!["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("::1", vec!["2001:db8::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", vec!["::ffff:1.2.3.4"], "1.2.3.4"),
        ] {
            let mut headers = HeaderMap::new();
            for line in &forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let context =
                RequestContext::new(&headers, Some((peer.parse::<IpAddr>().unwrap(), 1).into()), &trusted);
            assert_eq!(context.ip(), Some(expected.parse().unwrap()), "{peer} {forwarded:?}");
        }
    }
}
