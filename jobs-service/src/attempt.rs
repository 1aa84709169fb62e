//! One attempt at a job: what its work may use, and how it can end.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_blob::BlobError;
use kkartifact_model::time::Clock;
use kkartifact_service::{ApiError, Resources, Shutdown};
use kkartifact_store::{JobRow, StoreError, Tx};
use serde_json::Value;

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another attempt may do better.
    Retry(String),
    /// Trying again would not help.
    Final(String),
    /// It is time to stop: somebody else goes on. Not counted.
    HandedBack,
    /// The job is no longer this attempt's own.
    Lost,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        // The row is for others to read: what is inside is for the log.
        if let Some(cause) = &error.cause {
            tracing::warn!(cause, code = %error.code, "a job came to a fault");
        }
        Self::Retry(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        ApiError::from(error).into()
    }
}

/// What comes of an attempt: perhaps something to keep.
pub(crate) type Outcome = Result<Option<Value>, Failure>;

/// One attempt at a job.
pub(crate) struct Attempt {
    pub(crate) resources: Resources,
    pub(crate) row: JobRow,
    pub(crate) shutdown: Shutdown,
}

impl Attempt {
    /// A transaction that is still the job's own to write in. Every effect on the database goes through one: an
    /// attempt that was taken over or cancelled gets none.
    pub(crate) async fn begin(&self) -> Result<Tx, Failure> {
        let mut tx = self.resources.db.begin().await?;
        if tx.holds_job(&self.row).await? { Ok(tx) } else { Err(Failure::Lost) }
    }

    /// Commits what was done together with how far the work is with it: who goes on after a kill counts from there.
    pub(crate) async fn commit(&self, mut tx: Tx, progress: &Value) -> Result<(), Failure> {
        if !tx.note_progress(&self.row, progress, self.now()).await? {
            return Err(Failure::Lost);
        }
        Ok(tx.commit().await?)
    }

    /// Says how far the work is, and notices between its steps that it is time to stop.
    pub(crate) async fn progress(&self, value: Value) -> Result<(), Failure> {
        let tx = self.resources.db.begin().await?;
        self.commit(tx, &value).await?;
        self.go_on()
    }

    /// Notices that it is time to stop.
    pub(crate) fn go_on(&self) -> Result<(), Failure> {
        if self.shutdown.is_begun() { Err(Failure::HandedBack) } else { Ok(()) }
    }

    /// Ends the attempt where this host's clock and the database's are too far apart: for work that can't be undone and
    /// that a time decides. With SQLite both are the same clock. One that is moved by hand is no host's.
    pub(crate) async fn check_clock(&self) -> Result<(), Failure> {
        if matches!(self.resources.clock, Clock::Manual(_)) {
            return Ok(());
        }
        let mut tx = self.resources.db.read().await?;
        let Some(theirs) = tx.clock().await? else { return Ok(()) };
        tx.commit().await?;
        let ours = self.now();
        if (ours - theirs).abs() <= APART {
            return Ok(());
        }
        let time = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ");
        Err(Failure::Retry(format!(
            "by the clock of this host it is {}, by that of the database {}; nothing is deleted while they are more \
            than {} minutes apart",
            time(ours),
            time(theirs),
            APART.num_minutes()
        )))
    }

    /// A line for whoever looks at the job.
    pub(crate) async fn note(&self, line: impl Into<String>) -> Result<(), Failure> {
        let mut line = line.into();
        let end = line.floor_char_boundary(LINE);
        line.truncate(end);
        let mut tx = self.begin().await?;
        tx.log_job(self.row.id, self.row.attempt, &line, self.now()).await?;
        Ok(tx.commit().await?)
    }

    /// The time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.resources.clock.now()
    }
}

/// How far the clocks of this host and of the database may be apart.
const APART: TimeDelta = TimeDelta::minutes(5);
/// The most bytes of a line.
const LINE: usize = 2000;
