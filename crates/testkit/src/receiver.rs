//! A receiver of webhooks of a test's own: keeps what it gets, and answers as it is told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::serve::ListenerExt as _;
use futures_util::stream;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The most bytes of a request that are kept.
const MOST: usize = 16 << 20;
/// A long answer is sent in pieces of so many of [`LETTER`].
const LETTERS: usize = 16 << 10;
/// What long answers are made of: three bytes each, so that a limit in bytes falls into the middle of one.
const LETTER: &str = "€";

/// A request that came.
#[derive(Clone)]
pub struct Received {
    /// Where to.
    pub path: String,
    /// What stood behind the `?`.
    pub query: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// When.
    pub at: Instant,
}

impl Received {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty if it isn't there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}?{} {}", self.path, self.query, self.text())
    }
}

/// How a path answers.
#[derive(Debug, Clone)]
pub struct Behaviour {
    status: u16,
    delay: Duration,
    hangs: bool,
    headers: Vec<(String, String)>,
    body: Bytes,
    long: usize,
    failures: usize,
    failure: u16,
}

impl Behaviour {
    /// Answers with a status, and with `ok` as the body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            delay: Duration::ZERO,
            hangs: false,
            headers: Vec::new(),
            body: Bytes::from_static(b"ok"),
            long: 0,
            failures: 0,
            failure: 500,
        }
    }

    /// Never answers.
    pub fn hanging() -> Self {
        Self { hangs: true, ..Self::status(200) }
    }

    /// Sends whoever calls elsewhere.
    pub fn redirect(status: u16, target: &str) -> Self {
        Self::status(status).with_header("location", target)
    }

    /// Answers with a body.
    pub fn saying(status: u16, body: &[u8]) -> Self {
        Self { body: Bytes::copy_from_slice(body), ..Self::status(status) }
    }

    /// Answers with so many bytes of text, or a few more.
    pub fn long(status: u16, bytes: usize) -> Self {
        Self { long: bytes, ..Self::status(status) }
    }

    /// Answers the first calls with another status, and the others as they should be.
    pub fn failing_first(count: usize, status: u16) -> Self {
        Self { failures: count, failure: status, ..Self::status(200) }
    }

    /// Answers with one header more.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Answers only after some time.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

struct Shared {
    behaviours: Mutex<BTreeMap<String, Behaviour>>,
    received: watch::Sender<Vec<Received>>,
    connections: AtomicUsize,
    bytes_sent: AtomicUsize,
}

impl Shared {
    /// What comes of the next call of a path: `200` unless it was told otherwise.
    fn next(&self, path: &str) -> Behaviour {
        let mut behaviours = self.behaviours.lock().unwrap();
        match behaviours.get_mut(path) {
            None => Behaviour::status(200),
            Some(behaviour) if behaviour.failures > 0 => {
                behaviour.failures -= 1;
                Behaviour::status(behaviour.failure)
            }
            Some(behaviour) => behaviour.clone(),
        }
    }
}

/// A running receiver on a port of this machine. What it does is set by the test while it runs.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts a receiver that answers everything with `200`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            behaviours: Mutex::default(),
            received: watch::Sender::new(Vec::new()),
            connections: AtomicUsize::new(0),
            bytes_sent: AtomicUsize::new(0),
        });
        let counted = Arc::clone(&shared);
        let listener = listener.tap_io(move |_| {
            counted.connections.fetch_add(1, Ordering::Relaxed);
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, shared, task }
    }

    /// The URL of a path: `http://127.0.0.1:port/…`.
    pub fn url(&self, path: &str) -> String {
        self.url_as("127.0.0.1", path)
    }

    /// The same by another name of this machine.
    pub fn url_as(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on a path answers like this.
    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.shared.behaviours.lock().unwrap().insert(path.to_owned(), behaviour);
    }

    /// What came for a path, oldest first.
    pub fn received(&self, path: &str) -> Vec<Received> {
        self.shared.received.borrow().iter().filter(|one| one.path == path).cloned().collect()
    }

    /// Waits until so many requests have come for a path; all of them. Panics with what came instead.
    pub async fn wait_for(&self, path: &str, count: usize, patience: Duration) -> Vec<Received> {
        let mut all = self.shared.received.subscribe();
        let enough =
            |all: &Vec<Received>| all.iter().filter(|received| received.path == path).count() >= count;
        let came = timeout(patience, all.wait_for(enough)).await.is_ok();
        let everything = self.shared.received.borrow().clone();
        assert!(came, "waited for {count} requests of {path} and got {everything:#?}");
        self.received(path)
    }

    /// How many connections were made, whatever was asked on them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many bytes of long answers were taken, by the other side or by what lies between.
    pub fn bytes_sent(&self) -> usize {
        self.shared.bytes_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MOST).await.unwrap_or_default().to_vec();
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let behaviour = shared.next(&path);
    let received = Received { path, query, headers: head.headers, body, at: Instant::now() };
    shared.received.send_modify(|all| all.push(received));
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    sleep(behaviour.delay).await;
    let body = if behaviour.long > 0 { long(shared, behaviour.long) } else { Body::from(behaviour.body) };
    let mut answer = Response::builder().status(behaviour.status);
    for (name, value) in behaviour.headers {
        answer = answer.header(name, value);
    }
    answer.body(body).unwrap()
}

/// A body that is made while it is sent.
fn long(shared: Arc<Shared>, bytes: usize) -> Body {
    let piece = Bytes::from(LETTER.repeat(LETTERS));
    Body::from_stream(stream::unfold(0, move |sent| {
        let (shared, piece) = (Arc::clone(&shared), piece.clone());
        async move {
            if sent >= bytes {
                return None;
            }
            shared.bytes_sent.fetch_add(piece.len(), Ordering::Relaxed);
            let sent = sent + piece.len();
            Some((Ok::<_, Infallible>(piece), sent))
        }
    }))
}
