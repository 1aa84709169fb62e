//! The next times of schedules where clocks are changed: once a day, also when an hour is there twice or not at all.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use serde_json::{Value, json};

use crate::{get, reschedule, shop, time};

/// Lets time go by until shortly before a moment, and asks when a schedule is due from then on.
async fn next_from(server: &TestServer, moment: &str, cron: &str) -> Vec<DateTime<Utc>> {
    let moment: DateTime<Utc> = moment.parse().unwrap();
    server.clock.advance(moment - server.clock.now());
    let change = json!({ "cron": cron, "time_zone": "Europe/Berlin" });
    let changed = reschedule(server, "retention", change).await.expect(200).json();
    let schedule = get(server, "/schedules/retention").await;
    assert_eq!(schedule["next"], changed["next"]);
    times(&schedule)
}

fn times(schedule: &Value) -> Vec<DateTime<Utc>> {
    schedule["next"].as_array().unwrap().iter().map(time).collect()
}

/// The first of these times, as they are written.
fn first(times: &[DateTime<Utc>], count: usize) -> Vec<String> {
    times.iter().take(count).map(|time| time.format("%m-%d %H:%M").to_string()).collect()
}

/// Asserts that each time is about a day behind the last one.
fn are_daily(times: &[DateTime<Utc>]) {
    assert!(times.len() >= 3, "{times:?}");
    for pair in times.windows(2) {
        let between = pair[1] - pair[0];
        assert!(between >= TimeDelta::hours(22) && between <= TimeDelta::hours(26), "{times:?}");
    }
}

async fn the_time_of_day_is_that_of_the_place(db: TestDatabase) {
    let server = shop(db).await;
    // Clocks go forward in the night to March 29, at 01:00 UTC.
    let spring = next_from(&server, "2026-03-27T12:00:00Z", "30 3 * * *").await;
    assert_eq!(first(&spring, 3), ["03-28 02:30", "03-29 01:30", "03-30 01:30"]);
    // And back in the night to October 25, at 01:00 UTC.
    let autumn = next_from(&server, "2026-10-23T12:00:00Z", "30 3 * * *").await;
    assert_eq!(first(&autumn, 3), ["10-24 01:30", "10-25 02:30", "10-26 02:30"]);
}

async fn an_hour_that_is_not_there_skips_no_night(db: TestDatabase) {
    let server = shop(db).await;
    let spring = next_from(&server, "2026-03-27T12:00:00Z", "30 2 * * *").await;
    are_daily(&spring);
    assert_eq!(first(&spring, 1), ["03-28 01:30"]);
    assert_eq!(spring[2].format("%m-%d %H:%M").to_string(), "03-30 00:30");
}

async fn an_hour_that_is_there_twice_counts_once(db: TestDatabase) {
    let server = shop(db).await;
    let autumn = next_from(&server, "2026-10-23T12:00:00Z", "30 2 * * *").await;
    are_daily(&autumn);
    assert_eq!(first(&autumn, 1), ["10-24 00:30"]);
    assert_eq!(autumn[2].format("%m-%d %H:%M").to_string(), "10-26 01:30");
}

async fn what_is_due_every_hour_is_due_every_hour(db: TestDatabase) {
    let server = shop(db).await;
    for moment in ["2026-03-28T23:10:00Z", "2026-10-24T22:10:00Z"] {
        let next = next_from(&server, moment, "0 * * * *").await;
        for pair in next.windows(2) {
            assert_eq!(pair[1] - pair[0], TimeDelta::hours(1), "{next:?}");
        }
    }
}

async fn leap_days_and_seconds_of_a_cron_count(db: TestDatabase) {
    let server = shop(db).await;
    // Rare, but not never.
    let leap = next_from(&server, "2026-01-02T04:00:00Z", "0 12 29 2 *").await;
    assert_eq!(leap[0], "2028-02-29T11:00:00Z".parse::<DateTime<Utc>>().unwrap());
    let seconds = next_from(&server, "2026-01-02T04:10:00Z", "30 15 5 * * *").await;
    assert_eq!(seconds[0], "2026-01-02T04:15:30Z".parse::<DateTime<Utc>>().unwrap());
}

on_both_databases! {
    the_time_of_day_is_that_of_the_place,
    an_hour_that_is_not_there_skips_no_night,
    an_hour_that_is_there_twice_counts_once,
    what_is_due_every_hour_is_due_every_hour,
    leap_days_and_seconds_of_a_cron_count,
}
