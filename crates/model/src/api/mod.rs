//! The bodies of the HTTP API, one module a noun.

pub mod access;
pub mod audit;
pub mod batch;
pub mod channel;
pub mod error;
pub mod job;
pub mod key;
pub mod oauth;
pub mod page;
pub mod project;
pub mod retention;
pub mod role_binding;
pub mod service_account;
pub mod token;
pub mod trust_policy;
pub mod upload;
pub mod user;
pub mod version;
pub mod webhook;
