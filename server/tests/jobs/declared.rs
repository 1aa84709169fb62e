//! Schedules and the rule of retention that stand in the configuration.

use kkartifact_model::api::retention::Retention;
use kkartifact_service::config::DeclaredSchedule;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{done, get, items, reschedule, run};

/// How often something was audited as done by the configuration.
async fn audited(server: &TestServer, action: &str) -> usize {
    server.settle().await;
    let page = get(server, &format!("/audit?action={action}&limit=500")).await;
    items(&page).iter().filter(|row| row["actor"] == "configuration").count()
}

async fn set_retention(server: &TestServer, rule: Value) -> kkartifact_testkit::Answer {
    server.call(Method::PUT, "/retention", &server.admin, Some(rule)).await
}

/// Cron, time zone, whether it is on, and whether it stands in the configuration.
async fn shown(server: &TestServer, schedule: &str) -> Value {
    let shown = get(server, &format!("/schedules/{schedule}")).await;
    json!([shown["cron"], shown["time_zone"], shown["enabled"], shown["declared"]])
}

async fn a_declared_schedule_is_as_the_file_says_and_changed_there_only(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    done(reschedule(&server, "garbage", json!({ "cron": "1 1 * * *", "enabled": false })).await);
    done(reschedule(&server, "history", json!({ "cron": "2 2 * * *" })).await);
    server
        .restart_with(|config| {
            let night = DeclaredSchedule {
                cron: Some("30 1 * * 6".into()),
                time_zone: Some("Europe/Berlin".into()),
                enabled: true,
            };
            let off = DeclaredSchedule { cron: None, time_zone: None, enabled: false };
            config.jobs.schedules = [("garbage".to_owned(), night), ("uploads".to_owned(), off)].into();
        })
        .await;
    for _ in 0..2 {
        assert_eq!(shown(&server, "garbage").await, json!(["30 1 * * 6", "Europe/Berlin", true, true]));
        assert_eq!(shown(&server, "uploads").await, json!(["*/5 * * * *", "UTC", false, true]));
        assert_eq!(shown(&server, "history").await, json!(["2 2 * * *", "UTC", true, false]));
        assert_eq!(audited(&server, "schedule.update").await, 2, "once each, however often it starts");
        reschedule(&server, "garbage", json!({ "enabled": false })).await.refused(409, "in_use");
        server.restart_with(|_| {}).await;
    }
    run(&server, "uploads").await;
    // What no longer stands there is as it is without a file, and can be changed by hand.
    server.restart_with(|config| config.jobs.schedules.clear()).await;
    assert_eq!(shown(&server, "garbage").await, json!(["0 4 * * *", "UTC", true, false]));
    assert_eq!(shown(&server, "uploads").await, json!(["*/5 * * * *", "UTC", true, false]));
    assert_eq!(shown(&server, "history").await, json!(["2 2 * * *", "UTC", true, false]));
    done(reschedule(&server, "garbage", json!({ "enabled": false })).await);
}

async fn a_declared_rule_of_retention_is_changed_in_the_file_only(db: TestDatabase) {
    let mut server = TestServer::start(db).await;
    done(set_retention(&server, json!({ "keep": 3 })).await);
    let rule = Retention { keep: Some(20), keep_days: 90, ..Retention::default() };
    server.restart_with(|config| config.retention = Some(rule)).await;
    for _ in 0..2 {
        let set = get(&server, "/retention").await;
        assert_eq!((&set["keep"], &set["keep_days"]), (&json!(20), &json!(90)));
        assert_eq!(audited(&server, "retention.set").await, 1);
        set_retention(&server, json!({ "keep": 3 })).await.refused(409, "in_use");
        server.restart_with(|_| {}).await;
    }
    server.restart_with(|config| config.retention = None).await;
    assert_eq!(get(&server, "/retention").await["keep"], 20, "it stays until somebody changes it");
    done(set_retention(&server, json!({ "keep": 3 })).await);
}

on_both_databases! {
    a_declared_schedule_is_as_the_file_says_and_changed_there_only,
    a_declared_rule_of_retention_is_changed_in_the_file_only,
}
