//! The embedded server: three services, one process, SQLite and a local directory unless configured otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use kkartifact_model::time::Clock;
use kkartifact_service::http::{observed, serve};
use kkartifact_service::process::bind;
use kkartifact_service::{
    ApiError, ApiResult, Config, Resources, Shutdown, audit, bootstrap, health, recovery,
};
use tokio::task::JoinHandle;

use crate::data_dir::DataDir;

/// Every service's routes and what is around them.
pub fn router(resources: &Resources) -> ApiResult<Router> {
    let all = kkartifact_api_service::router(resources)?
        .merge(kkartifact_transfer_service::router(resources)?)
        .merge(kkartifact_jobs_service::router(resources)?)
        .merge(health::router(resources)?);
    Ok(observed(all, &resources.config))
}

/// A running server.
pub struct Embedded {
    /// Where it listens.
    pub address: SocketAddr,
    /// The one-time way in, until it has been used.
    pub bootstrap_secret: Option<String>,
    /// What it holds.
    pub resources: Resources,
    shutdown: Shutdown,
    serving: JoinHandle<std::io::Result<()>>,
    working: JoinHandle<()>,
    writing: JoinHandle<()>,
    _data_dir: DataDir,
}

impl Embedded {
    /// Starts a server: takes the data directory, recovers from a crash, then listens.
    pub async fn start(config: Config, clock: Clock, shutdown: Shutdown) -> ApiResult<Self> {
        let data_dir = DataDir::take(&config.server.data_dir)?;
        let (listen, connections) = (config.server.listen, config.limits.connections);
        let resources = Resources::open(config, clock).await?;
        recovery::adopt_packs(&resources, Duration::ZERO).await?;
        let bootstrap_secret = bootstrap::prepare(&resources).await?;
        kkartifact_jobs_service::prepare(&resources).await?;
        let router = router(&resources)?;
        let (listener, address) = bind(listen).await?;
        let working = tokio::spawn(kkartifact_jobs_service::run(resources.clone(), shutdown.clone()));
        let writing = tokio::spawn(audit::keep_writing(resources.clone(), shutdown.clone()));
        let serving = tokio::spawn(serve(listener, router, connections, shutdown.clone()));
        Ok(Self {
            address,
            bootstrap_secret,
            resources,
            shutdown,
            serving,
            working,
            writing,
            _data_dir: data_dir,
        })
    }

    /// Serves until shutdown has begun, then finishes what is in progress.
    pub async fn wait(self) -> ApiResult<()> {
        self.serving.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        self.shutdown.begin();
        self.working.await.map_err(ApiError::internal)?;
        self.writing.await.map_err(ApiError::internal)?;
        // What was refused while requests were finished.
        self.resources.tally.flush(&self.resources).await?;
        self.resources.db.close().await;
        Ok(())
    }

    /// Stops.
    pub async fn stop(self) -> ApiResult<()> {
        self.shutdown.begin();
        self.wait().await
    }
}
