//! What every service needs: configuration, telemetry, the route table with its gate, errors as HTTP, who the
//! caller is, reading content, health and shutdown.

pub mod audit;
pub mod auth;
pub mod bootstrap;
pub mod config;
pub mod content;
pub mod error;
pub mod health;
pub mod http;
pub mod lifecycle;
pub mod oidc;
pub mod outbound;
pub mod password;
pub mod process;
pub mod recovery;
pub mod resources;
pub mod routes;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod vault;
pub mod webhook;

pub use auth::{AuthorizedApp, AuthorizedProject, Caller, Grants, Object};
pub use config::Config;
pub use content::Content;
pub use error::{ApiError, ApiResult};
pub use resources::Resources;
pub use routes::{RouteTable, Routes, Service};
pub use shutdown::Shutdown;
