//! Two processes' worth of background work on one database, whose clocks are 90 seconds apart: what happens again and
//! again happens once each time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use kkartifact_model::api::job::{JobInfo, JobState};
use kkartifact_model::size::ByteSize;
use kkartifact_model::time::Clock;
use kkartifact_service::{Config, Resources, Shutdown};
use kkartifact_store::{Database, JobFilter, JobReach, Reach, ScheduleRow, Timing};
use kkartifact_testkit::TestDatabase;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const SCHEDULE: &str = "uploads";
const KIND: &str = "sweep_uploads";
const APART: TimeDelta = TimeDelta::seconds(90);
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is waited before looking again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a process has that works on jobs.
struct Worker {
    resources: Resources,
    clock: Clock,
    shutdown: Shutdown,
}

impl Worker {
    async fn open(database: &TestDatabase, dir: &Path, now: DateTime<Utc>) -> Self {
        let mut config = Config::default();
        config.server.data_dir = dir.to_owned();
        config.storage.reserve = ByteSize(0);
        config.auth.bcrypt_cost = 4;
        config.database.url = database.url();
        config.database.max_connections = Some(8);
        let clock = Clock::manual(now);
        let resources = Resources::open(config, clock.clone()).await.unwrap();
        Self { resources, clock, shutdown: Shutdown::default() }
    }

    fn start(&self) -> JoinHandle<()> {
        tokio::spawn(kkartifact_jobs_service::run(self.resources.clone(), self.shutdown.clone()))
    }
}

/// A schedule that is due every minute, from now on.
async fn every_minute(database: &Database, now: DateTime<Utc>) {
    let row = ScheduleRow {
        name: SCHEDULE.to_owned(),
        cron: "* * * * *".to_owned(),
        time_zone: "UTC".to_owned(),
        enabled: true,
        last_tick: None,
        last_job_id: None,
    };
    let mut tx = database.begin().await.unwrap();
    let timing = Timing { cron: &row.cron, time_zone: &row.time_zone, enabled: true };
    tx.put_schedule(&row.name, timing, false, now).await.unwrap();
    tx.change_schedule(&row, now).await.unwrap();
    tx.commit().await.unwrap();
}

/// When the schedule was last due, and its job of that time.
async fn last_tick(database: &Database) -> (DateTime<Utc>, Option<i64>) {
    let mut tx = database.read().await.unwrap();
    let row = tx.find_schedule(SCHEDULE).await.unwrap().unwrap();
    (row.last_tick.unwrap(), row.last_job_id)
}

/// Everything that was done for the schedule.
async fn jobs(database: &Database) -> Vec<JobInfo> {
    let everything = Reach { everything: true, ..Reach::default() };
    let reach = JobReach { admin: everything, ..JobReach::default() };
    let filter = JobFilter { kind: Some(KIND.to_owned()), ..JobFilter::default() };
    let mut tx = database.read().await.unwrap();
    tx.list_jobs(&reach, &filter, 500).await.unwrap().items
}

/// Waits until something is so.
async fn until(what: &str, look: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tick_of_a_schedule_runs_once_though_clocks_differ() {
    let (database, dir) = (TestDatabase::postgres().await, tempfile::tempdir().unwrap());
    let start: DateTime<Utc> = "2026-01-02T03:00:20Z".parse().unwrap();
    let behind = Worker::open(&database, dir.path(), start).await;
    let ahead = Worker::open(&database, dir.path(), start + APART).await;
    let db = &behind.resources.db;
    every_minute(db, ahead.clock.now()).await;
    let working = [behind.start(), ahead.start()];

    // Minute by minute; then who was behind is ahead for some minutes, and then behind again. Who is ahead takes the
    // tick: so each has looked at the schedule since the other one has taken any.
    let (step, leap) = ([MINUTE; 2], APART * 2);
    let steps = [
        [step; 4],
        [[leap, TimeDelta::zero()], step, step, step],
        [[TimeDelta::zero(), leap], step, step, step],
    ];
    let mut ticks = Vec::new();
    for [one, other] in steps.into_iter().flatten() {
        behind.clock.advance(one);
        ahead.clock.advance(other);
        let tick = behind.clock.now().max(ahead.clock.now()).duration_trunc(MINUTE).unwrap();
        until(&format!("the tick at {tick}"), async || last_tick(db).await.0 == tick).await;
        let succeeded = |jobs: &[JobInfo]| jobs.iter().all(|job| job.state == JobState::Succeeded);
        until("its job", async || {
            let jobs = jobs(db).await;
            jobs.len() > ticks.len() && succeeded(&jobs)
        })
        .await;
        ticks.push(last_tick(db).await);
        let jobs = jobs(db).await;
        assert_eq!(jobs.len(), ticks.len(), "{ticks:?}: {jobs:#?}");
    }
    let times: Vec<_> = ticks.iter().map(|(tick, _)| *tick).collect();
    assert!(times.is_sorted_by(|before, after| before < after), "{times:?}");
    let mut of_ticks: Vec<_> = ticks.iter().map(|(_, job)| job.unwrap()).collect();
    of_ticks.sort_unstable();
    let mut ids: Vec<_> = jobs(db).await.iter().map(|job| job.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, of_ticks, "each tick has a job of its own, and there are no others");
    assert!(jobs(db).await.iter().all(|job| job.attempt == 1));

    for worker in [&behind, &ahead] {
        worker.shutdown.begin();
    }
    for work in working {
        work.await.unwrap();
    }
}
