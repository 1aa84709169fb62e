//! Who callers are by somebody else's word: people by an OIDC provider, CI jobs by theirs. The provider is real and
//! on a port of this machine; what it signs, the test decides.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oidc;
mod oidc_exchange;
mod oidc_guard;
mod oidc_login;
