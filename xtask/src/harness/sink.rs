//! A receiver that takes everything and only counts: OTLP over HTTP and over gRPC, and Envoy's gRPC access log service, on
//! one port. It says how many records have come, in how many bytes, and keeps a few calls as samples.
//!
//! Calls are put down as they come and read when somebody asks, so that reading takes no time from a load generator on the
//! same processor: a large call would, for milliseconds, and those would pass for its sender's latency.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body as _, Frame, Incoming},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::harness::{otlp, receiver::Call};

/// How many calls are kept.
const MAX_SAMPLES: usize = 64;

/// A frame's head: whether it is compressed, and its length.
const GRPC_HEAD_BYTES: usize = 5;

/// A running sink; it ends when the handle is dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    unread: Arc<Mutex<Vec<Unread>>>,
    arrived: Mutex<Arrived>,
}

/// What has come, as it came.
#[derive(Debug)]
enum Unread {
    /// A call over HTTP.
    Call(Call),
    /// A call's message over gRPC.
    Otlp(Bytes),
    /// A message of a stream of access logs.
    AccessLogs(Bytes),
    /// A call that broke off.
    Broken(anyhow::Error),
}

/// What has arrived so far.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// Log records, or access log entries.
    pub records: u64,
    /// Calls with log records, or messages of a stream with access log entries.
    pub calls: u64,
    /// The bodies of those.
    pub body_bytes: u64,
    /// Some of those.
    pub samples: Vec<Sample>,
    /// Calls with metrics.
    pub metric_calls: u64,
    /// The bodies of those.
    pub metric_body_bytes: u64,
    /// By sender: the newest histogram points' time and the sum of their counts.
    measured: BTreeMap<String, (u64, u64)>,
    /// What could not be read.
    pub malformed: Vec<String>,
}

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How many records are in it.
    pub records: u64,
    /// Its body, without a frame's head.
    pub body: Bytes,
}

impl Arrived {
    /// How many requests are in the newest histograms of all senders.
    #[must_use]
    pub fn measured(&self) -> u64 {
        self.measured.values().map(|(_, requests)| requests).sum()
    }

    fn add(&mut self, message: Unread) -> anyhow::Result<()> {
        match message {
            Unread::Call(call) if call.path.ends_with("/v1/metrics") => self.add_metrics(&call)?,
            Unread::Call(call) => self.add_records(otlp::log_records(&call)?.len(), call.body),
            Unread::Otlp(body) => self.add_records(otlp::records_in(body.clone())?.len(), body),
            Unread::AccessLogs(body) => {
                let logs =
                    StreamAccessLogsMessage::decode(body.clone()).context("not a StreamAccessLogsMessage")?;
                self.add_records(logs.http_logs.map_or(0, |logs| logs.log_entry.len()), body);
            }
            Unread::Broken(error) => return Err(error),
        }
        Ok(())
    }

    fn add_records(&mut self, records: usize, body: Bytes) {
        self.records += records as u64;
        self.calls += 1;
        self.body_bytes += body.len() as u64;
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(Sample { records: records as u64, body });
        }
    }

    /// Cumulative points: the newest of a sender hold all before.
    fn add_metrics(&mut self, call: &Call) -> anyhow::Result<()> {
        self.metric_calls += 1;
        self.metric_body_bytes += call.body.len() as u64;
        let mut of_call: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (sender, point) in otlp::histogram_points(call, "http.server.request.duration")? {
            let entry = of_call.entry(sender).or_default();
            *entry = (point.time_unix_nano, entry.1 + point.count);
        }
        for (sender, points) in of_call {
            let newest = self.measured.entry(sender).or_default();
            *newest = (*newest).max(points);
        }
        Ok(())
    }
}

