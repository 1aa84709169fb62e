//! The agent: pushes builds, and applies versions to directories.
//!
//! A library too, so that tests and other programs can do what the command line does.

pub mod client;
pub mod commands;
pub mod config;
pub mod context;
pub mod error;
pub mod hash;
pub mod manifest_file;
pub mod output;
pub mod progress;
pub mod pull;
pub mod push;
pub mod stat_cache;
pub mod tree;

pub use context::Agent;
pub use error::{AgentError, Kind, Result};
