//! The bodies of the HTTP API, one module a noun.

pub mod access;
pub mod channel;
pub mod error;
pub mod page;
pub mod project;
pub mod upload;
pub mod version;
