//! What the application and the receiver have in common: an HTTP/1.1 server in this process, on loopback.

use std::{io, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// An answer; an error in its body, or in its place, closes the connection at that moment.
pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// A server; it ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on a port that the system chooses. `connected` sees each connection, `answer` each request.
    pub(super) async fn start<F: Future<Output = io::Result<Answer>> + Send + 'static>(
        connected: impl Fn() + Send + 'static,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        let address = listener.local_addr().context("cannot see where it listens")?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connected();
                tokio::spawn(serve(stream, answer.clone()));
            }
        });
        Ok(Self { address, accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A connection's failure is the peer's business, which sees it.
async fn serve<F: Future<Output = io::Result<Answer>> + Send + 'static>(
    stream: TcpStream,
    answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
) {
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    drop(served);
}
