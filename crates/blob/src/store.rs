//! The content store, whatever it is made of.

use std::path::PathBuf;

use bytes::Bytes;
use uuid::Uuid;

use crate::error::BlobError;
use crate::local::Directory;
use crate::pack::{PackFooter, PackOwner, TRAILER, footer_len};
use crate::writer::PackWriter;

/// Where content is kept on a local file system.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The directory; created if missing.
    pub path: PathBuf,
    /// Free bytes that new content must leave: the database usually shares the disk.
    pub reserve: u64,
}

/// How full storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

/// The content store.
#[derive(Debug, Clone)]
pub struct BlobStore {
    pub(crate) backend: Backend,
}

/// What it is made of.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Local(Directory),
}

impl BlobStore {
    /// Opens a store on a local file system and removes what earlier processes left unfinished.
    pub async fn open_local(config: LocalConfig) -> Result<Self, BlobError> {
        let directory = blocking("opening the store", move || Directory::open(&config)).await?;
        Ok(Self { backend: Backend::Local(directory) })
    }

    /// Begins a pack. Fails with [`BlobError::Full`] where there is no room for one.
    pub async fn create_pack(&self, owner: PackOwner) -> Result<PackWriter, BlobError> {
        match &self.backend {
            Backend::Local(directory) => directory.create_pack(owner).await,
        }
    }

    /// Bytes of a pack. Callers bound `len`.
    pub async fn read(&self, pack: Uuid, offset: u64, len: u64) -> Result<Bytes, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("reading a pack", move || directory.read(pack, offset, len)).await
            }
        }
    }

    /// What a pack says of itself.
    pub async fn read_footer(&self, pack: Uuid) -> Result<(PackFooter, u64), BlobError> {
        let damaged = |why| BlobError::Damaged(format!("pack {pack}"), why);
        let size = self.pack_size(pack).await?;
        let trailer_at = size.checked_sub(TRAILER as u64).ok_or_else(|| damaged("it is too short"))?;
        let trailer = self.read(pack, trailer_at, TRAILER as u64).await?;
        let len = footer_len(&trailer).map_err(damaged)? as u64;
        let footer_at =
            trailer_at.checked_sub(len).ok_or_else(|| damaged("it is shorter than its footer"))?;
        let footer = self.read(pack, footer_at, len).await?;
        Ok((PackFooter::decode(&footer, &trailer).map_err(damaged)?, size))
    }

    /// Whether a pack is there.
    pub async fn has_pack(&self, pack: Uuid) -> Result<bool, BlobError> {
        match self.pack_size(pack).await {
            Ok(_) => Ok(true),
            Err(BlobError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pack_size(&self, pack: Uuid) -> Result<u64, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("looking at a pack", move || directory.pack_size(pack)).await
            }
        }
    }

    /// The packs of one of 256 parts of the store, so that no list grows with the store.
    pub async fn list_packs(&self, part: u8) -> Result<Vec<Uuid>, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("listing packs", move || directory.list_packs(part)).await
            }
        }
    }

    /// Removes a pack; how many bytes that has freed. None if it was gone. What is being read of it can be read to
    /// its end.
    pub async fn remove_pack(&self, pack: Uuid) -> Result<u64, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("removing a pack", move || directory.remove_pack(pack)).await
            }
        }
    }

    /// How full the store is.
    pub async fn capacity(&self) -> Result<Capacity, BlobError> {
        match &self.backend {
            Backend::Local(directory) => {
                let directory = directory.clone();
                blocking("asking for free space", move || directory.capacity()).await
            }
        }
    }
}

/// Runs file system calls where they may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    let join = tokio::task::spawn_blocking(work).await;
    join.map_err(|error| BlobError::Io { doing, error: std::io::Error::other(error) })?
}
