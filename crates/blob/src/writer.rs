//! Writing a pack: the caller hands over chunks, a worker stores them, sealing makes them durable.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::error::BlobError;
use crate::pack::{MAGIC, PackChunk, PackEntry, SealedPack};

/// A pack is sealed once it has this many bytes.
pub const TARGET_SIZE: u64 = 64 << 20;
/// A pack is sealed once it has this many chunks: bounds the footer, and the rows of one transaction.
pub const MAX_CHUNKS: usize = 32_768;
/// How many batches may wait for the worker.
const QUEUE: usize = 2;

/// What the worker is told. The channel closing without [`Order::Seal`] means: forget it.
pub(crate) enum Order {
    /// Store these.
    Append(Vec<PackChunk>),
    /// Finish with these entries and make the pack durable.
    Seal(Vec<PackEntry>),
}

/// A pack that is being written. Dropped without [`PackWriter::seal`], it leaves nothing behind.
#[derive(Debug)]
pub struct PackWriter {
    key: Uuid,
    size: u64,
    entries: Vec<PackEntry>,
    orders: mpsc::Sender<Order>,
    worker: JoinHandle<Result<u64, BlobError>>,
}

impl PackWriter {
    /// Starts a worker. It returns the size of the object it made durable.
    pub(crate) fn start(
        key: Uuid,
        worker: impl FnOnce(mpsc::Receiver<Order>) -> JoinHandle<Result<u64, BlobError>>,
    ) -> Self {
        let (orders, receiver) = mpsc::channel(QUEUE);
        Self { key, size: MAGIC.len() as u64, entries: Vec::new(), orders, worker: worker(receiver) }
    }

    /// Bytes handed over so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is time to seal the pack and begin another.
    pub fn is_full(&self) -> bool {
        self.size >= TARGET_SIZE || self.entries.len() >= MAX_CHUNKS
    }

    /// Hands over chunks. Waits while the worker is behind.
    pub async fn append(&mut self, chunks: Vec<PackChunk>) -> Result<(), BlobError> {
        for chunk in &chunks {
            let stored_len = u32::try_from(chunk.stored.len()).unwrap_or(u32::MAX);
            let (id, len, sha256) = (chunk.id, chunk.len, chunk.sha256);
            self.entries.push(PackEntry { id, offset: self.size, stored_len, len, sha256 });
            self.size += u64::from(stored_len);
        }
        self.order(Order::Append(chunks)).await
    }

    /// Makes the pack durable. Only then may rows point to it.
    pub async fn seal(mut self) -> Result<SealedPack, BlobError> {
        self.order(Order::Seal(self.entries.clone())).await?;
        let size = outcome(&mut self.worker).await?;
        Ok(SealedPack { key: self.key, size, entries: std::mem::take(&mut self.entries) })
    }

    async fn order(&mut self, order: Order) -> Result<(), BlobError> {
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        // The worker has stopped, so it has an error to tell.
        outcome(&mut self.worker).await?;
        Err(BlobError::Damaged(self.key.to_string(), "its writer stopped early"))
    }
}

async fn outcome(worker: &mut JoinHandle<Result<u64, BlobError>>) -> Result<u64, BlobError> {
    worker
        .await
        .map_err(|error| BlobError::Io { doing: "writing a pack", error: std::io::Error::other(error) })?
}
