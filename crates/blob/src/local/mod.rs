//! Storage on a local (or shared) file system.
//!
//! ```text
//! packs/ab/<key>.pack                              by the last byte of the key (the first ones are its time)
//! meta/ab/<digest>.yaml                            by the first byte of the digest
//! versions/<project>/<app>/<version>.<revision>    markers
//! audit/head.json                                  the end of the audit log's chain, signed
//! tmp/<process>/                                   what is not finished; its lock tells whether anybody still writes
//! ```

mod pack;
mod publish;
mod temporary;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kkartifact_model::ChunkId;
use kkartifact_model::meta::VersionMarker;
use moka::sync::Cache;
use uuid::Uuid;

use crate::error::BlobError;
use crate::store::{Capacity, LocalConfig};
use publish::{Steps, create_dir, replace_document, sync_dir, write_document};
use temporary::Temporary;

/// How many packs are kept open for reading.
const OPEN_PACKS: u64 = 256;
/// For how long a pack stays open that nobody reads: an open file takes room although another process has removed it.
const OPEN_FOR: Duration = Duration::from_mins(1);
/// How many superseded markers are looked for. There are as many as states of the version that came too fast to be
/// written one by one.
const SUPERSEDED: i64 = 1000;

/// A directory that holds content.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    root: Arc<Path>,
    reserve: u64,
    temporary: Arc<Temporary>,
    open: Cache<Uuid, Arc<fs::File>>,
}

impl Directory {
    pub(crate) fn open(config: &LocalConfig) -> Result<Self, BlobError> {
        let root: Arc<Path> = config.path.clone().into();
        fs::create_dir_all(&root).map_err(BlobError::io("creating the storage directory"))?;
        for part in ["packs", "meta", "versions", "audit", "tmp"] {
            create_dir(&root.join(part))?;
        }
        for kind in ["packs", "meta"] {
            for first in 0..=u8::MAX {
                create_dir(&root.join(kind).join(format!("{first:02x}")))?;
            }
            sync_dir(&root.join(kind))?;
        }
        sync_dir(&root)?;
        let temporary = Arc::new(Temporary::open(&root.join("tmp"))?);
        let open = Cache::builder().max_capacity(OPEN_PACKS).time_to_idle(OPEN_FOR).build();
        Ok(Self { root, reserve: config.reserve, temporary, open })
    }

    pub(crate) fn put_audit_head(&self, text: &[u8]) -> Result<(), BlobError> {
        replace_document(&self.temporary, &self.root.join("audit").join("head.json"), text)
    }

