//! Retention and garbage collection, run as an operator would, and waited for.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::Value;

use crate::tally::Counts;
use crate::world::World;

/// How often a job is begun anew that came to nothing because the server was killed.
const TRIES: u32 = 5;

/// Does now what a schedule does at its time; the result of its job.
fn run(world: &World, schedule: &str, part: impl Fn(&Value)) -> Value {
    for _ in 0..TRIES {
        let queued = world.call(&Method::POST, &format!("/schedules/{schedule}/run"), None);
        let id = match queued.status {
            202 => queued.json["job_id"].as_i64().unwrap(),
            // An earlier try has queued it, and its answer got lost.
            409 => world.get(&format!("/schedules/{schedule}"))["last_job_id"].as_i64().unwrap(),
            status => panic!("{schedule}: {status} {}", queued.json),
        };
        let job = world.until(&format!("job {id} of {schedule}"), || {
            let job = world.get(&format!("/jobs/{id}"));
            let state = job["state"].as_str().unwrap();
            (state != "queued" && state != "running").then_some(job)
        });
        if job["state"] == "succeeded" {
            return job["result"].clone();
        }
        // Its worker was killed while another one was queued, or was killed too often.
        let of_a_kill = job["state"] == "cancelled" || job["error"] == "its worker gave no sign of life";
        assert!(of_a_kill, "{schedule}: {job}");
        part(&job["progress"]);
    }
    panic!("{schedule} does not come to an end");
}

/// Collects garbage once; what that has done.
pub(crate) fn collect(world: &World) -> Counts {
    let part = |progress: &Value| world.tally().collected_in_part(Counts::of(progress));
    let result = run(world, "garbage", part);
    let counts = Counts::of(&result);
    world.tally().collected(counts);
    if counts.skipped > 0 {
        eprintln!("skipped: {result}; see the logs of the newest jobs of collect_garbage");
    }
    counts
}

/// Lets retention delete what it does not keep.
pub(crate) fn retain(world: &World) {
    let result = run(world, "retention", |_| ());
    assert_eq!(result["skipped"], 0, "{result}");
    world.tally().retained += result["deleted"].as_u64().unwrap();
}

/// Collects again and again until nobody works any more, and then once more.
pub(crate) fn collect_while(world: &World, busy: &AtomicUsize) {
    loop {
        let last = busy.load(Ordering::SeqCst) == 0;
        {
            let _turn = world.gate.blocking_lock();
            collect(world);
        }
        if last {
            return;
        }
    }
}
