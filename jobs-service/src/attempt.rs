//! One attempt at a job: what its work may use, and how it can end.

use chrono::{DateTime, Utc};
use kkartifact_blob::BlobError;
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

    /// Says how far the work is, and notices between its steps that it is time to stop.
    pub(crate) async fn progress(&self, value: Value) -> Result<(), Failure> {
        let mut tx = self.resources.db.begin().await?;
        if !tx.note_progress(&self.row, &value, self.now()).await? {
            return Err(Failure::Lost);
        }
        tx.commit().await?;
        if self.shutdown.is_begun() { Err(Failure::HandedBack) } else { Ok(()) }
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

/// The most bytes of a line.
const LINE: usize = 2000;
