//! A service as a process of its own: configuration, logging, listening, stopping.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use clap::Parser;
use kkartifact_model::time::Clock;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::{observed, serve};
use crate::resources::Resources;
use crate::shutdown::Shutdown;
use crate::{audit, health, telemetry};

/// The most threads for work that blocks. They start when they are needed.
const THREADS: usize = 4096;

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
            // Not through the log, which may not have started.
            drop(writeln!(std::io::stderr(), "{}", error.cause.unwrap_or(error.message)));
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
    run(async {
        let shutdown = Shutdown::default();
        shutdown.on_signals().map_err(ApiError::internal)?;
        let (listen, connections) = (config.server.listen, config.limits.connections);
        let resources = Resources::open(config, Clock::System).await?;
        let app = router(&resources)?.merge(health::router(&resources)?);
        let writing = tokio::spawn(audit::keep_writing(resources.clone(), shutdown.clone()));
        let worker = background.map(|background| background(resources.clone(), shutdown.clone()));
        let (listener, address) = bind(listen).await?;
        tracing::info!(%address, "listening");
        let app = observed(app, &resources.config);
        serve(listener, app, connections, shutdown).await.map_err(ApiError::internal)?;
        if let Some(worker) = worker {
            worker.await.map_err(ApiError::internal)?;
        }
        writing.await.map_err(ApiError::internal)?;
        // What was refused while requests were finished.
        resources.tally.flush(&resources).await?;
        resources.db.close().await;
        Ok(())
    })
}

/// Runs a program's work to its end. Threads that then still wait for somebody are left behind.
pub fn run<T>(work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
    // Streams hold a thread each and need others for their reads: their number is bounded by turns, far below this.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().max_blocking_threads(THREADS).build().map_err(ApiError::internal)?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

/// Listens on an address; port 0 takes a free one.
pub async fn bind(listen: SocketAddr) -> ApiResult<(TcpListener, SocketAddr)> {
    let failed = |error| ApiError::internal(format!("can't listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
