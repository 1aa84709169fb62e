//! The relay: keeps a small window of due jobs in the queue, best first, and sends again what has got lost on the way.
//!
//! Nothing depends on what the queue remembers: an id that comes twice is claimed once, and one that never comes is
//! sent again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kkartifact_service::{ApiResult, Resources, Shutdown};
use kkartifact_store::{DueJob, JobId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kind::Kind;
use crate::queue::Sender;

/// How often the table is looked at when nothing rings.
const LOOK: Duration = Duration::from_millis(500);
/// How soon it is looked at again while there is more than the window holds.
const BUSY: Duration = Duration::from_millis(20);
/// After how long an id that nobody has claimed is sent again.
const AGAIN: Duration = Duration::from_secs(10);

/// Relays until it is time to stop. `freed` rings when a worker has become free.
pub(crate) async fn run(
    resources: Resources,
    kinds: Arc<[Kind]>,
    sender: Sender,
    freed: Arc<Notify>,
    shutdown: Shutdown,
) {
    let mut relay = Relay { resources, kinds, sender, sent: HashMap::new() };
    loop {
        let queued = relay.resources.jobs_queued.clone();
        let (rung, freed) = (queued.notified(), freed.notified());
        let more = relay.sender.leads().await
            && relay.look().await.unwrap_or_else(|error| {
                tracing::warn!(%error, cause = error.cause, "jobs can't be relayed; trying again");
                false
            });
        let wait = async {
            tokio::time::sleep(BUSY).await;
            if !more {
                tokio::select! {
                    () = rung => {}
                    () = freed => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        tokio::select! {
            () = shutdown.begun() => return,
            () = wait => {}
        }
    }
}

struct Relay {
    resources: Resources,
    kinds: Arc<[Kind]>,
    sender: Sender,
    /// Sent, and not seen claimed: when.
    sent: HashMap<&'static str, HashMap<JobId, Instant>>,
}

impl Relay {
    /// Sends what is due; whether there is more than was sent.
    async fn look(&mut self) -> ApiResult<bool> {
        let mut more = false;
        for kind in self.kinds.clone().iter() {
            more |= self.look_at(kind).await?;
        }
        Ok(more)
    }

    async fn look_at(&mut self, kind: &Kind) -> ApiResult<bool> {
        let window = kind.workers * 2;
        let mut tx = self.resources.db.read().await?;
        let running = tx.running_lanes(kind.name).await?;
        // Each process that works has as many workers as this one.
        let processes = usize::try_from(tx.job_owners(kind.name).await?).unwrap_or(1).max(1);
        let lanes = Lanes::new(&Kind { workers: kind.workers * processes, ..*kind }, running);
        let (per_lane, limit) = (number(per_lane(kind)), number(window));
        let now = self.resources.clock.now();
        let due = tx.due_jobs(kind.name, &lanes.full(), per_lane, limit, now).await?;
        tx.commit().await?;
        if due.is_empty() {
            self.sent.remove(kind.name);
            return Ok(false);
        }
        let full = due.len() == window;
        let offered = lanes.offer(due);
        let before = self.sent.remove(kind.name).unwrap_or_default();
        let now = Instant::now();
        let (mut sent, mut new) = (HashMap::with_capacity(offered.len()), Vec::new());
        for id in offered {
            match before.get(&id) {
                Some(at) if now - *at < AGAIN => {
                    sent.insert(id, *at);
                }
                _ => {
                    sent.insert(id, now);
                    new.push(id);
                }
            }
        }
        if let Err(error) = self.sender.send(kind.name, &new).await {
            tracing::warn!(%error, kind = kind.name, "the queue is out of reach; trying again");
            sent.retain(|id, _| !new.contains(id));
        }
        self.sent.insert(kind.name, sent);
        Ok(full && !new.is_empty())
    }
}

/// How many jobs of a lane are looked at together. All jobs of a kind without lanes are one lane.
fn per_lane(kind: &Kind) -> usize {
    if kind.per_lane == kind.workers { kind.workers * 2 } else { kind.per_lane }
}

/// How many jobs of a kind run in which lane, and how many more may.
struct Lanes {
    kind: Kind,
    running: HashMap<String, usize>,
    free: usize,
}

impl Lanes {
    fn new(kind: &Kind, running: Vec<(String, i64)>) -> Self {
        let count = |(lane, count): (String, i64)| (lane, usize::try_from(count).unwrap_or(0));
        let running: HashMap<_, _> = running.into_iter().map(count).collect();
        let free = kind.workers.saturating_sub(running.values().sum());
        Self { kind: *kind, running, free }
    }

    /// The most of one lane: never more than a quarter of the workers that are free, so that however many receivers
    /// hang, there is room for another one.
    fn most(&self) -> usize {
        self.kind.per_lane.min((self.free / 4).max(1))
    }

    /// The lanes that have no room.
    fn full(&self) -> Vec<String> {
        let full = |(lane, count): &(&String, &usize)| !lane.is_empty() && **count >= self.most();
        self.running.iter().filter(full).map(|(lane, _)| lane.clone()).collect()
    }

    /// Those of the due jobs that may run now.
    fn offer(mut self, due: Vec<DueJob>) -> Vec<JobId> {
        let mut offered = Vec::new();
        for job in due {
            if job.lane.is_empty() {
                offered.push(job.id);
                continue;
            }
            let most = self.most();
            let count = self.running.entry(job.lane).or_default();
            if *count < most {
                *count += 1;
                self.free = self.free.saturating_sub(1);
                offered.push(job.id);
            }
        }
        offered
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(lane: &str, ids: std::ops::Range<i64>) -> impl Iterator<Item = DueJob> {
        ids.map(move |id| DueJob { id: JobId(id), lane: lane.to_owned() })
    }

    fn kind() -> Kind {
        Kind { name: "x", workers: 64, per_lane: 8, timeout: Duration::from_secs(1) }
    }

    #[test]
    fn a_lane_gets_no_more_than_its_share() {
        let jobs: Vec<_> = due("slow", 0..20).chain(due("fast", 20..40)).collect();
        let offered = Lanes::new(&kind(), vec![("slow".into(), 6)]).offer(jobs);
        assert_eq!(offered.iter().filter(|id| id.0 < 20).count(), 2);
        assert_eq!(offered.iter().filter(|id| id.0 >= 20).count(), 8);
    }

    #[test]
    fn receivers_that_hang_together_leave_room_for_others() {
        let lanes: Vec<_> = (0..8).map(|lane| format!("hangs{lane}")).collect();
        let jobs: Vec<_> = lanes.iter().flat_map(|lane| due(lane, 0..64)).collect();
        let offered = Lanes::new(&kind(), Vec::new()).offer(jobs);
        assert!(offered.len() <= 60, "{}", offered.len());
    }

    #[test]
    fn receivers_that_hang_leave_room_for_others() {
        let mut running: Vec<(String, i64)> = Vec::new();
        for lane in 0..15 {
            let jobs = due(&format!("hangs{lane}"), 0..20).collect();
            let offered = Lanes::new(&kind(), running.clone()).offer(jobs);
            running.push((format!("hangs{lane}"), i64::try_from(offered.len()).unwrap()));
        }
        let busy: i64 = running.iter().map(|(_, count)| count).sum();
        assert!(busy < 64, "{running:?}");
        assert!(!Lanes::new(&kind(), running).offer(due("fast", 0..5).collect()).is_empty());
    }

    #[test]
    fn jobs_without_a_lane_fill_the_window() {
        let one = Kind { workers: 4, per_lane: 4, ..kind() };
        assert_eq!(Lanes::new(&one, Vec::new()).offer(due("", 0..8).collect()).len(), 8);
    }
}
