//! Logs and metrics.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::error::{ApiError, ApiResult};

/// Starts logging to standard error.
pub fn start_logging(config: &Log) -> ApiResult<()> {
    let filter = EnvFilter::try_new(&config.level).map_err(ApiError::internal)?;
    let color = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    match config.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(ApiError::internal)
}

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// How often measurements are put together, whether or not anybody reads them.
const KEEP_UP: Duration = Duration::from_secs(5);

/// Puts measurements together, which else would pile up until somebody reads them.
pub async fn keep_up(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(KEEP_UP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// The process's metrics. The first call starts recording.
pub fn metrics() -> ApiResult<PrometheusHandle> {
    static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*recorder {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(ApiError::internal)?;
    metrics::describe_histogram!(
        "kkartifact_request_seconds",
        metrics::Unit::Seconds,
        "Requests by route and status"
    );
    metrics::describe_counter!(
        "kkartifact_received_bytes_total",
        metrics::Unit::Bytes,
        "Content received, before compression"
    );
    metrics::describe_counter!(
        "kkartifact_sent_bytes_total",
        metrics::Unit::Bytes,
        "Content sent, as it was stored"
    );
    metrics::describe_counter!(
        "kkartifact_secret_checks_total",
        "Secrets compared with their bcrypt: first uses, and wrong ones"
    );
    metrics::describe_counter!("kkartifact_versions_published_total", "Versions published");
    *recorder = Some(handle.clone());
    Ok(handle)
}
