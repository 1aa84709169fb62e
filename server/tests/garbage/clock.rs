//! The clock of a host that is wrong. With SQLite there is one host.

use std::path::Path;

use kkartifact_model::api::job::{JobInfo, JobState};
use kkartifact_model::api::retention::{Retention, SETTING};
use kkartifact_model::job::Job;
use kkartifact_model::size::ByteSize;
use kkartifact_model::time::Clock;
use kkartifact_service::{Config, Resources, Shutdown};
use kkartifact_store::{JobFilter, JobReach, NewJob, Reach};
use kkartifact_testkit::TestDatabase;

use crate::until;

/// Lets the database's clock be wrong: for who connects from now on, and for those the next time that they ask.
fn off_by(interval: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
            AS 'SELECT pg_catalog.clock_timestamp() + INTERVAL ''{interval}''';
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
        END $$"
    )
}

async fn open(database: &TestDatabase, dir: &Path) -> Resources {
    let mut config = Config::default();
    config.server.data_dir = dir.to_owned();
    config.storage.reserve = ByteSize(0);
    config.auth.bcrypt_cost = 4;
    config.database.url = database.url();
    config.database.max_connections = Some(8);
    Resources::open(config, Clock::System).await.unwrap()
}

async fn jobs(resources: &Resources) -> Vec<JobInfo> {
    let everything = Reach { everything: true, ..Reach::default() };
    let reach = JobReach { admin: everything, ..JobReach::default() };
    let mut tx = resources.db.read().await.unwrap();
    tx.list_jobs(&reach, &JobFilter::default(), 500).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_while_host_and_database_disagree_about_the_time() {
    let (database, dir) = (TestDatabase::postgres().await, tempfile::tempdir().unwrap());
    database.execute(&off_by("-10 minutes")).await;
    let resources = open(&database, dir.path()).await;
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await.unwrap();
    let rule = Retention { keep: Some(1), ..Retention::default() };
    tx.put_setting(SETTING, &serde_json::to_value(rule).unwrap(), now).await.unwrap();
    for job in [Job::Retain {}, Job::CollectGarbage {}] {
        tx.insert_job(&NewJob::new(&job, now), now).await.unwrap();
    }
    tx.commit().await.unwrap();

    let shutdown = Shutdown::default();
    let working = tokio::spawn(kkartifact_jobs_service::run(resources.clone(), shutdown.clone()));
    let refused = |job: &JobInfo| {
        let error = job.error.as_deref().unwrap_or_default();
        job.failures > 0 && error.contains("by the clock of this host") && error.contains("5 minutes apart")
    };
    until("both to be refused", async || {
        let jobs = jobs(&resources).await;
        assert!(jobs.iter().all(|job| job.state != JobState::Succeeded), "{jobs:#?}");
        (jobs.len() == 2 && jobs.iter().all(refused)).then_some(())
    })
    .await;

    // A little is nothing to stop for.
    database.execute(&off_by("2 minutes")).await;
    until("both to be done", async || {
        jobs(&resources).await.iter().all(|job| job.state == JobState::Succeeded).then_some(())
    })
    .await;
    shutdown.begin();
    working.await.unwrap();
}
