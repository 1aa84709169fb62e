//! The audit log beyond its rows: counting what happens too often, and the chain that shows tampering.
//!
//! A row carries a MAC, so that who can write to the database can't write rows. A sealer chains rows afterwards, in the
//! order in which it finds them, since ids are given before commits. The end of the chain, signed, lies in the
//! storage: what is cut off, or replaced as a whole, is missed there.

mod chain;
mod seal;
mod tally;
mod verify;

use std::time::Duration;

use crate::resources::Resources;
use crate::shutdown::Shutdown;

pub use seal::{retain, seal};
pub(crate) use tally::Deed;
pub use tally::Tally;
pub use verify::{Report, verify};

/// Writes down, now and then and at the end, what has been counted.
pub async fn keep_writing(resources: Resources, shutdown: Shutdown) {
    let window = Duration::from_secs(resources.config.audit.window_seconds.into());
    loop {
        let over = tokio::time::timeout(window, shutdown.begun()).await.is_ok();
        if let Err(error) = resources.tally.flush(&resources).await {
            tracing::warn!(%error, cause = error.cause, "refusals and reads could not be written into the audit log");
        }
        if over {
            return;
        }
    }
}
