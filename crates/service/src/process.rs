//! A service as a process of its own: configuration, logging, listening, stopping.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::Router;
use clap::Parser;
use kkartifact_model::time::Clock;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::{observed, serve};
use crate::resources::Resources;
use crate::shutdown::Shutdown;
use crate::{health, telemetry};

/// The options of a service.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Configuration file (TOML); `KKARTIFACT_SECTION__KEY` in the environment overrides it
    #[arg(long, env = "KKARTIFACT_CONFIG")]
    config: Option<PathBuf>,
}

/// Runs a service until it is told to stop.
pub fn main(
    router: fn(&Resources) -> ApiResult<Router>,
    background: Option<fn(Resources, Shutdown) -> tokio::task::JoinHandle<()>>,
) -> ExitCode {
    let options = Options::parse();
    match start(&options, router, background) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, cause = error.cause, "the service could not go on");
            ExitCode::FAILURE
        }
    }
}

fn start(
    options: &Options,
    router: fn(&Resources) -> ApiResult<Router>,
    background: Option<fn(Resources, Shutdown) -> tokio::task::JoinHandle<()>>,
) -> ApiResult<()> {
    let config = Config::load(options.config.as_deref()).map_err(ApiError::internal)?;
    telemetry::start_logging(&config.log)?;
    let runtime = tokio::runtime::Runtime::new().map_err(ApiError::internal)?;
    runtime.block_on(async {
        let shutdown = Shutdown::default();
        shutdown.on_signals().map_err(ApiError::internal)?;
        let listen = config.server.listen;
        let resources = Resources::open(config, Clock::System).await?;
        let app = router(&resources)?.merge(health::router(&resources)?);
        let worker = background.map(|background| background(resources.clone(), shutdown.clone()));
        let (listener, address) = bind(listen).await?;
        tracing::info!(%address, "listening");
        serve(listener, observed(app), shutdown).await.map_err(ApiError::internal)?;
        if let Some(worker) = worker {
            worker.await.map_err(ApiError::internal)?;
        }
        resources.db.close().await;
        Ok(())
    })
}

/// Listens on an address; port 0 takes a free one.
pub async fn bind(listen: SocketAddr) -> ApiResult<(TcpListener, SocketAddr)> {
    let failed = |error| ApiError::internal(format!("can't listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
