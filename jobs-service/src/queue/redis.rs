//! The queue on Redis, between processes.

use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::{BackendExt as _, TaskSink as _, WorkerBuilder, WorkerBuilderExt as _};
use apalis_redis::{Config, RedisStorage};
use kkartifact_store::JobId;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use uuid::Uuid;

use crate::kind::Kind;
use crate::worker::{Hands, handle};

/// How long Redis may take to answer. The default of half a second would end workers on any stall.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a worker looks for work: one that delivers, and the others.
const LOOK: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// For how long a process relays without saying so again, in milliseconds.
const TERM: u64 = 10_000;
/// Who relays.
const LEADER: &str = "kkartifact:relay";
/// How many finished ids are forgotten at a time.
const FORGET: usize = 1000;

/// Sends ids by Redis.
#[derive(Clone)]
pub(crate) struct Sender {
    client: redis::Client,
    name: String,
    connection: Option<ConnectionManager>,
    /// When the queues were tidied last.
    tidied: Option<tokio::time::Instant>,
    kinds: Vec<&'static str>,
}

impl Sender {
    pub(super) fn open(url: &str, kinds: &[Kind]) -> Result<Self, redis::RedisError> {
        let name = Uuid::new_v4().simple().to_string();
        let kinds = kinds.iter().map(|kind| kind.name).collect();
        Ok(Self { client: redis::Client::open(url)?, name, connection: None, tidied: None, kinds })
    }

    async fn connect(&self) -> Result<ConnectionManager, redis::RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE))
            .set_max_delay(Duration::from_secs(2));
        ConnectionManager::new_with_config(self.client.clone(), config).await
    }

    async fn connection(&mut self) -> Result<ConnectionManager, redis::RedisError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let connection = self.connect().await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Whether this process relays: it does, or nobody does. Without Redis nobody needs to.
    pub(super) async fn leads(&mut self) -> bool {
        match self.lead().await {
            Ok(leads) => leads,
            Err(error) => {
                tracing::warn!(%error, "Redis is out of reach; jobs wait");
                tokio::time::sleep(Duration::from_millis(500)).await;
                false
            }
        }
    }

    async fn lead(&mut self) -> Result<bool, redis::RedisError> {
        let mut connection = self.connection().await?;
        let script = redis::Script::new(
            "local leader = redis.call('GET', KEYS[1])
             if leader and leader ~= ARGV[1] then return 0 end
             redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
             return 1",
        );
        let leads: bool = script.key(LEADER).arg(&self.name).arg(TERM).invoke_async(&mut connection).await?;
        if leads && self.tidied.is_none_or(|at| at.elapsed() > PATIENCE) {
            self.tidied = Some(tokio::time::Instant::now());
            for kind in self.kinds.clone() {
                tidy(&mut connection, kind).await?;
            }
        }
        Ok(leads)
    }

    pub(super) async fn send(&mut self, kind: &'static str, ids: &[JobId]) -> Result<(), String> {
        let connection = self.connection().await.map_err(|error| error.to_string())?;
        let mut storage = RedisStorage::<i64>::new(connection).with_config(config(kind));
        storage.push_bulk(ids.iter().map(|id| id.0).collect()).await.map_err(|error| error.to_string())
    }

    pub(super) async fn work(&self, kind: Kind, hands: Arc<Hands>) -> Result<(), String> {
        let connection = self.connect().await.map_err(|error| error.to_string())?;
        let look = if kind.workers > 16 { LOOK[0] } else { LOOK[1] };
        let storage =
            RedisStorage::<i64>::new(connection).with_config(config(kind.name)).poll_with_interval(look);
        // A name that was used before would be taken for the same worker.
        let worker = WorkerBuilder::new(format!("{}-{}", kind.name, Uuid::new_v4().simple()).as_str())
            .backend(storage)
            .data(hands)
            .concurrency(kind.workers)
            .build(handle);
        worker.run().await.map_err(|error| error.to_string())
    }
}

fn config(kind: &str) -> Config {
    Config::default()
        .queue(format!("kkartifact:{kind}"))
        // More would run long jobs twice.
        .batch_size(1)
        .heartbeat_interval(Duration::from_secs(10))
        .lock_tasks(false)
        .emit_events(false)
}

/// Forgets what is done: apalis keeps it for ever, and nobody reads it.
async fn tidy(connection: &mut ConnectionManager, kind: &str) -> Result<(), redis::RedisError> {
    let config = config(kind);
    let script = redis::Script::new(
        "local count = 0
         for _, set in ipairs({KEYS[1], KEYS[2]}) do
             for _, id in ipairs(redis.call('SPOP', set, ARGV[1])) do
                 redis.call('HDEL', KEYS[3], id)
                 redis.call('DEL', KEYS[4] .. ':' .. id)
                 count = count + 1
             end
         end
         return count",
    );
    loop {
        let count: usize = script
            .key(config.done_jobs_set())
            .key(config.dead_jobs_set())
            .key(config.job_data_hash())
            .key(config.job_meta_hash())
            .arg(FORGET)
            .invoke_async(connection)
            .await?;
        if count < FORGET {
            return Ok(());
        }
    }
}
