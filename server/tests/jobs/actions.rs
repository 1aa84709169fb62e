//! Retrying and cancelling jobs: which, and by whom.

use kkartifact_model::job::Job;
use kkartifact_testkit::{TestDatabase, TestServer, on_both_databases};
use reqwest::Method;
use serde_json::json;

use crate::{call, done, get, job_is, push, queue, queue_for_later, shop, succeeded};

/// Asserts a conflict, and that the job is what it was.
async fn conflicts(server: &TestServer, job: i64, what: &str) {
    let before = get(server, &format!("/jobs/{job}")).await;
    let answer = call(server, Method::POST, &format!("/jobs/{job}/{what}")).await;
    answer.refused(409, "in_use");
    assert_eq!(get(server, &format!("/jobs/{job}")).await, before);
}

async fn a_job_that_waits_can_be_called_off_and_taken_up_again(db: TestDatabase) {
    let server = shop(db).await;
    let job = queue_for_later(&server, Some("shop/web")).await;
    conflicts(&server, job, "retry").await;
    done(call(&server, Method::POST, &format!("/jobs/{job}/cancel")).await);
    let cancelled = job_is(&server, job, "cancelled").await;
    assert!(cancelled["finished_at"].is_string(), "{cancelled}");
    conflicts(&server, job, "cancel").await;

    done(call(&server, Method::POST, &format!("/jobs/{job}/retry")).await);
    let again = job_is(&server, job, "succeeded").await;
    assert_eq!((&again["attempt"], &again["failures"]), (&json!(1), &json!(0)), "{again}");
    conflicts(&server, job, "cancel").await;
}

async fn a_job_that_is_done_is_neither_called_off_nor_done_again(db: TestDatabase) {
    let server = shop(db).await;
    push(&server, "shop/web", "v1").await;
    let job = succeeded(&server, "project=shop", 1).await[0]["id"].as_i64().unwrap();
    for what in ["cancel", "retry"] {
        conflicts(&server, job, what).await;
    }
}

async fn a_cancelled_job_is_not_done(db: TestDatabase) {
    let server = shop(db).await;
    let soon = server.clock.now() + chrono::TimeDelta::minutes(1);
    let job = queue(&server, &Job::SweepUploads {}, Some("shop/web"), None, soon).await;
    done(call(&server, Method::POST, &format!("/jobs/{job}/cancel")).await);
    server.clock.advance(chrono::TimeDelta::hours(1));
    // What was queued after it is done, and it is not.
    let other = queue(&server, &Job::SweepUploads {}, None, None, server.clock.now()).await;
    job_is(&server, other, "succeeded").await;
    assert_eq!(job_is(&server, job, "cancelled").await["attempt"], 0);
}

async fn who_is_not_admin_there_neither_retries_nor_cancels(db: TestDatabase) {
    let server = shop(db).await;
    let (web, none) =
        (queue_for_later(&server, Some("shop/web")).await, queue_for_later(&server, None).await);
    let over = queue_for_later(&server, Some("shop/web")).await;
    done(call(&server, Method::POST, &format!("/jobs/{over}/cancel")).await);
    let pusher = server.token(&["push", "promote", "pull"], "shop").await;
    let of_api = server.token(&["admin"], "shop/api").await;
    let of_web = server.token(&["admin"], "shop/web").await;
    for (job, what) in [(web, "cancel"), (over, "retry")] {
        let path = format!("/jobs/{job}/{what}");
        server.call(Method::POST, &path, &pusher, None).await.refused(403, "forbidden");
        server.call(Method::POST, &path, &of_api, None).await.refused(404, "not_found");
    }
    for what in ["cancel", "retry"] {
        let path = format!("/jobs/{none}/{what}");
        server.call(Method::POST, &path, &of_web, None).await.refused(404, "not_found");
        let unknown = format!("/jobs/999999999/{what}");
        server.call(Method::POST, &unknown, &of_web, None).await.refused(404, "not_found");
    }
    assert_eq!(get(&server, &format!("/jobs/{web}")).await["state"], "queued");
    assert_eq!(get(&server, &format!("/jobs/{over}")).await["state"], "cancelled");
    done(server.call(Method::POST, &format!("/jobs/{web}/cancel"), &of_web, None).await);
    done(server.call(Method::POST, &format!("/jobs/{over}/retry"), &of_web, None).await);
    let log = get(&server, "/audit?action=job.*&outcome=done").await;
    let actions: Vec<_> = log["items"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    assert_eq!(json!(actions), json!(["job.retry", "job.cancel", "job.cancel"]));
}

on_both_databases! {
    a_job_that_waits_can_be_called_off_and_taken_up_again,
    a_job_that_is_done_is_neither_called_off_nor_done_again,
    a_cancelled_job_is_not_done,
    who_is_not_admin_there_neither_retries_nor_cancels,
}
