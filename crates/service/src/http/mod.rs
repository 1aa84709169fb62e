//! Requests and answers: identity and log line of each request, the gate before each handler, and extractors
//! that refuse in our words.

pub mod context;
mod drain;
pub mod extract;
pub(crate) mod gate;
mod observe;
mod serve;
pub mod stream;
pub mod trace;
mod watch;

pub use observe::observed;
pub use serve::serve;
