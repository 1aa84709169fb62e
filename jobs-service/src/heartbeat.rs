//! Signs of life: giving them for the jobs in hand, and noticing where nobody gives any.
//!
//! No clocks are compared. Whoever sees a running job's beat stand still for the length of a lease, by its own watch,
//! takes the job over. Of the time in which the database could not be read little counts: after an outage
//! everybody has at least half a lease to say that they are still there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kkartifact_model::api::job::JobState;
use kkartifact_model::job::Job;
use kkartifact_service::{ApiResult, Resources};
use kkartifact_store::{Beat, JobId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::over;

/// The jobs that this process works on.
#[derive(Debug, Default)]
pub(crate) struct InHand(Mutex<HashMap<JobId, (i32, CancellationToken)>>);

impl InHand {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, (i32, CancellationToken)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt; the token is cancelled when the job is no longer its own.
    pub(crate) fn take(&self, id: JobId, attempt: i32) -> CancellationToken {
        let lost = CancellationToken::new();
        self.jobs().insert(id, (attempt, lost.clone()));
        lost
    }

    /// Removes an attempt.
    pub(crate) fn put_down(&self, id: JobId, attempt: i32) {
        let mut jobs = self.jobs();
        if jobs.get(&id).is_some_and(|(held, _)| *held == attempt) {
            jobs.remove(&id);
        }
    }

    fn holds(&self, beat: &Beat) -> bool {
        self.jobs().get(&beat.id).is_some_and(|(attempt, _)| *attempt == beat.attempt)
    }

    fn attempts(&self) -> Vec<(JobId, i32)> {
        self.jobs().iter().map(|(id, (attempt, _))| (*id, *attempt)).collect()
    }

    /// Tells attempts that they have lost their jobs.
    fn lose(&self, id: JobId, attempt: i32) {
        if let Some((held, lost)) = self.jobs().get(&id)
            && *held == attempt
        {
            lost.cancel();
        }
    }
}

/// How many jobs are looked at together.
const PAGE: u32 = 1000;

/// Gives and watches signs of life until everything in hand is done.
pub(crate) async fn run(resources: Resources, owner: &str, in_hand: &InHand, over: CancellationToken) {
    let lease = Duration::from_secs(resources.config.jobs.lease_seconds.into());
    let every = lease / 4;
    let mut watch = Watch::new(lease, every);
    loop {
        if tokio::time::timeout(every, over.cancelled()).await.is_ok() {
            return;
        }
        if let Err(error) = give(&resources, owner, in_hand).await {
            tracing::warn!(%error, cause = error.cause, "no sign of life could be given");
        }
        if let Err(error) = look(&resources, in_hand, &mut watch).await {
            tracing::warn!(%error, cause = error.cause, "signs of life could not be read");
        }
    }
}

async fn give(resources: &Resources, owner: &str, in_hand: &InHand) -> ApiResult<()> {
    let attempts = in_hand.attempts();
    for page in attempts.chunks(PAGE as usize) {
        let mut ids: Vec<_> = page.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let mut tx = resources.db.begin().await?;
        let own: HashMap<_, _> =
            tx.beat_jobs(&ids, owner).await?.into_iter().map(|beat| (beat.id, beat.attempt)).collect();
        tx.commit().await?;
        for (id, attempt) in page {
            if own.get(id) != Some(attempt) {
                in_hand.lose(*id, *attempt);
            }
        }
    }
    Ok(())
}

async fn look(resources: &Resources, in_hand: &InHand, watch: &mut Watch) -> ApiResult<()> {
    let (mut beats, mut after) = (Vec::new(), JobId(0));
    loop {
        let mut tx = resources.db.read().await?;
        let page = tx.job_beats(after, PAGE).await?;
        tx.commit().await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        let full = page.len() == PAGE as usize;
        beats.extend(page.into_iter().filter(|beat| !in_hand.holds(beat)));
        if !full {
            break;
        }
    }
    for beat in watch.see(beats, Instant::now()) {
        take_over(resources, &beat).await?;
    }
    Ok(())
}

/// Takes over everything that is said to run: for a process that knows that it is alone.
pub(crate) async fn take_over_all(resources: &Resources) -> ApiResult<()> {
    loop {
        let mut tx = resources.db.read().await?;
        let beats = tx.job_beats(JobId(0), PAGE).await?;
        tx.commit().await?;
        if beats.is_empty() {
            return Ok(());
        }
        for beat in &beats {
            take_over(resources, beat).await?;
        }
    }
}

async fn take_over(resources: &Resources, beat: &Beat) -> ApiResult<()> {
    let now = resources.clock.now();
    let mut tx = resources.db.begin().await?;
    if let Some(state) = tx.take_over_job(beat, now).await? {
        let line = "its worker gave no sign of life";
        tx.log_job(beat.id, beat.attempt, line, now).await?;
        if state == JobState::Dead.as_str()
            && let Some(row) = tx.find_job(beat.id).await?
        {
            let job = Job::from_parts(row.kind(), row.payload()).ok();
            over::announce(&mut tx, row.kind(), job.as_ref(), row.id, row.project_id, line, now).await?;
        }
        tx.commit().await?;
        metrics::counter!("kkartifact_jobs_taken_over_total").increment(1);
        tracing::warn!(job = beat.id.0, attempt = beat.attempt, state, "took a job over: {line}");
        resources.jobs_queued.notify_waiters();
    }
    Ok(())
}

/// Remembers for how long beats have stood still.
struct Watch {
    lease: Duration,
    /// More than this is not counted between two looks: nobody could be seen in between.
    most: Duration,
    seen: HashMap<JobId, (Beat, Duration)>,
    last: Option<Instant>,
}

impl Watch {
    fn new(lease: Duration, every: Duration) -> Self {
        Self { lease, most: every * 2, seen: HashMap::new(), last: None }
    }

    /// The beats that have stood still for a lease.
    fn see(&mut self, beats: Vec<Beat>, now: Instant) -> Vec<Beat> {
        let passed = self.last.map_or(Duration::ZERO, |last| (now - last).min(self.most));
        self.last = Some(now);
        let mut seen = HashMap::with_capacity(beats.len());
        let mut still = Vec::new();
        for beat in beats {
            let silent = match self.seen.get(&beat.id) {
                Some((before, silent)) if *before == beat => *silent + passed,
                _ => Duration::ZERO,
            };
            if silent >= self.lease {
                still.push(beat);
            }
            seen.insert(beat.id, (beat, silent));
        }
        self.seen = seen;
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn beat(beat: i64) -> Vec<Beat> {
        vec![Beat { id: JobId(1), attempt: 1, beat }]
    }

    #[test]
    fn a_job_is_taken_over_after_a_lease_without_a_beat() {
        let (mut watch, start) = (Watch::new(4 * SECOND, SECOND), Instant::now());
        for second in 0..4 {
            assert!(watch.see(beat(0), start + second * SECOND).is_empty(), "{second}");
        }
        assert_eq!(watch.see(beat(0), start + 4 * SECOND), beat(0));
    }

    #[test]
    fn a_beat_begins_a_new_lease() {
        let (mut watch, start) = (Watch::new(4 * SECOND, SECOND), Instant::now());
        for second in 0..20 {
            assert!(watch.see(beat(i64::from(second) / 3), start + second * SECOND).is_empty());
        }
    }

    #[test]
    fn an_outage_or_a_pause_of_the_watcher_expires_nobody() {
        let (mut watch, start) = (Watch::new(4 * SECOND, SECOND), Instant::now());
        assert!(watch.see(beat(0), start).is_empty());
        assert!(watch.see(beat(0), start + 300 * SECOND).is_empty(), "two seconds count of the 300");
        assert!(watch.see(beat(0), start + 301 * SECOND).is_empty());
        assert_eq!(watch.see(beat(0), start + 302 * SECOND), beat(0));
    }

    #[test]
    fn another_attempt_is_another_job() {
        let (mut watch, start) = (Watch::new(SECOND, SECOND), Instant::now());
        let other = vec![Beat { attempt: 2, ..beat(0)[0] }];
        assert!(watch.see(beat(0), start).is_empty());
        assert!(watch.see(other, start + 2 * SECOND).is_empty());
    }
}
