//! Requests as a test describes them, and how they end.
//!
//! `get("/cart/1").header("traceparent", "…")` is an ordinary request that reached its upstream; everything about it can
//! be changed. [`Exchange`] lets it end: with a response, or without.

use std::time::Duration;

use wasmtime::Result;

use crate::proxy::Proxy;
use crate::stream_info::{Headers, StreamInfo, Upstream};

/// How far into the proxy a request came: what an HTTP filter sees of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Its client went away before its headers were complete: no filter ever heard of it.
    Nothing,
    /// The codec or a filter before the plugin answered it: the plugin hears of it only when it is logged.
    LocalReply,
    /// It passed the plugin.
    #[default]
    Plugin,
}

/// A request, as far as it does not depend on how it ended.
#[derive(Clone, Debug)]
#[must_use]
pub struct Request {
    pub(crate) info: StreamInfo,
    pub(crate) reached: Reached,
}

/// A `GET` of `path`.
pub fn get(path: impl AsRef<[u8]>) -> Request {
    Request::new("GET", path)
}

/// A `POST` to `path`.
pub fn post(path: impl AsRef<[u8]>) -> Request {
    Request::new("POST", path)
}

impl Request {
    /// A request that took 12 ms, 9 ms of them in the upstream.
    pub fn new(method: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Self {
        let mut headers = Headers::default();
        headers.append(":authority", "shop.example");
        headers.append(":path", path);
        headers.append(":method", method);
        headers.append(":scheme", "http");
        let upstream = Upstream {
            address: Some(b"10.0.1.5:9000".to_vec()),
            port: Some(9000),
            local_address: Some(b"10.0.0.1:52114".to_vec()),
            ..Upstream::default()
        };
        let info = StreamInfo {
            request_headers: Some(headers),
            duration: Some(Duration::from_millis(12)),
            protocol: Some(b"HTTP/1.1".to_vec()),
            response_code_details: Some(b"via_upstream".to_vec()),
            backend_latency: Some(Duration::from_millis(9)),
            source_address: b"10.0.0.7:40312".to_vec(),
            source_port: Some(40312),
            destination_address: b"10.0.0.1:8080".to_vec(),
            destination_port: Some(8080),
            connection_id: Some(1),
            upstream: Some(upstream),
            attempt_count: 1,
            cluster_name: Some(b"shop".to_vec()),
            route_name: Some(Vec::new()),
            virtual_host_name: Some(b"shop".to_vec()),
            ..StreamInfo::default()
        };
        Self { info, reached: Reached::default() }
    }

    /// A request that the codec refused, such as one of an unknown method: nothing is known but that it came.
    pub fn malformed() -> Self {
        const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
        let mut info = Self::without_headers("http1.codec_error", DOWNSTREAM_PROTOCOL_ERROR);
        info.bytes_sent = 11;
        let reply = [
            ("content-length", "11"),
            ("content-type", "text/plain"),
            ("date", "Sun, 01 Jun 2025 12:00:00 GMT"),
            ("server", "envoy"),
            ("connection", "close"),
        ];
        info.response_headers = Some(reply.into_iter().collect());
        Self { info, reached: Reached::LocalReply }
    }

    /// A request whose client went away before its headers were complete: an access logger hears of it.
    pub fn abandoned() -> Self {
        const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
        let info = Self::without_headers("downstream_remote_disconnect", DOWNSTREAM_CONNECTION_TERMINATION);
        Self { info, reached: Reached::Nothing }
    }

    fn without_headers(details: &str, flags: u64) -> StreamInfo {
        StreamInfo {
            duration: Some(Duration::from_micros(80)),
            protocol: Some(b"HTTP/1.1".to_vec()),
            response_code_details: Some(details.into()),
            response_flags: flags,
            source_address: b"10.0.0.7:40312".to_vec(),
            source_port: Some(40312),
            destination_address: b"10.0.0.1:8080".to_vec(),
            destination_port: Some(8080),
            connection_id: Some(1),
            ..StreamInfo::default()
        }
    }

    /// Adds a request header.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.info.request_headers.get_or_insert_default().append(name, value);
        self
    }

    /// Replaces a request header.
    pub fn set_header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.info.request_headers.get_or_insert_default().set(name, value);
        self
    }

    /// Adds a header to the response.
    pub fn response_header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.info.response_headers.get_or_insert_default().append(name, value);
        self
    }

    /// Adds a trailer to the response.
    pub fn response_trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.info.response_trailers.get_or_insert_default().append(name, value);
        self
    }

    /// Says how long it took; the upstream's part stays what it was, up to that.
    pub fn took(mut self, duration: Duration) -> Self {
        self.info.duration = Some(duration);
        self.info.backend_latency = self.info.backend_latency.map(|latency| latency.min(duration));
        self
    }

    /// Says that a filter before the plugin answered it, with Envoy's reason.
    pub fn answered_early(mut self, details: impl AsRef<[u8]>) -> Self {
        self.reached = Reached::LocalReply;
        self.without_upstream(details)
    }

    /// Says that it came to no upstream, with Envoy's reason.
    pub fn without_upstream(mut self, details: impl AsRef<[u8]>) -> Self {
        self.info.upstream = None;
        self.info.backend_latency = None;
        self.info.attempt_count = 0;
        self.info.response_code_details = Some(details.as_ref().to_vec());
        self
    }

    /// Sets Envoy's response flags, a bit mask.
    pub fn flags(mut self, flags: u64) -> Self {
        self.info.response_flags = flags;
        self
    }

    /// Says how many body bytes were received and sent.
    pub fn bytes(mut self, received: u64, sent: u64) -> Self {
        self.info.bytes_received = received;
        self.info.bytes_sent = sent;
        self
    }

    /// Changes whatever there is no method for.
    pub fn with(mut self, change: impl FnOnce(&mut StreamInfo)) -> Self {
        change(&mut self.info);
        self
    }
}

/// A request that is about to end.
#[must_use = "a request counts only when it has ended"]
pub struct Exchange<'a> {
    proxy: &'a mut Proxy,
    request: Request,
    worker: usize,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(proxy: &'a mut Proxy, request: Request) -> Self {
        Self { proxy, request, worker: 0 }
    }

    /// Has that worker handle it; the first one does otherwise.
    pub fn on_worker(mut self, worker: usize) -> Self {
        self.worker = worker;
        self
    }

    /// It ends with a response of that status.
    ///
    /// # Errors
    /// When the plugin traps or holds the request up, or there is no such worker.
    pub fn respond(mut self, status: u16) -> Result<()> {
        let info = &mut self.request.info;
        info.response_code = Some(status);
        info.response_headers.get_or_insert_default().set(":status", status.to_string());
        self.proxy.finish_request(self.worker, self.request)
    }

    /// It ends without a response, as when the client goes away.
    ///
    /// # Errors
    /// When the plugin traps or holds the request up, or there is no such worker.
    pub fn reset(mut self) -> Result<()> {
        let info = &mut self.request.info;
        info.response_code = None;
        info.response_headers = None;
        info.response_trailers = None;
        self.proxy.finish_request(self.worker, self.request)
    }
}
