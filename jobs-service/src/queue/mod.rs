//! The queue between the relay and the workers: apalis, in this process or on Redis.
//!
//! It carries ids and nothing else. What it forgets is sent again; what it brings twice is claimed once.

mod memory;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use kkartifact_service::{ApiError, ApiResult, Config, Shutdown};
use kkartifact_store::JobId;

use crate::kind::Kind;
use crate::worker::Hands;

/// How long a worker that has ended by itself rests before it is started again.
const REST: Duration = Duration::from_secs(1);

/// Sends ids to the workers.
#[derive(Clone)]
pub(crate) enum Sender {
    Memory(memory::Sender),
    Redis(Box<redis::Sender>),
}

impl Sender {
    /// The queue that the configuration wants.
    pub(crate) fn open(config: &Config, kinds: &[Kind]) -> ApiResult<Self> {
        Ok(match &config.redis.url {
            None => Self::Memory(memory::Sender::new(kinds)),
            Some(url) => Self::Redis(Box::new(redis::Sender::open(url, kinds).map_err(ApiError::internal)?)),
        })
    }

    /// Whether this process is the one that relays now. More than one for a moment does no harm.
    pub(crate) async fn leads(&mut self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(sender) => sender.leads().await,
        }
    }

    /// Sends ids of jobs of a kind.
    pub(crate) async fn send(&mut self, kind: &'static str, ids: &[JobId]) -> Result<(), String> {
        if ids.is_empty() {
            return Ok(());
        }
        match self {
            Self::Memory(sender) => sender.send(kind, ids),
            Self::Redis(sender) => sender.send(kind, ids).await,
        }
    }

    /// Runs a kind's worker until it is time to stop, and starts it again whenever it ends before.
    pub(crate) async fn work(self, kind: Kind, hands: Arc<Hands>, shutdown: Shutdown) {
        while !shutdown.is_begun() {
            let ended = tokio::select! {
                ended = self.work_once(kind, hands.clone()) => ended,
                () = shutdown.begun() => return,
            };
            metrics::counter!("kkartifact_job_worker_restarts_total", "kind" => kind.name).increment(1);
            tracing::warn!(kind = kind.name, ?ended, "the queue's worker ended; starting it again");
            tokio::time::sleep(REST).await;
        }
    }

    async fn work_once(&self, kind: Kind, hands: Arc<Hands>) -> Result<(), String> {
        match self {
            Self::Memory(sender) => sender.work(kind, hands).await,
            Self::Redis(sender) => sender.work(kind, hands).await,
        }
    }
}
