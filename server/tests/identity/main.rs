//! Who callers are: people with passwords and sessions, programs with secrets, tokens and what they hang on; and who
//! they are by somebody else's word: people by an OIDC provider, CI jobs by theirs. The provider is real and on a port
//! of this machine; what it signs, the test decides.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bootstrap;
mod csrf;
mod forgery;
mod keys;
mod last_admin;
mod limits;
mod lockout;
mod oidc;
mod oidc_exchange;
mod oidc_guard;
mod oidc_login;
mod passwords;
mod people;
mod revocation;
mod role_bindings;
mod secrets;
mod service_accounts;
mod sessions;
mod someone;
mod tokens;
