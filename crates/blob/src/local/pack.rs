//! Writing packs to files.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use kkartifact_model::failpoint;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Directory;
use super::publish::{rename, sync_dir};
use crate::error::BlobError;
use crate::pack::{MAGIC, PackFooter, PackOwner};
use crate::store::blocking;
use crate::writer::{Order, PackWriter, TARGET_SIZE};

const BUFFER: usize = 1 << 20;

impl Directory {
    pub(crate) async fn create_pack(&self, owner: PackOwner) -> Result<PackWriter, BlobError> {
        let key = Uuid::now_v7();
        let directory = self.clone();
        let file = blocking("creating a pack", move || {
            directory.check_room(TARGET_SIZE)?;
            Unfinished::create(directory.temporary.file())
        })
        .await?;
        let path = self.pack_path(key);
        Ok(PackWriter::start(key, move |orders| {
            tokio::task::spawn_blocking(move || write(file, &path, owner, orders))
        }))
    }
}

/// A temporary file that removes itself unless it gets its name.
struct Unfinished {
    path: PathBuf,
    out: BufWriter<fs::File>,
    named: bool,
}

impl Unfinished {
    fn create(path: PathBuf) -> Result<Self, BlobError> {
        let file = fs::File::create_new(&path).map_err(BlobError::io("creating a pack"))?;
        failpoint::reach("pack.created");
        Ok(Self { path, out: BufWriter::with_capacity(BUFFER, file), named: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.out.write_all(bytes).map_err(BlobError::io("writing a pack"))
    }

    fn finish(mut self, path: &Path) -> Result<(), BlobError> {
        self.out.flush().map_err(BlobError::io("writing a pack"))?;
        failpoint::reach("pack.written");
        self.out.get_ref().sync_data().map_err(BlobError::io("syncing a pack"))?;
        failpoint::reach("pack.synced");
        rename(&self.path, path)?;
        self.named = true;
        failpoint::reach("pack.renamed");
        sync_dir(path.parent().unwrap_or(path))?;
        failpoint::reach("pack.directory-synced");
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.named
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "could not remove an unfinished pack; the next start will");
        }
    }
}

/// The worker: stores what it is handed until it is told to seal. The size of the sealed pack.
fn write(
    mut file: Unfinished,
    path: &Path,
    owner: PackOwner,
    mut orders: mpsc::Receiver<Order>,
) -> Result<u64, BlobError> {
    file.write(MAGIC)?;
    let mut size = MAGIC.len() as u64;
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Append(chunks) => {
                for chunk in chunks {
                    file.write(&chunk.stored)?;
                    size += chunk.stored.len() as u64;
                }
            }
            Order::Seal(entries) => {
                let footer = PackFooter { owner, entries }.encode();
                file.write(&footer)?;
                file.finish(path)?;
                return Ok(size + footer.len() as u64);
            }
        }
    }
    // The writer was dropped: nobody wants the pack.
    Ok(0)
}
