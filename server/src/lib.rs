//! All services in one process, behind the embedded gateway: the route table as one router.

mod data_dir;
mod embedded;
pub mod verify;

pub use embedded::{Embedded, router};
