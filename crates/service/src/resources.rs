//! What a process holds and its services share.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_blob::{BlobStore, LocalConfig};
use kkartifact_model::Code;
use kkartifact_model::time::Clock;
use kkartifact_store::{Database, ElementId};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::audit::Tally;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::content::Content;
use crate::error::{ApiError, ApiResult};
use crate::oidc::Providers;
use crate::outbound::Outbound;
use crate::vault::Vault;
use crate::{secret, telemetry};

/// What a process holds and its services share. Cheap to clone.
#[derive(Clone)]
pub struct Resources {
    /// The configuration.
    pub config: Arc<Config>,
    /// The metadata.
    pub db: Database,
    /// The content.
    pub blob: BlobStore,
    /// Manifests and chunks of apps, read through caches.
    pub content: Content,
    /// The time.
    pub clock: Clock,
    /// Who callers are.
    pub auth: Arc<Authenticator>,
    /// Encrypts what must be had back in clear.
    pub vault: Vault,
    /// Issuers of other tokens, and what they have said.
    pub providers: Arc<Providers>,
    /// Calls the receivers of webhooks.
    pub webhooks: Outbound,
    /// Refusals and reads that are yet to be written into the audit log.
    pub tally: Arc<Tally>,
    pub(crate) secret_key: Arc<[u8]>,
    /// Where new packs go.
    pub element: ElementId,
    /// Rings when a job was queued, so that nobody has to wait for the next look at the table.
    pub jobs_queued: Arc<Notify>,
    /// Turns for streams of content that come in: bounds what they hold in memory together.
    pub uploads: Turns,
    /// Turns for streams of content that go out.
    pub downloads: Turns,
    /// Turns for streams of events.
    pub event_streams: Turns,
    /// Turns for reading what is to be published.
    pub publishing: Turns,
    /// What `/metrics` prints.
    pub metrics: PrometheusHandle,
}

impl Resources {
    /// Connects to everything, brings the schema up to date and prepares the storage.
    pub async fn open(config: Config, clock: Clock) -> ApiResult<Self> {
        fs::create_dir_all(&config.server.data_dir).map_err(ApiError::internal)?;
        let key = secret_key(&config.secret_key_path())?;
        let db = Database::connect(&config.database()).await?;
        db.migrate().await?;
        let blob = BlobStore::open_local(LocalConfig {
            path: config.storage_path(),
            reserve: config.storage.reserve.0,
        })
        .await?;
        let mut tx = db.begin().await?;
        let element = tx.default_element(clock.now()).await?;
        tx.commit().await?;
        let auth = Authenticator::new(&key, &config);
        let outbound = Outbound::new(&config.outbound.allow).map_err(ApiError::internal)?;
        let patience = Duration::from_secs(config.webhooks.timeout_seconds.into());
        let webhooks = Outbound::for_webhooks(&config.outbound.allow, patience, config.webhooks.per_receiver)
            .map_err(ApiError::internal)?;
        let metrics = telemetry::metrics()?;
        tokio::spawn(telemetry::keep_up(metrics.clone()));
        let content = Content::new(db.clone(), blob.clone(), config.limits.manifest_cache.0);
        Ok(Self {
            jobs_queued: Arc::default(),
            uploads: Turns::new(config.upload.streams),
            downloads: Turns::new(config.limits.downloads),
            event_streams: Turns::new(config.limits.event_streams),
            publishing: Turns::new(config.upload.publishing),
            config: Arc::new(config),
            db,
            blob,
            content,
            clock,
            auth: Arc::new(auth),
            vault: Vault::derive(&key),
            providers: Arc::new(Providers::new(outbound)),
            webhooks,
            tally: Arc::default(),
            secret_key: key.into(),
            element,
            metrics,
        })
    }
}

impl Resources {
    /// When an upload ends that is used now.
    pub fn upload_end(&self) -> DateTime<Utc> {
        self.clock.now() + TimeDelta::seconds(self.config.upload.idle_seconds.into())
    }
}

/// A number of turns for work that holds memory and a thread.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

/// How long work waits for its turn.
const WAIT: Duration = Duration::from_secs(30);

impl Turns {
    fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Waits for a turn, which lasts until what is returned is dropped.
    pub async fn take(&self) -> ApiResult<OwnedSemaphorePermit> {
        match tokio::time::timeout(WAIT, self.0.clone().acquire_owned()).await {
            Ok(turn) => turn.map_err(ApiError::internal),
            Err(_) => Err(ApiError::new(Code::TooManyRequests, "the server is busy with others; try again")),
        }
    }
}

/// Reads the server's secret key, or makes one that only its owner may read.
fn secret_key(path: &Path) -> ApiResult<Vec<u8>> {
    match fs::read(path) {
        Ok(key) if key.len() >= 32 => return Ok(key),
        Ok(_) => return Err(ApiError::internal(format!("{} has fewer than 32 bytes", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ApiError::internal(format!("{}: {error}", path.display()))),
    }
    let key = secret::new_key()?;
    let failed = |error| ApiError::internal(format!("{}: {error}", path.display()));
    // Under its name only when it is whole; whoever else starts at this moment takes the first one's.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = dir.join(format!(".secret-{}.tmp", Uuid::new_v4().simple()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
    let named = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(failed)?;
    match named {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return secret_key(path),
        other => other.map_err(failed)?,
    }
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_who_starts_first_has_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| secret_key(&path).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() >= 32));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        fs::write(&path, "short").unwrap();
        assert!(secret_key(&path).is_err());
    }
}
