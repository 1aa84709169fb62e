//! Stopping without cutting anybody off.

use tokio_util::sync::CancellationToken;

/// Tells every part of the process that it is time to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    begun: CancellationToken,
    at_once: CancellationToken,
}

impl Shutdown {
    /// Begins to stop.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Waits until it is time to stop.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until it is time to stop whatever is in progress.
    pub async fn at_once(&self) {
        self.at_once.cancelled().await;
    }

    /// Begins to stop at the first SIGTERM or SIGINT, and stops at once at the second.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for token in [shutdown.begun, shutdown.at_once] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("stopping: what is in progress is finished; another signal cuts it");
                token.cancel();
            }
        });
        Ok(())
    }
}
