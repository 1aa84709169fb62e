//! Schedules: seen, changed, switched off, done by hand, and caught up after the server was down.

use chrono::TimeDelta;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{call, get, items, job_is, reschedule, run, shop, text, time, until};

/// What is done by a schedule, by its name.
const KINDS: [(&str, &str); 5] = [
    ("retention", "retain"),
    ("garbage", "collect_garbage"),
    ("uploads", "sweep_uploads"),
    ("history", "sweep_history"),
    ("ends", "announce_ends"),
];

/// Jobs of a kind.
async fn jobs(server: &TestServer, kind: &str) -> Vec<Value> {
    items(&get(server, &format!("/jobs?kind={kind}&limit=500")).await).clone()
}

/// Waits until a schedule was due last at a time.
async fn ticked(server: &TestServer, schedule: &str, at: &str) -> Value {
    until(&format!("{schedule} to be due at {at}"), async || {
        let schedule = get(server, &format!("/schedules/{schedule}")).await;
        (schedule["last_tick"] == at).then_some(schedule)
    })
    .await
}

async fn schedules_say_what_they_are_for_and_when(db: TestDatabase) {
    let server = shop(db).await;
    let listed = get(&server, "/schedules").await;
    let mut names: Vec<_> = items(&listed).iter().map(|one| text(&one["name"])).collect();
    names.sort();
    let mut expected = KINDS.map(|(name, _)| name);
    expected.sort_unstable();
    assert_eq!(names, expected);
    for schedule in items(&listed) {
        assert!(!text(&schedule["description"]).is_empty(), "{schedule}");
        assert_eq!(
            (&schedule["enabled"], &schedule["time_zone"]),
            (&json!(true), &json!("UTC")),
            "{schedule}"
        );
        let next: Vec<_> = schedule["next"].as_array().unwrap().iter().map(time).collect();
        assert!(next.len() == 5 && next[0] > server.clock.now(), "{schedule}");
        assert!(next.is_sorted_by(|sooner, later| sooner < later), "{schedule}");
        let one = get(&server, &format!("/schedules/{}", text(&schedule["name"]))).await;
        assert_eq!((&one["name"], &one["cron"]), (&schedule["name"], &schedule["cron"]));
    }
    for unknown in ["nothing", "x%2fy", "%00"] {
        let answer = server.get(&format!("/schedules/{unknown}"), &server.admin).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{unknown}: {}", answer.text());
    }
    call(&server, Method::POST, "/schedules/nothing/run").await.refused(404, "not_found");
    reschedule(&server, "nothing", json!({ "enabled": false })).await.refused(404, "not_found");
}

async fn each_can_be_done_now(db: TestDatabase) {
    let server = shop(db).await;
    for (schedule, kind) in KINDS {
        let job = run(&server, schedule).await;
        assert_eq!(job["kind"], kind, "{job}");
        assert!(job.get("project").is_none(), "{job}");
    }
    let log = get(&server, "/audit?action=schedule.run").await;
    assert_eq!(items(&log).len(), KINDS.len(), "{log}");
}

async fn one_that_is_switched_off_can_be_done_now(db: TestDatabase) {
    let server = shop(db).await;
    reschedule(&server, "retention", json!({ "enabled": false })).await.expect(200);
    assert_eq!(run(&server, "retention").await["kind"], "retain");
    assert_eq!(get(&server, "/schedules/retention").await["enabled"], false);
}

async fn a_change_counts_at_once_and_stays_over_a_restart(db: TestDatabase) {
    let mut server = shop(db).await;
    let before = get(&server, "/schedules/history").await;
    let change = json!({ "cron": "15 4 * * 1", "time_zone": "Europe/Berlin" });
    let changed = reschedule(&server, "retention", change).await.expect(200).json();
    assert_eq!(
        (&changed["cron"], &changed["time_zone"]),
        (&json!("15 4 * * 1"), &json!("Europe/Berlin")),
        "{changed}"
    );
    // The first Monday.
    assert_eq!(changed["next"][0], "2026-01-05T03:15:00Z", "{changed}");
    server.restart_with(|config| config.jobs.time_zone = "Asia/Shanghai".into()).await;
    let after = get(&server, "/schedules/retention").await;
    for name in ["cron", "time_zone", "enabled", "next"] {
        assert_eq!(after[name], changed[name], "{after}");
    }
    // Those that nobody has touched follow the configuration.
    let untouched = get(&server, "/schedules/history").await;
    assert_eq!((&untouched["cron"], &untouched["time_zone"]), (&before["cron"], &json!("Asia/Shanghai")));
    let log = get(&server, "/audit?action=schedule.update&outcome=done").await;
    assert_eq!(items(&log).len(), 1, "{log}");
    let nothing = reschedule(&server, "retention", json!({})).await.expect(200).json();
    assert_eq!(nothing["cron"], "15 4 * * 1");
}

