//! The stream of jobs' changes: live, resumed without gap or repetition, and over when its reader may read no more.

use std::collections::BTreeSet;
use std::time::Duration;

use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::time::timeout;

use crate::{PATIENCE, call, done, get, ids, items, make_apps, push, queue_for_later, shop, succeeded};

/// When a stream must have ended whose reader may read no more.
const WITHIN: Duration = Duration::from_secs(10);

/// A change as a reader gets it.
#[derive(Debug, Clone)]
struct Change {
    /// What to resume behind.
    id: String,
    /// The job, as it is then.
    job: Value,
}

impl Change {
    fn job(&self) -> i64 {
        self.job["id"].as_i64().unwrap()
    }

    fn state(&self) -> &str {
        self.job["state"].as_str().unwrap()
    }
}

/// Somebody who reads the stream.
struct Reader {
    response: Response,
    bytes: Vec<u8>,
}

impl Reader {
    /// Begins to read, behind a place if there is one.
    async fn open(server: &TestServer, token: &str, after: Option<&str>) -> Self {
        let request = server.request(Method::GET, "/jobs/changes", token);
        let request = match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, bytes: Vec::new() }
    }

    /// The next change; `None` at the end.
    async fn next(&mut self) -> Option<Change> {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
                if let Some(change) = read(std::str::from_utf8(&block).unwrap()) {
                    return Some(change);
                }
            }
            let piece = timeout(PATIENCE, self.response.chunk()).await.unwrap().ok().flatten()?;
            self.bytes.extend_from_slice(&piece);
        }
    }
}

/// Reads one event; signs of life are none.
fn read(block: &str) -> Option<Change> {
    let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let data = value("data:")?;
    assert_eq!(value("event:"), Some("job"), "{block}");
    Some(Change { id: value("id:").unwrap().to_owned(), job: serde_json::from_str(data).unwrap() })
}

async fn a_stream_resumes_without_gap_or_repetition(db: TestDatabase) {
    let server = shop(db).await;
    let token = server.token(&["view"], "shop").await;
    let mut reader = Reader::open(&server, &token, None).await;
    push(&server, "shop/web", "v1").await;
    let mut last = reader.next().await.unwrap();
    while last.state() != "succeeded" {
        last = reader.next().await.unwrap();
    }
    drop(reader);
    let first = last.job();
    // Nobody reads.
    for version in ["v2", "v3", "v4"] {
        push(&server, "shop/web", version).await;
    }
    push(&server, "other/app", "v1").await;
    succeeded(&server, "project=shop", 4).await;
    push(&server, "shop/api", "v1").await;

    // Two changes at a time, while more come.
    let mut seen = Vec::new();
    let mut over = BTreeSet::new();
    let mut after = last.id.clone();
    let mut pushed = 5;
    while over.len() < 9 {
        let mut reader = Reader::open(&server, &token, Some(&after)).await;
        if pushed < 10 {
            push(&server, "shop/web", &format!("v{pushed}")).await;
            pushed += 1;
        }
        for _ in 0..2 {
            if over.len() == 9 {
                break;
            }
            let change = reader.next().await.unwrap();
            after.clone_from(&change.id);
            if change.state() == "succeeded" {
                over.insert(change.job());
            }
            seen.push(change);
        }
    }
    let ids_seen: BTreeSet<_> = seen.iter().map(|change| change.id.clone()).collect();
    assert_eq!(ids_seen.len(), seen.len(), "an id came twice: {seen:?}");
    let states: BTreeSet<_> = seen.iter().map(|change| (change.job(), change.state().to_owned())).collect();
    assert_eq!(states.len(), seen.len(), "a change came twice: {seen:?}");
    assert!(!over.contains(&first), "it was over before");
    let all = get(&server, "/jobs?project=shop&kind=version_marker&limit=500").await;
    let expected: BTreeSet<_> = ids(items(&all)).into_iter().filter(|id| *id != first).collect();
    assert_eq!(over, expected);
    for change in &seen {
        assert_eq!(change.job["project"], "shop", "{change:?}");
    }
}

