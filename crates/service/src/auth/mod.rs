//! Who the caller is and what they may do. Deny by default.

mod authenticator;
mod caller;
mod grants;
pub mod keys;
mod rate;
pub mod sessions;
mod target;

pub use authenticator::Authenticator;
pub use caller::{Caller, Credential};
pub use grants::{Grants, Object};
pub use rate::Rates;
pub use target::{AuthorizedApp, AuthorizedProject};
