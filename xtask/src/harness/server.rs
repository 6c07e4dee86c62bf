//! What the application and the receiver have in common: a server in this process, on loopback, of HTTP/1.1 and, to those
//! who begin with it, of HTTP/2. It can go down and come back, and nobody else gets its port meanwhile.

use std::{io, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An answer; an error in its body, or in its place, closes the connection at that moment.
pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// A server; it ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    /// Bound to the port and never listening: while the server is down, connections are refused, and the port stays ours.
    _reserved: TcpSocket,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port that the system chooses. `connected` sees each connection and says whether to serve or to drop
    /// it; `answer` sees each request.
    pub(super) async fn start<F: Future<Output = io::Result<Answer>> + Send + 'static>(
        connected: impl Fn(&TcpStream) -> bool + Send + 'static,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let reserved = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = reserved.local_addr().context("cannot see where it listens")?;
        let mut server = Self { address, _reserved: reserved, accepting: None };
        server.come_back(connected, answer)?;
        Ok(server)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and all connections.
    pub(super) async fn go_down(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // It ends with an error: that it was aborted.
            drop(accepting.await);
        }
    }

    /// Listens on the same port again.
    pub(super) fn come_back<F: Future<Output = io::Result<Answer>> + Send + 'static>(
        &mut self,
        connected: impl Fn(&TcpStream) -> bool + Send + 'static,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let listener = bind(self.address)?.listen(BACKLOG).context("cannot listen on loopback")?;
        self.accepting = Some(tokio::spawn(accept(listener, connected, answer)));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// With `SO_REUSEADDR`, so that sockets that do not listen do not stand in the way.
fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = TcpSocket::new_v4().context("cannot open a socket")?;
    socket.set_reuseaddr(true).context("cannot set SO_REUSEADDR")?;
    socket.bind(address).with_context(|| format!("cannot bind to {address}"))?;
    Ok(socket)
}

/// Until it is aborted, and with it all connections.
async fn accept<F: Future<Output = io::Result<Answer>> + Send + 'static>(
    listener: TcpListener,
    connected: impl Fn(&TcpStream) -> bool,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connected(&stream) => drop(connections.spawn(serve(stream, answer.clone()))),
                Ok(_) => {}
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection's failure is the peer's business, which sees it.
async fn serve<F: Future<Output = io::Result<Answer>> + Send + 'static>(
    stream: TcpStream,
    answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    drop(served);
}
