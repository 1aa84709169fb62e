//! Who the caller is and what they may do. Deny by default.

mod authenticator;
mod caller;
mod target;

pub use authenticator::Authenticator;
pub use caller::Caller;
pub use target::{AuthorizedApp, AuthorizedProject};
