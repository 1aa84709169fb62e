//! Serving a router on a socket until it is time to stop.

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;

use crate::shutdown::Shutdown;

/// Serves until shutdown has begun and what was in progress is answered.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> std::io::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(async move { shutdown.begun().await }).await
}
