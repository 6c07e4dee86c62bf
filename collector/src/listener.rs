//! A listener: connections, each bounded in time, all of them in number.
//!
//! In: an address and what answers there. Out: HTTP/1.1 and HTTP/2 requests, each to the router. At most
//! `max_connections` are open, the next ones wait in the kernel until one has ended. A connection that has had no request
//! under way for `idle_timeout` is closed, whatever it is doing: nothing, sending a head byte by byte, or not taking its
//! answer. How long a request may be under way is the router's own bound.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::self_metrics::SelfMetrics;

/// What a connection of HTTP/1.1 buffers at most, and with it the largest head of a request.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// The largest head of a request, and the most requests under way, of a connection of HTTP/2.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// A bound socket with its bounds.
#[derive(Debug)]
pub struct Listener {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// Where connections come in.
    pub socket: TcpListener,
    /// Connections open at once.
    pub max_connections: u32,
    /// How long one may have no request under way.
    pub idle_timeout: Duration,
    /// Counts.
    pub metrics: Arc<SelfMetrics>,
}

impl Listener {
    /// The address that it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `closed` turns true and every connection has ended; those without a request under way end at once.
    pub async fn serve(mut self, router: Router, closed: watch::Receiver<bool>) {
        let places = usize::try_from(self.max_connections).unwrap_or(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(places));
        let mut closing = closed.clone();
        let accept = async {
            // The semaphore is never closed.
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                // Axum's way waits out errors that pass, such as too many open files.
                let (stream, _) = axum::serve::Listener::accept(&mut self.socket).await;
                let open = Open { _place: place, name: self.name, metrics: Arc::clone(&self.metrics) };
                open.metrics.connections(self.name, 1);
                tokio::spawn(open.serve(stream, router.clone(), self.idle_timeout, closed.clone()));
            }
        };
        tokio::select! {
            () = accept => {}
            _ = closing.wait_for(|closed| *closed) => {}
        }
        drop(self.socket);
        // All places are free when every connection has ended.
        let _ = places.acquire_many(self.max_connections).await;
    }
}

/// An open connection.
struct Open {
    _place: OwnedSemaphorePermit,
    name: &'static str,
    metrics: Arc<SelfMetrics>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections(self.name, -1);
    }
}

impl Open {
    async fn serve(
        self,
        stream: TcpStream,
        router: Router,
        idle_timeout: Duration,
        mut closed: watch::Receiver<bool>,
    ) {
        let (under_way, mut requests) = watch::channel(0_usize);
        let service = TowerToHyperService::new(router.layer(middleware::from_fn(
            move |request: Request, next: Next| {
                let request_under_way = UnderWay::new(under_way.clone());
                async move {
                    let response = next.run(request).await;
                    drop(request_under_way);
                    response
                }
            },
        )));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().max_buf_size(MAX_BUFFER_BYTES);
        builder
            .http2()
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut closing = pin!(closed.wait_for(|closed| *closed));
        let mut is_closing = false;
        loop {
            let is_idle = *requests.borrow_and_update() == 0;
            tokio::select! {
                // What went wrong with it is the sender's to see.
                _ = connection.as_mut() => return,
                Ok(()) = requests.changed() => {}
                _ = closing.as_mut(), if !is_closing => {
                    connection.as_mut().graceful_shutdown();
                    is_closing = true;
                }
                () = tokio::time::sleep(idle_timeout), if is_idle => return,
            }
        }
    }
}

/// A request under way, until its answer is made or it is given up.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn new(requests: watch::Sender<usize>) -> Self {
        requests.send_modify(|requests| *requests = requests.saturating_add(1));
        Self(requests)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests = requests.saturating_sub(1));
    }
}
