//! Trying again: with back-off and jitter, and only where it can help.

use std::future::Future;
use std::time::Duration;

use kkartifact_model::api::error::ErrorBody;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::Client;
use crate::error::{AgentError, Kind, Result};

/// How often a call is tried.
const TRIES: u32 = 6;
/// The first wait; each one is twice the one before, up to the longest.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// Why an attempt failed.
#[derive(Debug)]
pub enum Attempt {
    /// Trying again can't help.
    Final(AgentError),
    /// It may, perhaps not before some time has passed.
    Transient(AgentError, Option<Duration>),
}

impl Attempt {
    /// The network failed.
    pub(crate) fn network(error: &reqwest::Error) -> Self {
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        let place =
            error.url().map(|url| format!(" {}", url.origin().ascii_serialization())).unwrap_or_default();
        let error = AgentError::new(Kind::Unavailable, format!("can't reach the server{place}: {reason}"));
        Self::Transient(error.hint("kkartifact-agent doctor"), None)
    }

    /// The server refused.
    pub(super) fn refused(body: ErrorBody, headers: &HeaderMap) -> Self {
        let retryable = body.error.code.is_retryable();
        let error = AgentError::refused(body);
        if !retryable {
            return Self::Final(error);
        }
        let wait = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Transient(error, wait.map(Duration::from_secs))
    }

    /// The error, whichever it is.
    pub fn into_error(self) -> AgentError {
        match self {
            Self::Final(error) | Self::Transient(error, _) => error,
        }
    }
}

/// Waits grow with each failure and start over after each success.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    failures: u32,
}

impl Patience {
    /// Something went well.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try; gives the error back if there have been enough.
    pub(crate) async fn wait(&mut self, attempt: Attempt) -> Result<()> {
        let (error, least) = match attempt {
            Attempt::Final(error) => return Err(error),
            Attempt::Transient(error, least) => (error, least),
        };
        self.failures += 1;
        if self.failures >= TRIES {
            return Err(error);
        }
        let backoff = (FIRST * 2u32.pow(self.failures - 1)).min(LONGEST);
        let wait = backoff.mul_f64(jitter()).max(least.unwrap_or_default().min(LONGEST));
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Between a half and one: agents that failed together don't come back together.
fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness there is just no jitter.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 510.0
}

impl Client {
    /// Tries a call until it succeeds, trying again can't help, or it has been enough.
    pub(super) async fn retrying<T, F: Future<Output = Result<T, Attempt>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T> {
        let mut patience = Patience::default();
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(attempt) => patience.wait(attempt).await?,
            }
        }
    }
}
