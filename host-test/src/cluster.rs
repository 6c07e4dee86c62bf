//! The clusters that the plugin calls, the calls under way to them, and the ways in which Envoy answers a call.
//!
//! In comes `proxy_http_call`; the test answers through [`Cluster`], or says once with [`Cluster::serve`] how each call
//! is to be answered.

use std::collections::BTreeMap;
use std::time::Duration;

use wasmtime::{Result, format_err};

use crate::abi::Status;
use crate::proxy::Proxy;
use crate::stream_info::Headers;
use crate::vm::after_ms;
use crate::world::{Clock, VmRole};

/// A call that the plugin made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The machine that made it.
    pub vm: VmRole,
    /// The cluster that it went to.
    pub cluster: String,
    /// The headers, those that Envoy adds (`content-length`) included.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// After how long Envoy gives up; absent for never.
    pub timeout: Option<Duration>,
    /// When it was made, in ns since 1970.
    pub sent_unix_nanos: u64,
    /// Its number among all calls of the proxy.
    pub number: u64,
    pub(crate) sender: Sender,
    due: Option<(u64, Answer)>,
}

/// Who made a call, and how it knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) role: VmRole,
    /// The machine's number among all that the proxy has started: another one may take its place.
    pub(crate) machine: u64,
    pub(crate) root: u32,
    pub(crate) token: u32,
}

impl Call {
    /// The first value of a header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The `:path`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.header(":path").unwrap_or_default()
    }
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a response.
    Response {
        /// Among them `:status`.
        headers: Headers,
        /// The whole body.
        body: Vec<u8>,
        /// The trailers, if any.
        trailers: Option<Headers>,
    },
    /// Without headers: the upstream reset the stream in mid-response, or sent more than Envoy buffers.
    Reset,
}

impl Answer {
    /// A response of that status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Response {
            headers: [(":status", status.to_string())].into_iter().collect(),
            body: Vec::new(),
            trailers: None,
        }
    }

    /// Envoy's own answer when a call takes longer than its timeout.
    #[must_use]
    pub fn timeout() -> Self {
        Self::local_reply(504, "upstream request timeout")
    }

    /// Envoy's own answer when the upstream refuses the connection.
    #[must_use]
    pub fn connection_refused() -> Self {
        Self::local_reply(
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
             transport failure reason: delayed connect error: Connection refused",
        )
    }

    /// Envoy's own answer when the upstream ends the connection before it has answered.
    #[must_use]
    pub fn connection_terminated() -> Self {
        Self::local_reply(
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        )
    }

    fn local_reply(status: u16, text: &str) -> Self {
        Self::status(status)
            .header("content-length", text.len().to_string())
            .header("content-type", "text/plain")
            .with_body(text)
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if let Self::Response { headers, .. } = &mut self {
            headers.append(name, value);
        }
        self
    }

    /// Gives the response a body.
    #[must_use]
    pub fn with_body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        if let Self::Response { body, .. } = &mut self {
            *body = bytes.as_ref().to_vec();
        }
        self
    }

    pub(crate) fn headers(&self) -> Option<&Headers> {
        match self {
            Self::Response { headers, .. } => Some(headers),
            Self::Reset => None,
        }
    }

    pub(crate) fn body(&self) -> Option<&[u8]> {
        match self {
            Self::Response { body, .. } => Some(body),
            Self::Reset => None,
        }
    }

    pub(crate) fn trailers(&self) -> Option<&Headers> {
        match self {
            Self::Response { trailers, .. } => trailers.as_ref(),
            Self::Reset => None,
        }
    }
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}

