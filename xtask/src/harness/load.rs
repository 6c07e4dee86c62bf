//! Clients: many requests over connections kept alive, HTTP/2, and bytes that no well-behaved client would send.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A GET request without a body, such as everything here sends. `target` starts with `/`.
///
/// # Errors
/// When `target` is not a path and query.
pub fn get(target: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    Request::builder()
        .uri(target)
        .header(header::HOST, "shop.example")
        .header(header::USER_AGENT, "offpath-load/1")
        .body(Empty::new())
        .with_context(|| format!("not a target: `{target}`"))
}

/// Sends `count` requests over `connections` HTTP/1.1 connections that are kept alive, each as fast as its answers come.
/// `request` makes the n-th, from 0. The answers' statuses, counted.
///
/// # Errors
/// When a request has no whole answer.
pub async fn keep_alive(
    address: SocketAddr,
    connections: usize,
    count: u64,
    request: impl Fn(u64) -> anyhow::Result<Request<Empty<Bytes>>> + Send + Sync + 'static,
) -> anyhow::Result<BTreeMap<u16, u64>> {
    let next = Arc::new(AtomicU64::new(0));
    let request = Arc::new(request);
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        clients.spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut statuses = BTreeMap::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(statuses);
                }
                let status = client.send(request(number)?).await?;
                *statuses.entry(status.as_u16()).or_insert(0) += 1;
            }
        });
    }
    let mut total = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        for (status, count) in client.context("a client was aborted")?? {
            *total.entry(status).or_insert(0) += count;
        }
    }
    Ok(total)
}

/// An HTTP/1.1 connection that is opened again when the server closes it.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    sender: http1::SendRequest<Empty<Bytes>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { address, sender: handshake(address).await? })
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> anyhow::Result<StatusCode> {
        if self.sender.ready().await.is_err() {
            self.sender = handshake(self.address).await?;
        }
        let exchange = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            response.into_body().collect().await?;
            anyhow::Ok(status)
        };
        timeout(DEADLINE, exchange).await.context("no answer in time")?
    }
}

async fn handshake(address: SocketAddr) -> anyhow::Result<http1::SendRequest<Empty<Bytes>>> {
    let stream = connect(address).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// An HTTP/2 connection, with prior knowledge.
///
/// # Errors
/// When there is no connection.
pub async fn http2(address: SocketAddr) -> anyhow::Result<http2::SendRequest<Empty<Bytes>>> {
    let stream = connect(address).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends bytes as they are, and reads until the other side closes.
///
/// # Errors
/// When there is no connection, or it is not closed in time.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = connect(address).await?;
    stream.write_all(bytes).await.context("cannot send")?;
    let mut answer = Vec::new();
    match timeout(DEADLINE, stream.read_to_end(&mut answer)).await {
        Ok(Ok(_)) => Ok(answer),
        // A reset after the answer is a way to close, too.
        Ok(Err(_)) if !answer.is_empty() => Ok(answer),
        Ok(Err(error)) => Err(error).context("the connection broke without an answer"),
        Err(_) => bail!("not closed in time after {} bytes", answer.len()),
    }
}

/// Sends bytes and closes without reading anything.
///
/// # Errors
/// When there is no connection.
pub async fn send_and_leave(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = connect(address).await?;
    stream.write_all(bytes).await.context("cannot send")?;
    stream.shutdown().await.context("cannot close")
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    Ok(stream)
}