    pub(crate) fn get_audit_head(&self) -> Result<Option<Bytes>, BlobError> {
        match fs::read(self.root.join("audit").join("head.json")) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::io("reading the audit log's head")(error)),
        }
    }

    fn pack_dir(&self, first: u8) -> PathBuf {
        self.root.join("packs").join(format!("{first:02x}"))
    }

    fn pack_path(&self, key: Uuid) -> PathBuf {
        self.pack_dir(key.as_bytes()[15]).join(format!("{key}.pack"))
    }

    pub(crate) fn read(&self, key: Uuid, offset: u64, len: u64) -> Result<Bytes, BlobError> {
        let file = self.file(key)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => BlobError::Damaged(format!("pack {key}"), "it is cut short"),
            _ => BlobError::io("reading a pack")(error),
        })?;
        Ok(bytes.into())
    }

    pub(crate) fn pack_size(&self, key: Uuid) -> Result<u64, BlobError> {
        // By its name: one that is still open may have been removed.
        fs::metadata(self.pack_path(key)).map(|found| found.len()).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BlobError::NotFound(format!("pack {key}")),
            _ => BlobError::io("looking at a pack")(error),
        })
    }

    pub(crate) fn remove_pack(&self, key: Uuid) -> Result<u64, BlobError> {
        let path = self.pack_path(key);
        let size = fs::metadata(&path).map_or(0, |found| found.len());
        let freed = match fs::remove_file(&path) {
            Ok(()) => size,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(BlobError::io("removing a pack")(error)),
        };
        self.open.invalidate(&key);
        // Only now the file is closed, and its room free.
        self.open.run_pending_tasks();
        // Also when it was gone: whoever removed it may have died before this.
        sync_dir(&self.pack_dir(key.as_bytes()[15]))?;
        Ok(freed)
    }

    fn file(&self, key: Uuid) -> Result<Arc<fs::File>, BlobError> {
        if let Some(file) = self.open.get(&key) {
            return Ok(file);
        }
        let file = fs::File::open(self.pack_path(key)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BlobError::NotFound(format!("pack {key}")),
            _ => BlobError::io("opening a pack")(error),
        })?;
        let file = Arc::new(file);
        self.open.insert(key, file.clone());
        Ok(file)
    }

    pub(crate) fn list_packs(&self, part: u8) -> Result<Vec<Uuid>, BlobError> {
        let doing = || BlobError::io("listing packs");
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.pack_dir(part)).map_err(doing())? {
            let name = entry.map_err(doing())?.file_name();
            let key: Option<Uuid> =
                name.to_str().and_then(|name| name.strip_suffix(".pack")).and_then(|key| key.parse().ok());
            keys.extend(key);
        }
        Ok(keys)
    }

    pub(crate) fn capacity(&self) -> Result<Capacity, BlobError> {
        let stat = rustix::fs::statvfs(&*self.root)
            .map_err(|error| BlobError::io("asking for free space")(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Capacity { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }

    /// Refuses early what would fail late, and leaves the database room to breathe.
    fn check_room(&self, wanted: u64) -> Result<(), BlobError> {
        let free = self.capacity()?.free;
        if free < self.reserve.saturating_add(wanted) { Err(BlobError::Full) } else { Ok(()) }
    }

    fn meta_path(&self, digest: &ChunkId) -> PathBuf {
        let name = format!("{digest}.yaml");
        self.root.join("meta").join(&name[..2]).join(name)
    }

    pub(crate) fn put_meta(&self, digest: &ChunkId, text: &[u8]) -> Result<(), BlobError> {
        let steps =
            Steps { written: "meta.written", synced: Some("meta.synced"), renamed: Some("meta.renamed") };
        write_document(&self.temporary, &self.meta_path(digest), text, &steps)
    }

    pub(crate) fn get_meta(&self, digest: &ChunkId) -> Result<Bytes, BlobError> {
        fs::read(self.meta_path(digest)).map(Bytes::from).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BlobError::NotFound(format!("meta.yaml {digest}")),
            _ => BlobError::io("reading meta.yaml")(error),
        })
    }

    pub(crate) fn put_marker(&self, marker: &VersionMarker, text: &[u8]) -> Result<(), BlobError> {
        // Names are types that can't leave a directory.
        let mut dir = self.root.join("versions");
        for name in [marker.project.as_str(), marker.app.as_str()] {
            let parent = dir.clone();
            dir.push(name);
            if create_dir(&dir)? {
                sync_dir(&parent)?;
            }
        }
        let name = format!("{}.{}", marker.version, marker.revision);
        let steps = Steps { written: "marker.written", synced: None, renamed: None };
        write_document(&self.temporary, &dir.join(name), text, &steps)?;
        remove_superseded(&dir, marker);
        Ok(())
    }
}

/// Removes a version's markers of smaller revisions. One that stays does no harm: the largest revision counts.
fn remove_superseded(dir: &Path, marker: &VersionMarker) {
    for revision in marker.revision.saturating_sub(SUPERSEDED).max(1)..marker.revision {
        let removed = fs::remove_file(dir.join(format!("{}.{revision}", marker.version)));
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, version = %marker.version, revision, "could not remove a superseded marker");
        }
    }
}
