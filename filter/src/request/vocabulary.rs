//! Values of bounded sets: whatever a client sends, a series key has only these.

/// A method that OpenTelemetry's semantic conventions know; all others are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Query,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110, section 9.1).
    pub fn read(bytes: &[u8]) -> Self {
        match bytes {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            b"QUERY" => Self::Query,
            _ => Self::Other,
        }
    }

    /// The value of `http.request.method`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Query => "QUERY",
            Self::Other => "_OTHER",
        }
    }
}

/// A stream that lasts as long as its two ends like, so that its duration says nothing of how fast anybody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Another protocol took over: WebSocket and the like. Envoy says 101 for these whatever version of HTTP it spoke.
    Upgrade,
    /// A tunnel: `CONNECT`.
    Tunnel,
}

impl StreamKind {
    /// What a request became that was answered so; one that was refused became none.
    pub fn of(method: Method, status: Option<u16>) -> Option<Self> {
        match (method, status) {
            (_, Some(101)) => Some(Self::Upgrade),
            (Method::Connect, Some(200..300)) => Some(Self::Tunnel),
            _ => None,
        }
    }

    /// The value of `offpath.stream.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Tunnel => "tunnel",
        }
    }
}

/// The scheme of a request; any other is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// Schemes are case-insensitive (RFC 3986, section 3.1).
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if bytes.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }

    /// The value of `url.scheme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The version of HTTP, as Envoy names its codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum ProtocolVersion {
    Http10,
    Http11,
    Http2,
    Http3,
}

impl ProtocolVersion {
    /// Reads Envoy's `request.protocol`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"HTTP/1.0" => Some(Self::Http10),
            b"HTTP/1.1" => Some(Self::Http11),
            b"HTTP/2" => Some(Self::Http2),
            b"HTTP/3" => Some(Self::Http3),
            _ => None,
        }
    }

    /// The value of `network.protocol.version`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
            Self::Http3 => "3",
        }
    }
}

/// A gRPC status code; what is not one of the seventeen is `UNKNOWN`, as gRPC itself reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    const NAMES: [&'static str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// Reads a status code.
    pub fn from_code(code: i64) -> Self {
        Self(u8::try_from(code).ok().filter(|&code| usize::from(code) < Self::NAMES.len()).unwrap_or(2))
    }

    /// Whether the call succeeded.
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// The value of `rpc.response.status_code`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.get(usize::from(self.0)).copied().unwrap_or("UNKNOWN")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_agreed_to_is_a_stream() {
        for (method, status, kind) in [
            (Method::Get, Some(101), Some("upgrade")),
            (Method::Connect, Some(101), Some("upgrade")),
            (Method::Connect, Some(200), Some("tunnel")),
            (Method::Connect, Some(503), None),
            (Method::Connect, None, None),
            (Method::Get, Some(200), None),
            (Method::Get, Some(426), None),
        ] {
            assert_eq!(StreamKind::of(method, status).map(StreamKind::as_str), kind, "{method:?} {status:?}");
        }
    }
}
