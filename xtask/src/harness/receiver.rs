//! Any OTLP/HTTP receiver in the collector's place: it keeps every call as it came over the wire, and treats it as it is
//! told to, well or badly.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{self, HeaderValue},
};
use tokio::{net::TcpStream, time::sleep};

use crate::harness::{
    otlp,
    server::{Answer, Server},
};

/// What a receiver does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers so, with an empty response message.
    Answer(StatusCode),
    /// Answers so, and asks for a pause of so many seconds.
    AskForPause(StatusCode, u32),
    /// Takes nine tenths of a call's log records, and refuses the others for good.
    TakeInPart,
    /// Takes it after a while.
    Delay(Duration),
    /// Accepts the connection, reads the call, and never answers.
    Hang,
    /// Accepts the connection, and resets it.
    Reset,
    /// Takes the call, and resets the connection in the middle of its answer.
    ResetWithinAnswer,
}

impl Behaviour {
    /// Takes everything at once.
    pub const HEALTHY: Self = Self::Answer(StatusCode::OK);

    /// The status that the sender is told, or at least the beginning of whose answer it gets.
    fn status(self) -> Option<StatusCode> {
        match self {
            Self::Answer(status) | Self::AskForPause(status, _) => Some(status),
            Self::TakeInPart | Self::Delay(_) | Self::ResetWithinAnswer => Some(StatusCode::OK),
            Self::Hang | Self::Reset => None,
        }
    }
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
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
    /// How it was answered, even if the answer did not arrive; `None` if it was not.
    pub answer: Option<StatusCode>,
    /// Of a call that was taken in part: how many of its records, the first ones, were refused.
    pub refused: usize,
}

impl Call {
    /// A header's value, if there is one and it is ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Receiver {
    /// Starts it, in this process; it takes everything.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        let state = State { behaviour: Behaviour::HEALTHY, connections: 0, calls: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let server = Server::start(admission(&state), answering(&state)).await?;
        Ok(Self { server, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on, treats calls so.
    pub fn behave(&self, behaviour: Behaviour) {
        with(&self.state, |state| state.behaviour = behaviour);
    }

    /// From now on, connections are refused; the ones that are open are reset.
    pub async fn go_down(&mut self) {
        self.server.go_down().await;
    }

    /// The end of [`Receiver::go_down`].
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn come_back(&mut self) -> anyhow::Result<()> {
        self.server.come_back(admission(&self.state), answering(&self.state))
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        with(&self.state, |state| state.calls.clone())
    }

    /// All calls since the last time, which are not kept any more.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        with(&self.state, |state| std::mem::take(&mut state.calls))
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

fn admission(state: &Arc<Mutex<State>>) -> impl Fn(&TcpStream) -> bool + Send + use<> {
    let state = Arc::clone(state);
    move |stream| {
        // Whenever this side closes first, the other one gets a reset.
        let set = stream.set_zero_linger();
        with(&state, |state| {
            state.connections += 1;
            set.is_ok() && state.behaviour != Behaviour::Reset
        })
    }
}

fn answering(
    state: &Arc<Mutex<State>>,
) -> impl Fn(Request<Incoming>) -> futures_util::future::BoxFuture<'static, io::Result<Answer>>
+ Clone
+ Send
+ use<> {
    let state = Arc::clone(state);
    move |request| Box::pin(take(Arc::clone(&state), request))
}

async fn take(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let behaviour = with(&state, |state| state.behaviour);
    let mut call = Call {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body,
        answer: behaviour.status(),
        refused: 0,
    };
    if behaviour == Behaviour::TakeInPart && call.path.ends_with("/v1/logs") {
        let records = otlp::log_records(&call).map_err(io::Error::other)?.len();
        call.refused = records.div_ceil(10);
    }
    let message = otlp::response(call.refused);
    with(&state, |state| state.calls.push(call));
    match behaviour {
        Behaviour::Answer(status) => Ok(answer(status, message)),
        Behaviour::AskForPause(status, seconds) => {
            let mut answer = answer(status, message);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            Ok(answer)
        }
        Behaviour::TakeInPart => Ok(answer(StatusCode::OK, message)),
        Behaviour::Delay(pause) => {
            sleep(pause).await;
            Ok(answer(StatusCode::OK, message))
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Reset => Err(io::Error::other("reset, as told")),
        Behaviour::ResetWithinAnswer => Ok(half_an_answer()),
    }
}

fn answer(status: StatusCode, message: Vec<u8>) -> Answer {
    respond(status, Full::new(Bytes::from(message)).map_err(io::Error::other).boxed())
}

/// The head and a part of the body, and then a reset.
fn half_an_answer() -> Answer {
    let part = stream::once(async { Ok(Frame::data(Bytes::from_static(b"\x0a"))) });
    let end = stream::once(async {
        // A reset overtakes what was not read yet: without a pause, the other side would mostly see it alone.
        sleep(Duration::from_millis(20)).await;
        Err(io::Error::other("reset, as told"))
    });
    respond(StatusCode::OK, BoxBody::new(StreamBody::new(part.chain(end))))
}

fn respond(status: StatusCode, body: BoxBody<Bytes, io::Error>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    response
}