async fn what_is_never_due_or_nonsense_is_refused(db: TestDatabase) {
    let server = shop(db).await;
    let before = get(&server, "/schedules/retention").await;
    for bad in [
        json!({ "cron": "0 0 30 2 *" }),
        json!({ "cron": "0 0 31 4,6,9,11 *" }),
        json!({ "cron": "" }),
        json!({ "cron": "* * * *" }),
        json!({ "cron": "60 * * * *" }),
        json!({ "cron": "0 24 * * *" }),
        json!({ "cron": "0 0 0 1 *" }),
        json!({ "cron": "0 0 * 13 *" }),
        json!({ "cron": "a b c d e" }),
        json!({ "cron": "0 3 * * *; rm" }),
        json!({ "cron": "*/0 * * * *" }),
        json!({ "cron": "5-1 * * * * * * *" }),
        json!({ "cron": "0 3 * * *\u{0}" }),
        json!({ "cron": "0 ".repeat(2000) }),
        json!({ "cron": 5 }),
        json!({ "time_zone": "Europe/Nowhere" }),
        json!({ "time_zone": "" }),
        json!({ "time_zone": "+02:00" }),
        json!({ "time_zone": "../../etc/localtime" }),
        json!({ "cron": "0 5 * * *", "time_zone": "Mars/Olympus" }),
        json!({ "enabled": "no" }),
        json!({ "name": "other" }),
        json!({ "last_tick": null }),
    ] {
        let answer = reschedule(&server, "retention", bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert_eq!(get(&server, "/schedules/retention").await, before);
}

async fn a_schedule_is_due_at_its_time(db: TestDatabase) {
    let server = shop(db).await;
    reschedule(&server, "retention", json!({ "cron": "0 4 * * *" })).await.expect(200);
    let before = jobs(&server, "retain").await.len();
    server.clock.advance(TimeDelta::minutes(55));
    // Not yet: the uploads' is, every five minutes, and is looked at the same way.
    ticked(&server, "uploads", "2026-01-02T03:55:00Z").await;
    assert_eq!(jobs(&server, "retain").await.len(), before);
    server.clock.advance(TimeDelta::minutes(1));
    let schedule = ticked(&server, "retention", "2026-01-02T04:00:00Z").await;
    let made = jobs(&server, "retain").await;
    assert_eq!(made.len(), before + 1, "{made:?}");
    assert_eq!(schedule["last_job_id"], made[0]["id"]);
    assert_eq!(schedule["next"][0], "2026-01-03T04:00:00Z", "{schedule}");
}

async fn one_that_is_switched_off_is_never_due(db: TestDatabase) {
    let server = shop(db).await;
    let off = reschedule(&server, "retention", json!({ "cron": "0 4 * * *", "enabled": false })).await;
    assert_eq!(off.expect(200).json()["next"], json!([]));
    let before = jobs(&server, "retain").await.len();
    server.clock.advance(TimeDelta::days(3));
    ticked(&server, "uploads", "2026-01-05T03:00:00Z").await;
    assert_eq!(jobs(&server, "retain").await.len(), before);
    // What was left out while it was off is not caught up.
    let on = reschedule(&server, "retention", json!({ "enabled": true })).await.expect(200).json();
    assert_eq!(on["next"][0], "2026-01-05T04:00:00Z", "{on}");
    server.clock.advance(TimeDelta::hours(1));
    ticked(&server, "retention", "2026-01-05T04:00:00Z").await;
    assert_eq!(jobs(&server, "retain").await.len(), before + 1);
}

async fn what_was_missed_is_caught_up_once(db: TestDatabase) {
    let mut server = shop(db).await;
    reschedule(&server, "retention", json!({ "cron": "0 4 * * *" })).await.expect(200);
    server.clock.advance(TimeDelta::hours(1));
    ticked(&server, "retention", "2026-01-02T04:00:00Z").await;
    let made = jobs(&server, "retain").await;
    let before = made.len();
    // What is queued still would be enough for the nights to come.
    for job in made {
        job_is(&server, job["id"].as_i64().unwrap(), "succeeded").await;
    }
    // Three nights without a server.
    let clock = server.clock.clone();
    server.restart_with(|_| clock.advance(TimeDelta::days(3))).await;
    ticked(&server, "retention", "2026-01-05T04:00:00Z").await;
    let caught_up = jobs(&server, "retain").await;
    assert_eq!(caught_up.len(), before + 1);
    // While one waits, there is no second one.
    for job in caught_up {
        job_is(&server, job["id"].as_i64().unwrap(), "succeeded").await;
    }
    // Also later none of them comes.
    server.clock.advance(TimeDelta::days(1));
    ticked(&server, "retention", "2026-01-06T04:00:00Z").await;
    assert_eq!(jobs(&server, "retain").await.len(), before + 2);
    for job in jobs(&server, "retain").await {
        job_is(&server, job["id"].as_i64().unwrap(), "succeeded").await;
    }
}

on_both_databases! {
    schedules_say_what_they_are_for_and_when,
    each_can_be_done_now,
    one_that_is_switched_off_can_be_done_now,
    a_change_counts_at_once_and_stays_over_a_restart,
    what_is_never_due_or_nonsense_is_refused,
    a_schedule_is_due_at_its_time,
    one_that_is_switched_off_is_never_due,
    what_was_missed_is_caught_up_once,
}