/// What is said of a job in the stream is what the API says of it.
async fn a_stream_tells_what_happens_while_one_reads(db: TestDatabase) {
    let server = shop(db).await;
    let mut reader = Reader::open(&server, &server.admin, None).await;
    let job = queue_for_later(&server, Some("shop/web")).await;
    let next_of = async |reader: &mut Reader, job: i64| loop {
        let change = reader.next().await.unwrap();
        if change.job() == job {
            break change;
        }
    };
    let queued = next_of(&mut reader, job).await;
    assert_eq!(queued.job, without_log(get(&server, &format!("/jobs/{job}")).await));
    done(call(&server, Method::POST, &format!("/jobs/{job}/cancel")).await);
    let cancelled = next_of(&mut reader, job).await;
    assert_eq!(cancelled.state(), "cancelled");
    assert_eq!(cancelled.job, without_log(get(&server, &format!("/jobs/{job}")).await));
    done(call(&server, Method::POST, &format!("/jobs/{job}/retry")).await);
    loop {
        let change = next_of(&mut reader, job).await;
        if change.state() == "succeeded" {
            break;
        }
        assert!(matches!(change.state(), "queued" | "running"), "{change:?}");
    }
}

fn without_log(mut job: Value) -> Value {
    job.as_object_mut().unwrap().remove("log");
    job
}

async fn a_stream_shows_what_its_reader_sees(db: TestDatabase) {
    let server = shop(db).await;
    let of_api = server.token(&["view"], "shop/api").await;
    let everything = server.token(&["view"], "").await;
    let mut narrow = Reader::open(&server, &of_api, None).await;
    let mut wide = Reader::open(&server, &everything, None).await;
    let none = queue_for_later(&server, None).await;
    let mut wanted = BTreeSet::new();
    for app in ["shop/web", "other/app", "shop/api"] {
        wanted.insert(queue_for_later(&server, Some(app)).await);
    }
    let last = *wanted.last().unwrap();
    assert_eq!(narrow.next().await.unwrap().job(), last);
    let mut seen = BTreeSet::new();
    while !seen.contains(&last) {
        let change = wide.next().await.unwrap();
        assert_ne!(change.job(), none, "those of no project are for global admins");
        seen.insert(change.job());
    }
    assert_eq!(seen, wanted);
}

async fn a_stream_is_over_when_its_reader_may_read_no_more(db: TestDatabase) {
    let server = TestServer::start_with(db, |config| config.auth.recheck_seconds = 1).await;
    make_apps(&server).await;
    let token = server.token(&["view"], "shop").await;
    let mut reader = Reader::open(&server, &token, None).await;
    let mut other = Reader::open(&server, &server.admin, None).await;
    push(&server, "shop/web", "v1").await;
    reader.next().await.unwrap();
    let id = token.split('_').nth(1).unwrap();
    done(call(&server, Method::DELETE, &format!("/tokens/{id}")).await);
    timeout(WITHIN, async { while reader.next().await.is_some() {} }).await.unwrap();
    // Whoever was not meant goes on.
    let job = queue_for_later(&server, Some("shop/web")).await;
    while other.next().await.unwrap().job() != job {}
    let again = server.request(Method::GET, "/jobs/changes", &token).send().await.unwrap();
    assert_eq!(again.status(), 401);
}

async fn a_place_that_never_was_is_refused(db: TestDatabase) {
    let server = shop(db).await;
    for bad in ["x", "-", "1-x", "99999999999999999999999"] {
        let request = server.request(Method::GET, "/jobs/changes", &server.admin);
        server.send(request.header("last-event-id", bad)).await.refused(400, "invalid_request");
    }
}

on_both_databases! {
    a_stream_resumes_without_gap_or_repetition,
    a_stream_tells_what_happens_while_one_reads,
    a_stream_shows_what_its_reader_sees,
    a_stream_is_over_when_its_reader_may_read_no_more,
    a_place_that_never_was_is_refused,
}
