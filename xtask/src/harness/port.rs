//! Ports on loopback.

use tokio::net::TcpListener;

/// `port` if it is free, else 0: any. Somebody else may take it before it is used, who then is told so.
pub async fn preferred(port: u16) -> u16 {
    TcpListener::bind(("127.0.0.1", port)).await.map_or(0, |_| port)
}
