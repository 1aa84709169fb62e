//! The address guard: requests to addresses that somebody else has chosen go to public ones, or to allowed ones.
//!
//! The address is checked where the connection is made, so a name can't resolve to one thing for the check and to
//! another for the connection. Redirects are not followed, and proxies of the environment are not used.

mod address;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, Url};

pub(crate) use address::Guard;
use address::GuardedResolver;
pub use address::{Allowed, is_public};

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a request was not made, or came to nothing. Says nothing of what is inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The URL or what it resolves to is not allowed.
    #[error("{0} is not an address that this server may call; 'outbound.allow' can allow it")]
    Forbidden(String),
    /// There was no answer, or none that can be used.
    #[error("{0} did not answer as it should: {1}")]
    Failed(String, String),
}

/// Makes guarded requests.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    guard: Arc<Guard>,
}

impl Outbound {
    /// A client that allows these beside public addresses.
    pub fn new(allow: &[String]) -> Result<Self, reqwest::Error> {
        Self::build(allow, PATIENCE, 1)
    }

    /// A client for webhooks: requests may take so long in all, and so many connections to one receiver stay open
    /// between them.
    pub fn for_webhooks(allow: &[String], timeout: Duration, idle: usize) -> Result<Self, reqwest::Error> {
        Self::build(allow, timeout, idle)
    }

    fn build(allow: &[String], timeout: Duration, idle: usize) -> Result<Self, reqwest::Error> {
        let guard = Arc::new(Guard::new(allow));
        let client = reqwest::Client::builder()
            .dns_resolver(GuardedResolver(guard.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .connect_timeout(timeout / 2)
            .pool_max_idle_per_host(idle)
            .user_agent(concat!("kkartifact/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, guard })
    }

    /// A URL, if it may be called as far as can be told before its name is resolved.
    pub fn check(&self, url: &str) -> Result<Url, OutboundError> {
        self.guard.check(url)
    }

    /// A `GET` request, not yet sent.
    pub fn get(&self, url: &str) -> Result<RequestBuilder, OutboundError> {
        Ok(self.client.get(self.check(url)?))
    }

    /// A `POST` request, not yet sent.
    pub fn post(&self, url: &str) -> Result<RequestBuilder, OutboundError> {
        Ok(self.client.post(self.check(url)?))
    }
}

/// Sends a request and reads a successful JSON answer of at most so many bytes.
pub async fn json(request: RequestBuilder, most: usize) -> Result<serde_json::Value, OutboundError> {
    let (place, response) = send(request).await?;
    if !response.status().is_success() {
        return Err(OutboundError::Failed(place, format!("status {}", response.status().as_u16())));
    }
    let bytes = read(response, most).await.map_err(|why| OutboundError::Failed(place.clone(), why))?;
    serde_json::from_slice(&bytes).map_err(|_| OutboundError::Failed(place, "not JSON".into()))
}

/// What somebody answered, good or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The beginning of the body: text without NULs, whatever it was.
    pub excerpt: String,
    /// When to come back, as the answer says it.
    pub retry_after: Option<String>,
}

/// Sends a request and reads at most so many bytes of the answer's body. What is beyond is not waited for: its
/// connection is closed.
pub async fn answer(request: RequestBuilder, most: usize) -> Result<Answer, OutboundError> {
    let (_, response) = send(request).await?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(|text| text.chars().take(64).collect());
    Ok(Answer { status, excerpt: excerpt(response, most).await, retry_after })
}

async fn send(request: RequestBuilder) -> Result<(String, Response), OutboundError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| failed("the request", &error))?;
    let place = request.url().host_str().unwrap_or_default().to_owned();
    match client.execute(request).await {
        Ok(response) => Ok((place, response)),
        Err(error) => Err(failed(&place, &error)),
    }
}

async fn read(response: Response, most: usize) -> Result<Vec<u8>, String> {
    let (mut pieces, mut bytes) = (response.bytes_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| "the answer broke off".to_owned())?;
        if bytes.len() + piece.len() > most {
            return Err(format!("the answer has more than {most} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn excerpt(response: Response, most: usize) -> String {
    let (mut pieces, mut bytes) = (response.bytes_stream(), Vec::new());
    while bytes.len() < most {
        // One that breaks off has said its status all the same.
        let Some(Ok(piece)) = pieces.next().await else { break };
        let room = (most - bytes.len()).min(piece.len());
        bytes.extend_from_slice(&piece[..room]);
    }
    // Databases can't keep a NUL in a text.
    let mut text = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
    let end = text.floor_char_boundary(most);
    text.truncate(end);
    text
}

fn failed(place: &str, error: &reqwest::Error) -> OutboundError {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<OutboundError>() {
            return refusal.clone();
        }
        source = error.source();
    }
    let why = if error.is_timeout() { "it took too long" } else { "there was no connection" };
    OutboundError::Failed(place.to_owned(), why.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn urls_that_must_not_be_called() {
        let outbound = Outbound::new(&[]).unwrap();
        for bad in [
            "",
            "x",
            "https://",
            "file:///etc/passwd",
            "ftp://example.com/",
            "http://example.com/",
            "https://user@example.com/",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1:8443/x",
            "https://0/",
            "https://①②⑦.0.0.1/",
        ] {
            assert!(outbound.check(bad).is_err(), "{bad}");
        }
        assert!(outbound.check("https://example.com/x").is_ok());
        assert!(outbound.check("https://1.1.1.1/").is_ok());
        let allow = ["127.0.0.0/8", "id.internal", "::1"].map(str::to_owned);
        let inside = Outbound::new(&allow).unwrap();
        for good in ["http://127.0.0.1:1/", "https://[::1]/", "http://id.internal/x", "https://127.1/"] {
            assert!(inside.check(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "http://10.0.0.1/",
            "http://other.internal/",
            "https://[::ffff:10.0.0.1]/",
        ] {
            assert!(inside.check(bad).is_err(), "{bad}");
        }
        assert!("Not a host".parse::<Allowed>().is_err());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_not_called() {
        let outbound = Outbound::new(&[]).unwrap();
        let error = json(outbound.get("https://localhost:1/").unwrap(), 100).await.unwrap_err();
        assert_eq!(error, OutboundError::Forbidden("localhost".into()));
    }

    /// Answers one request with these bytes, and goes on as long as somebody reads.
    async fn answering(head: &'static str, endless: bool) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(head.as_bytes()).await);
            while endless && stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        url
    }

    #[tokio::test]
    async fn no_more_of_an_answer_is_read_than_is_kept() {
        let allow = ["127.0.0.0/8".to_owned()];
        let outbound = Outbound::for_webhooks(&allow, Duration::from_secs(20), 4).unwrap();
        let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", true).await;
        let got = answer(outbound.post(&url).unwrap(), 2048).await.unwrap();
        assert_eq!((got.status, got.excerpt.len()), (200, 2048));

        let late = "HTTP/1.1 503 Later\r\nretry-after: 120\r\ncontent-length: 9\r\n\r\nno\0t\u{fc}now";
        let got = answer(outbound.post(&answering(late, false).await).unwrap(), 5).await.unwrap();
        assert_eq!((got.status, got.retry_after.as_deref()), (503, Some("120")));
        assert_eq!(got.excerpt, "no\u{fffd}", "no NUL, and cut between characters");

        let gone = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let got = answer(outbound.post(&answering(gone, false).await).unwrap(), 5).await.unwrap();
        assert_eq!((got.status, got.excerpt.as_str()), (302, ""), "nobody is led elsewhere");
    }
}
