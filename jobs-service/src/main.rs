//! The jobs service as a process of its own.

use std::process::ExitCode;

use kkartifact_service::{Resources, Shutdown};

async fn work(resources: Resources, shutdown: Shutdown) {
    match kkartifact_jobs_service::prepare(&resources).await {
        Ok(()) => Box::pin(kkartifact_jobs_service::run(resources, shutdown)).await,
        Err(error) => {
            tracing::error!(%error, cause = error.cause, "the service can't start");
            shutdown.begin();
        }
    }
}

fn main() -> ExitCode {
    let worker = |resources, shutdown| tokio::spawn(Box::pin(work(resources, shutdown)));
    kkartifact_service::process::main(kkartifact_jobs_service::router, Some(worker))
}
