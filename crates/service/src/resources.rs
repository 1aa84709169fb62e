//! What a process holds and its services share.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use kkartifact_blob::{BlobStore, LocalConfig};
use kkartifact_model::time::Clock;
use kkartifact_model::token::CheckKey;
use kkartifact_store::{Database, ElementId};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, Semaphore};

use crate::auth::Authenticator;
use crate::config::Config;
use crate::content::Content;
use crate::error::{ApiError, ApiResult};
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
    /// Where new packs go.
    pub element: ElementId,
    /// Rings when a job was queued, so that nobody has to wait for the next look at the table.
    pub jobs_queued: Arc<Notify>,
    /// Turns for streams of content: bounds what they hold in memory together.
    pub streams: Arc<Semaphore>,
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
        let auth = Authenticator::new(CheckKey::derive(&key), &config.auth);
        let content = Content::new(db.clone(), blob.clone(), config.limits.manifest_cache.0);
        Ok(Self {
            jobs_queued: Arc::default(),
            streams: Arc::new(Semaphore::new(config.upload.streams)),
            config: Arc::new(config),
            db,
            blob,
            content,
            clock,
            auth: Arc::new(auth),
            element,
            metrics: telemetry::metrics()?,
        })
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
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(|e| ApiError::internal(format!("{}: {e}", path.display())))?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(ApiError::internal)?;
    Ok(key.to_vec())
}
