//! Who may do what: through the gateway, on every kind of route.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod credentials;
mod isolation;
mod matrix;
mod permissions;
