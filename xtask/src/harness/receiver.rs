//! Any OTLP/HTTP receiver in the collector's place: it keeps every call as it came over the wire, and answers what a test
//! wants.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, header};

use crate::harness::server::{Answer, Server};

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    answer: StatusCode,
    connections: usize,
    calls: Vec<Call>,
}

/// One export call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Such as `/v1/logs`.
    pub path: String,
    /// As received.
    pub headers: HeaderMap,
    /// As received: compressed, if `content-encoding` says so.
    pub body: Bytes,
    /// How it was answered.
    pub answer: StatusCode,
}

impl Call {
    /// A header's value, if there is one and it is ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Receiver {
    /// Starts it, in this process; it answers 200 with an empty response message.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new(State { answer: StatusCode::OK, connections: 0, calls: Vec::new() }));
        let (connected, called) = (Arc::clone(&state), Arc::clone(&state));
        let server = Server::start(
            move || with(&connected, |state| state.connections += 1),
            move |request| keep(Arc::clone(&called), request),
        )
        .await?;
        Ok(Self { server, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on, answers with `status`.
    pub fn answer(&self, status: StatusCode) {
        with(&self.state, |state| state.answer = status);
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        with(&self.state, |state| state.calls.clone())
    }

    /// How often it was connected to.
    #[must_use]
    pub fn connections(&self) -> usize {
        with(&self.state, |state| state.connections)
    }
}

/// A test that panics with the lock held has left a whole state behind.
fn with<T>(state: &Mutex<State>, act: impl FnOnce(&mut State) -> T) -> T {
    act(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn keep(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let answer = with(&state, |state| {
        let answer = state.answer;
        state.calls.push(Call { path: head.uri.path().to_owned(), headers: head.headers, body, answer });
        answer
    });
    let mut response = Response::new(Empty::new().map_err(io::Error::other).boxed());
    *response.status_mut() = answer;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-protobuf"));
    Ok(response)
}
