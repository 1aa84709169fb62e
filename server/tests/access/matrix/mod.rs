//! The access matrix: every route of the table, for every kind of caller, at every target, by real calls.
//!
//! What should come of each call stands in `matrix.txt`, written by hand from `docs/access.md`: neither the route
//! table nor the code under test has a say in it. A new route fails here until somebody has thought about its lines.
//!
//! | mark | answer |
//! |---|---|
//! | `.` | 2xx: it was really done; or 302: led to the provider |
//! | `1` `3` `4` `9` | 401, 403, 404, 409 |
//! | `[…]` | anything else: never expected |
//!
//! `--no-capture` shows the table that was found; `KKARTIFACT_ACCESS_MATRIX=FILE` also writes it to a file.

mod principals;
mod recipes;

use std::collections::{BTreeMap, BTreeSet};

use kkartifact_service::RouteTable;
use kkartifact_service::routes::{Access, Route, Scope};
use kkartifact_testkit::oidc::OidcProvider;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::StatusCode;

use principals::{COLUMNS, Stage};
use recipes::Cell;

/// Where the table that was found is written, if anywhere.
const WRITE_TO: &str = "KKARTIFACT_ACCESS_MATRIX";

/// What these do to their target can't be undone: each call gets projects of its own.
const DESTROYS: [&str; 2] = ["project.delete", "app.delete"];

/// Their answers go on until somebody hangs up.
const ENDLESS: [&str; 2] = ["event.stream", "job.stream"];

/// Marks by route and target.
type Expected = BTreeMap<(String, String), String>;

/// What came of the calls of one column.
struct Outcome {
    mark: String,
    /// The answers' beginnings, for whoever has to find out why.
    answers: String,
}

/// At what a route is called: a line of the matrix each.
///
/// `own`, `sibling` and `other` are the app that callers are bound to, its neighbour in the same project, and one of
/// another project. Where there is no app, `own` is what the caller has or administers.
fn targets(route: &Route) -> &'static [&'static str] {
    match route.name.as_str() {
        // Their bodies may name a whole project, or everything.
        "token.create" | "role_binding.create" | "webhook.create" => {
            &["own", "sibling", "other", "project", "all"]
        }
        // Looking and doing need different permissions.
        "version.prune" => &["own", "sibling", "other", "delete"],
        "token.revoke" | "role_binding.delete" | "session.revoke" | "upload.finish" | "batch.result" => {
            &["own", "other"]
        }
        // Those of no project are `all`.
        "job.get" | "job.retry" | "job.cancel" => &["own", "sibling", "other", "all"],
        _ if route.path.contains("{webhook}") => &["own", "project", "other", "all"],
        _ if matches!(route.access, Access::Needs(_, Scope::Body)) || route.path.contains("{app}") => {
            &["own", "sibling", "other"]
        }
        _ if route.path.contains("{project}") || route.path.contains("{upload}") => &["own", "other"],
        _ => &["-"],
    }
}

/// Reads `matrix.txt`: lines of route, target and one mark a column.
fn read(text: &str) -> Expected {
    let mut expected = Expected::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let [route, target, marks] = <[String; 3]>::try_from(words).unwrap();
        assert_eq!(marks.len(), COLUMNS.len(), "one mark a column: {line}");
        assert!(expected.insert((route, target), marks).is_none(), "there twice: {line}");
    }
    let columns = expected.remove(&("route".to_owned(), "target".to_owned()));
    assert_eq!(columns.as_deref(), Some(COLUMNS), "the first line names the columns");
    expected
}

fn mark(status: StatusCode) -> String {
    match status.as_u16() {
        // Leading somewhere is what the way to the provider does.
        200..=299 | 302 => ".".to_owned(),
        401 => "1".to_owned(),
        403 => "3".to_owned(),
        404 => "4".to_owned(),
        409 => "9".to_owned(),
        other => format!("[{other}]"),
    }
}

