//! Requests that come without end, and answers that are read slowly.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};

/// Time between two requests: fifty in a second.
const EVERY: Duration = Duration::from_millis(20);
/// A slow reader takes so much…
const PIECE: u64 = 100 << 10;
/// … and then nothing for so long: 2 MiB in a second, of which the server has to keep the stream open.
const PAUSE: Duration = Duration::from_millis(50);
/// How long answers may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A request that is over.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) started: Instant,
    pub(super) finished: Instant,
    /// What was answered, if anything was.
    pub(super) status: Option<u16>,
}

/// Somebody who asks all the time.
pub(super) struct Asking {
    asked: watch::Receiver<Vec<Asked>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Asking {
    /// Begins to ask for one of the URLs after the other, whether or not the one before has been answered.
    pub(super) fn start(http: &Client, urls: Vec<String>, token: &str) -> Self {
        let (note, asked) = watch::channel(Vec::new());
        let (stop, mut stopped) = oneshot::channel();
        let (http, token, note) = (http.clone(), token.to_owned(), Arc::new(note));
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            let mut open = JoinSet::new();
            for url in urls.iter().cycle() {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => break,
                }
                let (request, note) = (http.get(url).bearer_auth(&token), note.clone());
                open.spawn(async move {
                    let started = Instant::now();
                    let status = ask(request).await;
                    let asked = Asked { started, finished: Instant::now(), status };
                    note.send_modify(|all: &mut Vec<Asked>| all.push(asked));
                });
            }
            open.join_all().await;
        });
        Self { asked, stop, task }
    }

    /// Waits until so many requests are over that began after a moment.
    pub(super) async fn answered_since(&mut self, moment: Instant, count: usize) {
        let enough = |all: &Vec<Asked>| all.iter().filter(|asked| asked.started > moment).count() >= count;
        drop(timeout(PATIENCE, self.asked.wait_for(enough)).await.unwrap().unwrap());
    }

    /// Stops asking; everything that was asked.
    pub(super) async fn stop(self) -> Vec<Asked> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        self.asked.borrow().clone()
    }
}

async fn ask(request: RequestBuilder) -> Option<u16> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    // Only what arrives whole has succeeded.
    response.bytes().await.ok()?;
    Some(status)
}

/// Begins to read the large file, and goes on slowly; how many bytes came until the end.
pub(super) async fn open_download(base: &str, token: &str) -> JoinHandle<usize> {
    let address = base.trim_start_matches("http://");
    let socket = TcpSocket::new_v4().unwrap();
    // What lies there arrives even if the server has stopped sending.
    socket.set_recv_buffer_size(256 << 10).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /api/v1/file/shop/web/v1?path=large HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    tokio::spawn(async move {
        let (mut pauses, mut piece, mut total) = (interval(PAUSE), Vec::new(), 0);
        loop {
            pauses.tick().await;
            piece.clear();
            let read = (&mut stream).take(PIECE).read_to_end(&mut piece).await;
            total += piece.len();
            if read.is_err() || (piece.len() as u64) < PIECE {
                return total;
            }
        }
    })
}

/// Begins to listen to events; how many bytes came until the end.
pub(super) async fn open_events(request: RequestBuilder) -> JoinHandle<usize> {
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    tokio::spawn(async move {
        let mut total = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            total += piece.len();
        }
        total
    })
}
