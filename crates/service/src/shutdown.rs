//! Stopping without cutting anybody off.

use tokio_util::sync::CancellationToken;

/// Tells every part of the process that it is time to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Begins to stop.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Waits until it is time to stop.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Begins to stop at SIGTERM or SIGINT.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: finishing what is in progress");
            shutdown.begin();
        });
        Ok(())
    }
}