/// Makes one call; its mark and the beginning of its answer.
async fn call(cell: &Cell<'_>) -> (String, String) {
    let response = recipes::request(cell).await.send().await.unwrap();
    let status = response.status();
    // A stream of events has no end to wait for.
    let endless = ENDLESS.contains(&cell.route.name.as_str()) && status.is_success();
    let body = if endless { String::new() } else { response.text().await.unwrap_or_default() };
    (mark(status), body.chars().take(300).collect())
}

/// Calls a route at a target as everybody, one after the other.
async fn row(stage: &Stage<'_>, route: &Route, target: &str) -> Vec<Outcome> {
    let mut row = Vec::new();
    for column in COLUMNS.chars() {
        let (mut marks, mut answers) = (BTreeSet::new(), BTreeSet::new());
        for caller in stage.callers(column) {
            let (world, caller) = if DESTROYS.contains(&route.name.as_str()) {
                stage.elsewhere(column, caller).await
            } else {
                (stage.world.clone(), caller.clone())
            };
            let (mark, answer) = call(&Cell { stage, world, route, target, caller }).await;
            marks.insert(mark);
            answers.insert(answer);
        }
        // Callers of one column who are answered differently get a mark that is never expected.
        let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join("|");
        row.push(Outcome { mark: join(marks), answers: join(answers) });
    }
    row
}

/// Says of each column that it is not as expected.
fn compare(what: &str, row: &[Outcome], expected: &str) -> Vec<String> {
    COLUMNS
        .chars()
        .zip(row)
        .zip(expected.chars())
        .filter(|((_, outcome), wanted)| outcome.mark.chars().ne([*wanted]))
        .map(|((column, outcome), wanted)| {
            format!("{what}, {column}: {} instead of {wanted}: {}", outcome.mark, outcome.answers)
        })
        .collect()
}

fn line(route: &str, target: &str, marks: &str) -> String {
    format!("{route:<24}{target:<9}{marks}\n")
}

#[expect(clippy::print_stdout, reason = "the table is for people")]
fn show(table: &str) {
    println!("{table}");
    if let Some(path) = std::env::var_os(WRITE_TO) {
        std::fs::write(path, table).unwrap();
    }
}

async fn every_route_for_every_principal_at_every_target(db: TestDatabase) {
    // The dead guess far more often than an address may.
    let provider = OidcProvider::start().await;
    let server = TestServer::start_with(db, |config| {
        config.rate.guesses_per_minute = 1 << 20;
        config.server.public_url = Some("http://releases.test".into());
        config.outbound.allow = vec!["127.0.0.1".into()];
        config.webhooks.most = 10_000;
        config.oidc.issuer = Some(provider.issuer().to_owned());
        config.oidc.sign_up = true;
    })
    .await;
    provider.follow(server.clock.clone());
    let mut expected = read(include_str!("../matrix.txt"));
    let stage = Stage::set(&server, provider).await;
    let (mut table, mut mistakes) = (line("route", "target", COLUMNS), Vec::new());
    for route in RouteTable::get().unwrap().routes() {
        for target in targets(route) {
            let row = row(&stage, route, target).await;
            let marks: String = row.iter().map(|outcome| outcome.mark.as_str()).collect();
            table.push_str(&line(&route.name, target, &marks));
            let what = format!("{} at {target}", route.name);
            match expected.remove(&(route.name.clone(), (*target).to_owned())) {
                Some(marks) => mistakes.extend(compare(&what, &row, &marks)),
                None => mistakes.push(format!("{what} has no line in matrix.txt")),
            }
        }
    }
    show(&table);
    let gone = expected.keys().map(|(route, target)| format!("{route} at {target} is not called any more"));
    mistakes.extend(gone);
    assert!(mistakes.is_empty(), "{} mistakes:\n{}", mistakes.len(), mistakes.join("\n"));
}

on_both_databases! {
    every_route_for_every_principal_at_every_target,
}
