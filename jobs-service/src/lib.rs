//! Background work: what has to happen after a commit, whatever becomes of the process that made it.
//!
//! The job table is the truth. A relay sends the ids of due jobs to workers, through apalis in the process or on Redis;
//! a worker claims the job, does it, and writes the outcome only if the claim is still its own.

mod announce;
mod attempt;
mod batch;
mod changes;
mod collect;
mod declare;
mod deliver;
mod group;
mod heartbeat;
mod history;
mod job;
mod kind;
mod marker;
mod measure;
mod over;
mod queue;
mod relay;
mod retain;
mod schedule;
mod schedule_api;
mod sweep;
mod upkeep;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use kkartifact_service::{ApiResult, Resources, Routes, Service, Shutdown};
use kkartifact_store::Database;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::group::Group;
use crate::heartbeat::InHand;
use crate::kind::kinds;
use crate::queue::Sender;
use crate::worker::Hands;

/// How long a process that must stop at once takes to hand back what is in hand.
const HURRY: Duration = Duration::from_secs(5);

/// What has to be done before anybody is served.
pub async fn prepare(resources: &Resources) -> ApiResult<()> {
    schedule::make(resources).await?;
    declare::retention(resources).await?;
    declare::webhooks(resources).await
}

/// Works until it is time to stop, and then until nothing is in hand any more.
pub async fn run(resources: Resources, shutdown: Shutdown) {
    if let Err(error) = Box::pin(work(resources, shutdown.clone())).await {
        tracing::error!(%error, cause = error.cause, "background work can't start; the process stops");
        shutdown.begin();
    }
}

async fn work(resources: Resources, shutdown: Shutdown) -> ApiResult<()> {
    let owner = Uuid::new_v4().to_string();
    let kinds: Arc<[_]> = kinds(&resources.config).into();
    let sender = Sender::open(&resources.config, &kinds)?;
    // Nobody else works on a database of one process: what is said to run was left behind.
    if matches!(resources.db, Database::Sqlite { .. }) {
        heartbeat::take_over_all(&resources).await?;
    }
    let freed = Arc::new(Notify::new());
    let hands = Arc::new(Hands {
        group: Group::start(&resources, &owner),
        resources: resources.clone(),
        shutdown: shutdown.clone(),
        kinds: kinds.clone(),
        in_hand: InHand::default(),
        tasks: TaskTracker::new(),
        freed: freed.clone(),
    });
    let workers =
        kinds.iter().map(|kind| tokio::spawn(sender.clone().work(*kind, hands.clone(), shutdown.clone())));
    let workers: Vec<_> = workers.collect();
    let settled = CancellationToken::new();
    let beating = heartbeat::run(resources.clone(), &owner, &hands.in_hand, settled.clone());
    let relaying = relay::run(resources.clone(), kinds, sender, freed, shutdown.clone());
    let working = async {
        tokio::join!(
            relaying,
            schedule::run(resources.clone(), shutdown.clone()),
            upkeep::run(resources.clone(), shutdown.clone()),
            measure::run(resources.clone(), shutdown.clone()),
        );
        for worker in workers {
            if let Err(error) = worker.await {
                tracing::error!(%error, "a worker broke down");
            }
        }
        // What is in hand gives signs of life until it is done or handed back.
        hands.tasks.close();
        let hurry = async {
            shutdown.at_once().await;
            // Time to write that jobs are handed back.
            tokio::time::sleep(HURRY).await;
        };
        tokio::select! {
            () = hands.tasks.wait() => {}
            () = hurry => tracing::warn!("jobs are left behind; somebody else will take them over"),
        }
        settled.cancel();
    };
    tokio::join!(working, beating);
    Ok(())
}

/// The service's routes.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    Routes::new(Service::Jobs, resources)?
        .on("job.list", job::list)
        .on("job.counts", job::counts)
        .on("job.stream", changes::stream)
        .on("job.get", job::get)
        .on("job.retry", job::retry)
        .on("job.cancel", job::cancel)
        .on("schedule.list", schedule_api::list)
        .on("schedule.get", schedule_api::get)
        .on("schedule.update", schedule_api::update)
        .on("schedule.run", schedule_api::run)
        .on("batch.versions", batch::versions)
        .on("batch.result", batch::result)
        .finish()
}