/// One of the proxy's clusters, to drive and to observe.
pub struct Cluster<'a> {
    proxy: &'a mut Proxy,
    name: String,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(proxy: &'a mut Proxy, name: &str) -> Self {
        Self { proxy, name: name.to_owned() }
    }

    /// The calls under way, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Call> {
        self.proxy.world.clusters.pending.iter().filter(|call| call.cluster == self.name).cloned().collect()
    }

    /// Answers the oldest call under way, and returns that call.
    ///
    /// # Errors
    /// When there is none, or the plugin traps over the answer.
    pub fn answer(&mut self, answer: impl Into<Answer>) -> Result<Call> {
        let number = self.pending().first().map(|call| call.number);
        let number = number.ok_or_else(|| format_err!("no call to cluster `{}` is under way", self.name))?;
        self.answer_call(number, answer)
    }

    /// Answers the call of that number, and returns it.
    ///
    /// # Errors
    /// When it is not under way, or the plugin traps over the answer.
    pub fn answer_call(&mut self, number: u64, answer: impl Into<Answer>) -> Result<Call> {
        self.proxy.answer_call(number, answer.into())
    }

    /// Answers all calls under way, those that the answers bring about included, and returns them.
    ///
    /// # Errors
    /// When the plugin traps, or goes on calling for ever.
    pub fn answer_all(&mut self, answer: impl Into<Answer>) -> Result<Vec<Call>> {
        const LIMIT: usize = 100_000;
        let answer = answer.into();
        let mut answered = Vec::new();
        while !self.pending().is_empty() {
            if answered.len() == LIMIT {
                return Err(format_err!(
                    "after {LIMIT} answers there still are calls to cluster `{}`",
                    self.name
                ));
            }
            answered.push(self.answer(answer.clone())?);
        }
        Ok(answered)
    }

    /// From now on answers each new call so, that long after it was made.
    pub fn serve(&mut self, answer: impl Into<Answer>, latency: Duration) {
        let state = self.proxy.world.clusters.known.entry(self.name.clone()).or_default();
        state.serve = Some((answer.into(), latency));
    }

    /// From now on answers nothing of its own accord.
    pub fn stop_serving(&mut self) {
        self.proxy.world.clusters.known.entry(self.name.clone()).or_default().serve = None;
    }

    /// Takes all endpoints away: a call is refused at once with `InternalFailure`.
    pub fn remove_endpoints(&mut self) {
        self.proxy.world.clusters.known.entry(self.name.clone()).or_default().without_endpoints = true;
    }

    /// Gives the endpoints back.
    pub fn restore_endpoints(&mut self) {
        self.proxy.world.clusters.known.entry(self.name.clone()).or_default().without_endpoints = false;
    }

    /// Adds the cluster, where it is not there (any more).
    pub fn add(&mut self) {
        self.proxy.world.clusters.known.entry(self.name.clone()).or_default();
    }

    /// Removes the cluster: a call is refused at once with `BadArgument`.
    pub fn remove(&mut self) {
        self.proxy.world.clusters.known.remove(&self.name);
    }
}

/// All clusters and calls.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    pub(crate) known: BTreeMap<String, ClusterState>,
    pub(crate) pending: Vec<Call>,
    pub(crate) made: BTreeMap<VmRole, u64>,
    last_number: u64,
}

/// How a cluster treats new calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterState {
    without_endpoints: bool,
    serve: Option<(Answer, Duration)>,
}

impl Clusters {
    /// Takes a call, or refuses it as Envoy does.
    pub(crate) fn dispatch(
        &mut self,
        sender: Sender,
        cluster: &[u8],
        mut headers: Headers,
        body: Vec<u8>,
        timeout_ms: u32,
        clock: Clock,
    ) -> Result<(), Status> {
        let cluster = String::from_utf8_lossy(cluster).into_owned();
        let state = self.known.get(&cluster).ok_or(Status::BadArgument)?;
        if [":method", ":path", ":authority"].iter().any(|name| headers.get(name).is_none()) {
            return Err(Status::BadArgument);
        }
        if state.without_endpoints {
            return Err(Status::InternalFailure);
        }
        if !body.is_empty() {
            headers.set("content-length", body.len().to_string());
        }
        let now = clock.uptime_nanos;
        let timeout = (timeout_ms > 0).then(|| (after_ms(now, timeout_ms.into()), Answer::timeout()));
        let served = state.serve.clone().map(|(answer, latency)| {
            (now.saturating_add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)), answer)
        });
        let due = match (served, timeout) {
            (Some(served), Some(timeout)) if timeout.0 < served.0 => Some(timeout),
            (served, timeout) => served.or(timeout),
        };
        self.last_number = self.last_number.saturating_add(1);
        *self.made.entry(sender.role).or_default() += 1;
        self.pending.push(Call {
            vm: sender.role,
            cluster,
            headers,
            body,
            timeout: (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into())),
            sent_unix_nanos: clock.unix_nanos,
            number: self.last_number,
            sender,
            due,
        });
        Ok(())
    }

    /// Drops the calls of a machine, or of one of its root contexts: nobody will hear of their answers.
    pub(crate) fn cancel(&mut self, machine: u64, root: Option<u32>) {
        self.pending.retain(|Call { sender, .. }| {
            sender.machine != machine || root.is_some_and(|root| sender.root != root)
        });
    }

    /// Takes the call of that number out.
    pub(crate) fn take(&mut self, number: u64) -> Option<Call> {
        let index = self.pending.iter().position(|call| call.number == number)?;
        Some(self.pending.remove(index))
    }

    /// The call that ends next by itself: when, which, and how. `not_before` says of a machine's number until when it
    /// hears of nothing.
    pub(crate) fn next_due(&self, not_before: impl Fn(u64) -> u64) -> Option<(u64, u64, Answer)> {
        let due = self.pending.iter().filter_map(|call| {
            let (at, answer) = call.due.as_ref()?;
            Some(((*at).max(not_before(call.sender.machine)), call.number, answer))
        });
        due.min_by_key(|(at, number, _)| (*at, *number))
            .map(|(at, number, answer)| (at, number, answer.clone()))
    }
}
