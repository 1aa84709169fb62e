//! What tests share: databases, servers, agents, trees. Everything here is the real thing on a free port and in a
//! temporary directory, and ends with the test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "a test fails by panicking"
)]

mod agent;
mod database;
pub mod oidc;
mod postgres;
pub mod process;
mod receiver;
mod redis;
mod server;
mod service_process;
pub mod tree;

pub use agent::TestAgent;
pub use database::{Held, TestDatabase};
pub use postgres::PostgresProcess;
pub use receiver::{Behaviour, Received, Receiver};
pub use redis::RedisProcess;
pub use server::{Answer, TestServer};
pub use service_process::ServiceProcess;

/// Runs test bodies on both databases: `on_both_databases! { one, two }` makes `on_sqlite::one`,
/// `on_postgres::one` and so on from `async fn one(db: TestDatabase)`.
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::TestDatabase::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::TestDatabase::postgres().await).await;
                }
            )*
        }
    };
}
