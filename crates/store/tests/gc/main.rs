//! Garbage collection and compaction, as far as the database decides them, the same on both databases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claim;
mod compaction;
mod live_bytes;
mod locks;
mod purge;
mod world;