/// Of Envoy's `service/accesslog/v3/als.proto`, what it takes to count.
#[derive(Clone, PartialEq, Message)]
struct StreamAccessLogsMessage {
    #[prost(message, optional, tag = "2")]
    http_logs: Option<HttpAccessLogEntries>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpAccessLogEntries {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    log_entry: Vec<Bytes>,
}

impl Sink {
    /// Starts it, in this process.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        let address = listener.local_addr().context("cannot see where it listens")?;
        let unread = Arc::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&unread)));
        Ok(Self { address, accepting, unread, arrived: Mutex::default() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads what has come since the last time; until then it is in memory.
    pub fn read(&self) {
        let unread = std::mem::take(&mut *lock(&self.unread));
        let mut arrived = lock(&self.arrived);
        for message in unread {
            if let Err(error) = arrived.add(message) {
                arrived.malformed.push(format!("{error:#}"));
            }
        }
    }

    /// What has arrived so far.
    #[must_use]
    pub fn arrived(&self) -> Arrived {
        self.read();
        lock(&self.arrived).clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A test that panics with the lock held has left a whole state behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, unread: Arc<Mutex<Vec<Unread>>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&unread)))),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection's failure is the peer's business, which sees it.
async fn serve(stream: TcpStream, unread: Arc<Mutex<Vec<Unread>>>) {
    let answer = service_fn(move |request| {
        let unread = Arc::clone(&unread);
        async move { Ok::<_, Infallible>(take(&unread, request).await) }
    });
    let served =
        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
    drop(served);
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn take(unread: &Mutex<Vec<Unread>>, request: Request<Incoming>) -> Answer {
    let keep = |message| lock(unread).push(message);
    let path = request.uri().path().to_owned();
    let (taken, answer) = match path.as_str() {
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
            (take_frames(request, |frame| keep(Unread::Otlp(frame))).await, grpc_ok())
        }
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs" => {
            (take_frames(request, |frame| keep(Unread::AccessLogs(frame))).await, grpc_ok())
        }
        _ => (take_http(request).await.map(|call| keep(Unread::Call(call))), http_ok()),
    };
    if let Err(error) = taken {
        keep(Unread::Broken(error.context(path)));
    }
    answer
}

async fn take_http(request: Request<Incoming>) -> anyhow::Result<Call> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.context("the call broke off")?.to_bytes();
    let path = head.uri.path().to_owned();
    Ok(Call { path, headers: head.headers, body, answer: None, refused: 0 })
}

/// Takes a call's frames one by one, as they come: a stream of access logs has no end.
async fn take_frames(request: Request<Incoming>, keep: impl Fn(Bytes)) -> anyhow::Result<()> {
    let mut body = request.into_body();
    let mut pending = BytesMut::new();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame.context("the call broke off")?.into_data() {
            pending.extend_from_slice(&data);
        }
        while let Some(message) = next_message(&mut pending) {
            keep(message);
        }
    }
    Ok(())
}

/// Takes a whole message off `pending`, if there is one.
fn next_message(pending: &mut BytesMut) -> Option<Bytes> {
    let length = pending.get(1..GRPC_HEAD_BYTES)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    if pending.len() < GRPC_HEAD_BYTES + length {
        return None;
    }
    pending.advance(GRPC_HEAD_BYTES);
    Some(pending.split_to(length).freeze())
}

fn http_ok() -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(otlp::response(0))).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    response
}

/// An empty message, and the status after it.
fn grpc_ok() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let empty = Frame::data(Bytes::from_static(&[0; GRPC_HEAD_BYTES]));
    let frames = stream::iter([Ok(empty), Ok(Frame::trailers(trailers))]);
    let mut response = Response::new(BoxBody::new(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut pending = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\x03c"[..]);
        assert_eq!(next_message(&mut pending).unwrap(), "ab");
        assert_eq!(next_message(&mut pending), None);
        pending.extend_from_slice(b"de");
        assert_eq!(next_message(&mut pending).unwrap(), "cde");
        assert!(pending.is_empty());
    }

    #[test]
    fn access_log_entries_are_counted_without_being_read() {
        let entries = HttpAccessLogEntries { log_entry: vec![Bytes::from_static(b"\xff"), Bytes::new()] };
        let message = StreamAccessLogsMessage { http_logs: Some(entries) }.encode_to_vec();
        let mut arrived = Arrived::default();
        arrived.add(Unread::AccessLogs(message.into())).unwrap();
        assert_eq!((arrived.records, arrived.calls), (2, 1));
    }
}
