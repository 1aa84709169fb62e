//! The queue in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apalis::prelude::{MemorySink, MemoryStorage, Task, TaskBuilder, WorkerBuilder, WorkerBuilderExt as _};
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::{SinkExt as _, StreamExt as _};
use kkartifact_store::JobId;

use crate::kind::Kind;
use crate::worker::{Hands, handle};

type Senders = HashMap<&'static str, UnboundedSender<Task<i64>>>;

/// Sends ids within the process. What is under way is bounded by the relay's window.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Mutex<Senders>>);

impl Sender {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        // Until a worker has taken its end, what is sent is lost, and sent again.
        let senders = kinds.iter().map(|kind| (kind.name, unbounded().0)).collect();
        Self(Arc::new(Mutex::new(senders)))
    }

    fn senders(&self) -> std::sync::MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, kind: &'static str, ids: &[JobId]) -> Result<(), String> {
        let senders = self.senders();
        let sender = senders.get(kind).ok_or_else(|| format!("{kind} has no queue"))?;
        for id in ids {
            let task = TaskBuilder::new(id.0).build();
            sender.unbounded_send(task).map_err(|_| "no worker listens yet".to_owned())?;
        }
        Ok(())
    }

    fn listen(&self, kind: &'static str) -> (UnboundedSender<Task<i64>>, UnboundedReceiver<Task<i64>>) {
        let (sender, receiver) = unbounded();
        self.senders().insert(kind, sender.clone());
        (sender, receiver)
    }

    pub(super) async fn work(&self, kind: Kind, hands: Arc<Hands>) -> Result<(), String> {
        let (sender, receiver) = self.listen(kind.name);
        let sink = Box::new(sender.sink_map_err(Into::into));
        let sink = MemorySink::new(Arc::new(futures_util::lock::Mutex::new(sink)));
        let worker = WorkerBuilder::new(kind.name)
            .backend(MemoryStorage::new_with(sink, receiver.boxed()))
            .data(hands)
            .concurrency(kind.workers)
            .build(handle);
        worker.run().await.map_err(|error| error.to_string())
    }
}
