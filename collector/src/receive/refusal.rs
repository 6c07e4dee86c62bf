//! Why a request is refused, and what the answer says.
//!
//! In: a reason. Out: OTLP's answer to it: the status that makes a sender retry or not, `Retry-After` where it should,
//! and a protobuf `google.rpc.Status` whose message is for people. What is refused is not acknowledged, so that
//! nothing is lost here: it is the sender's still.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use prost::Message;

use crate::batch_id::InvalidBatchId;
use crate::encoding::DecodeError;
use crate::otlp::Malformed;

/// The media type of OTLP's requests and answers.
pub const PROTOBUF: &str = "application/x-protobuf";

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such path.
    #[error("nothing is received at `{0}`: /v1/logs, /v1/metrics and /v1/traces are")]
    NotFound(String),
    /// Not a POST.
    #[error("method `{0}` is not allowed: POST is")]
    Method(String),
    /// The token is missing or wrong.
    #[error("the bearer token is missing or wrong")]
    Unauthorized,
    /// Not protobuf.
    #[error("content type `{0}` is not supported: only {PROTOBUF} is")]
    MediaType(String),
    /// An unknown compression.
    #[error("content encoding `{0}` is not supported: gzip and identity are")]
    Encoding(String),
    /// The batch id is not one.
    #[error(transparent)]
    BatchId(#[from] InvalidBatchId),
    /// The body is larger than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// The body does not decompress within its limit, or not at all.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The body is not the OTLP message that it should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The body did not come to its end.
    #[error("the body could not be read to its end: {0}")]
    Body(String),
    /// The body did not come in time.
    #[error("the body did not come within {milliseconds} ms")]
    Slow {
        /// How long was waited.
        milliseconds: u128,
    },
    /// Too much is being received at once.
    #[error("{bytes} bytes are being received already")]
    Busy {
        /// How much.
        bytes: u64,
    },
    /// The queue is at its watermark.
    #[error("the queue is full: {bytes} bytes are waiting, at most {limit} may")]
    QueueFull {
        /// How much waits.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The disk is at its watermark.
    #[error("the disk is full: {free} bytes are free, at least {limit} must be")]
    DiskFull {
        /// How much is free.
        free: u64,
        /// What is needed.
        limit: u64,
    },
    /// The database does not take it now.
    #[error("{0}")]
    Unavailable(String),
    /// The collector is going down.
    #[error("the collector is shutting down")]
    ShuttingDown,
}

/// `google.rpc.Status`, without the details that nobody sends.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl Refusal {
    /// The answer's status. Senders retry 503 and no other of these.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind().0
    }

    /// The label in `/metrics`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.kind().1
    }

    /// How many seconds a sender should wait, for refusals that pass.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            // What went wrong on the way may come whole the next time.
            Self::Body(_) | Self::Slow { .. } | Self::Busy { .. } | Self::ShuttingDown => Some(1),
            Self::QueueFull { .. } | Self::DiskFull { .. } | Self::Unavailable(_) => Some(5),
            _ => None,
        }
    }

    /// Status, label, and gRPC's code for the body.
    fn kind(&self) -> (StatusCode, &'static str, i32) {
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const RESOURCE_EXHAUSTED: i32 = 8;
        const UNIMPLEMENTED: i32 = 12;
        const UNAVAILABLE: i32 = 14;
        const UNAUTHENTICATED: i32 = 16;
        match self {
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", NOT_FOUND),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method", UNIMPLEMENTED),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", UNAUTHENTICATED),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", UNIMPLEMENTED),
            Self::Encoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", UNIMPLEMENTED),
            Self::BatchId(_) => (StatusCode::BAD_REQUEST, "batch_id", INVALID_ARGUMENT),
            Self::TooLarge { .. }
            | Self::Decode(DecodeError::TooLarge { .. })
            | Self::Malformed(Malformed::TooMany) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large", RESOURCE_EXHAUSTED)
            }
            Self::Decode(DecodeError::Gzip(_)) => (StatusCode::BAD_REQUEST, "gzip", INVALID_ARGUMENT),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed", INVALID_ARGUMENT),
            Self::Body(_) => (StatusCode::SERVICE_UNAVAILABLE, "body", UNAVAILABLE),
            Self::Slow { .. } => (StatusCode::SERVICE_UNAVAILABLE, "slow", UNAVAILABLE),
            Self::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy", UNAVAILABLE),
            Self::QueueFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "queue_full", UNAVAILABLE),
            Self::DiskFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "disk_full", UNAVAILABLE),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", UNAVAILABLE),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down", UNAVAILABLE),
        }
    }

    /// The answer.
    #[must_use]
    pub fn to_response(&self) -> Response<Body> {
        let (status, _, code) = self.kind();
        let mut response = protobuf(status, &Status { code, message: self.to_string() });
        let mut add = |name, value| drop(response.headers_mut().insert(name, value));
        if let Some(seconds) = self.retry_after_seconds() {
            add(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::Method(_) => add(header::ALLOW, HeaderValue::from_static("POST")),
            Self::Unauthorized => add(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => {}
        }
        response
    }
}

/// A protobuf answer.
pub fn protobuf(status: StatusCode, message: &impl Message) -> Response<Body> {
    let mut response = Response::new(Body::from(message.encode_to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}
