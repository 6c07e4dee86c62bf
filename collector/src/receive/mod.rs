//! The door: OTLP over HTTP.
//!
//! In: `POST /v1/logs`, `/v1/metrics` and `/v1/traces`, protobuf, plain or gzip. Out: validated requests, to the queue;
//! and to the sender an acknowledgement after the request is on disk, or a refusal that says why and whether to try
//! again. Nothing is dropped here: what is not acknowledged is the sender's still, and data points and spans that are
//! not stored are told to it as a partial success.
//!
//! A request without records is acknowledged at once and leaves no trace, unless it has a batch id: then it takes the
//! whole way, since its sequence number would otherwise look lost.

pub mod admission;
pub mod refusal;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use tokio::sync::Semaphore;

use crate::auth::Token;
use crate::batch_id::{self, BatchId};
use crate::clock::now_unix_nano;
use crate::encoding::Encoding;
use crate::otlp::{Signal, Validated, logs, metrics, traces};
use crate::self_metrics::SelfMetrics;
use crate::store::inbox::Batch;
use crate::writer::Queue;

use admission::{Admission, Permit};

use refusal::{PROTOBUF, Refusal, protobuf};

/// How long the body of a refused request is read and thrown away at most, so that its sender gets to read the answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What the door needs.
#[derive(Debug)]
pub struct Door {
    /// Where requests go.
    pub queue: Queue,
    /// The bounds.
    pub admission: Arc<Admission>,
    /// Counts.
    pub metrics: Arc<SelfMetrics>,
    /// Who may come in.
    pub token: Token,
    /// The largest body, as it comes.
    pub max_request_bytes: usize,
    /// The largest body, after decompression.
    pub max_decompressed_bytes: usize,
    /// How long a body may take to come.
    pub body_timeout: Duration,
    /// How many requests are decompressed and checked at the same time: each may take a multiple of its size.
    pub decoders: Arc<Semaphore>,
}

/// What a request turned out to be. Its permit goes where its body goes: when the sender hangs up in the middle, the
/// bytes stay counted for as long as they are in memory.
#[derive(Debug)]
struct Checked {
    body: Bytes,
    permit: Permit,
    decoded_bytes: usize,
    /// How much of it is stored; and what is not, for the sender.
    validated: Validated,
}

/// The routes of the OTLP listener.
pub fn router(door: Arc<Door>) -> Router {
    Router::new().fallback(receive).with_state(door)
}

async fn receive(State(door): State<Arc<Door>>, request: Request) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    match door.accept(parts.uri.path(), &parts.method, &parts.headers, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            door.metrics.rejected_request(refusal.reason());
            tracing::debug!(path = parts.uri.path(), %refusal, "refused");
            door.discard(body).await;
            refusal.to_response()
        }
    }
}

impl Door {
    async fn accept(
        &self,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<Response<Body>, Refusal> {
        let signal = match path {
            "/v1/logs" => Signal::Logs,
            "/v1/metrics" => Signal::Metrics,
            "/v1/traces" => Signal::Traces,
            other => return Err(Refusal::NotFound(other.chars().take(100).collect())),
        };
        if method != Method::POST {
            return Err(Refusal::Method(method.as_str().chars().take(20).collect()));
        }
        if !self.token.allows(headers) {
            return Err(Refusal::Unauthorized);
        }
        check_media_type(headers.get(header::CONTENT_TYPE))?;
        let encoding = content_encoding(headers)?;
        let batch_id =
            headers.get(batch_id::HEADER).map(|value| BatchId::parse(value.as_bytes())).transpose()?;
        let mut permit = self.admit(headers)?;
        let body = self.read(body, &mut permit).await?;
        let bytes = body.len() as u64;
        permit.shrink_to(bytes);
        let names_sender = batch_id.as_ref().is_some_and(|id| batch_id::sender(id.as_str()).is_some());
        let checked = self.check(signal, encoding, names_sender, body, permit).await?;
        let validated = checked.validated.clone();
        if validated.accepted > 0 || batch_id.is_some() {
            self.enqueue(signal, batch_id, encoding, checked).await?;
        }
        self.metrics.accepted(signal, validated.accepted, bytes);
        Ok(self.acknowledge(signal, validated))
    }

    fn admit(&self, headers: &HeaderMap) -> Result<Permit, Refusal> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(length) if length > self.max_request_bytes as u64 => {
                Err(Refusal::TooLarge { limit: self.max_request_bytes })
            }
            // A body of unknown length (Envoy's compressor sends such) takes its room as it comes.
            length => self.admission.admit(length.unwrap_or(0)),
        }
    }

    async fn read(&self, body: &mut Body, permit: &mut Permit) -> Result<Bytes, Refusal> {
        let read = async {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Refusal::Body(error.to_string()))?;
                let Ok(data) = frame.into_data() else { continue };
                let length = bytes.len().saturating_add(data.len());
                if length > self.max_request_bytes {
                    return Err(Refusal::TooLarge { limit: self.max_request_bytes });
                }
                permit.cover(length as u64)?;
                bytes.extend_from_slice(&data);
            }
            Ok(bytes.freeze())
        };
        let slow = |_| Refusal::Slow { milliseconds: self.body_timeout.as_millis() };
        tokio::time::timeout(self.body_timeout, read).await.map_err(slow)?
    }

    /// Decompresses and decodes the request: what passes here can be decoded again when it is stored.
    async fn check(
        &self,
        signal: Signal,
        encoding: Encoding,
        names_sender: bool,
        body: Bytes,
        permit: Permit,
    ) -> Result<Checked, Refusal> {
        let decoders = Arc::clone(&self.decoders);
        let decoder = decoders.acquire_owned().await.map_err(|_| Refusal::ShuttingDown)?;
        let limit = self.max_decompressed_bytes;
        let work = move || {
            // Held until the work is done, even when nobody waits for it any more.
            let _decoder = decoder;
            let decoded = encoding.decode(&body, limit)?;
            let decoded_bytes = decoded.len();
            let validated = match signal {
                Signal::Logs => Validated { accepted: logs::validate(&decoded)?, ..Validated::default() },
                Signal::Metrics => metrics::validate(&decoded, names_sender)?,
                Signal::Traces => traces::validate(&decoded)?,
            };
            drop(decoded);
            Ok(Checked { body, permit, decoded_bytes, validated })
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    async fn enqueue(
        &self,
        signal: Signal,
        batch_id: Option<BatchId>,
        encoding: Encoding,
        checked: Checked,
    ) -> Result<(), Refusal> {
        let batch = Batch {
            signal,
            batch_id: batch_id.map(|batch_id| batch_id.as_str().to_owned()),
            received_unix_nano: now_unix_nano(),
            encoding,
            decoded_bytes: i64::try_from(checked.decoded_bytes).unwrap_or(i64::MAX),
            records: i64::try_from(checked.validated.accepted).unwrap_or(i64::MAX),
            body: checked.body.into(),
        };
        self.queue.enqueue(batch, checked.permit).await.map_err(Refusal::Unavailable)
    }

    /// OTLP's answer: all is stored, or how much is not and why.
    fn acknowledge(&self, signal: Signal, validated: Validated) -> Response<Body> {
        let Validated { unsupported, invalid, first_reason, .. } = validated;
        let rejected = i64::try_from(unsupported.saturating_add(invalid)).unwrap_or(i64::MAX);
        match signal {
            Signal::Logs => protobuf(StatusCode::OK, &ExportLogsServiceResponse::default()),
            Signal::Metrics => {
                self.metrics.rejected_points("unsupported", unsupported);
                self.metrics.rejected_points("invalid", invalid);
                let partial_success = first_reason.map(|error_message| ExportMetricsPartialSuccess {
                    rejected_data_points: rejected,
                    error_message,
                });
                protobuf(StatusCode::OK, &ExportMetricsServiceResponse { partial_success })
            }
            Signal::Traces => {
                self.metrics.rejected_spans(invalid);
                let partial_success = first_reason.map(|error_message| ExportTracePartialSuccess {
                    rejected_spans: rejected,
                    error_message,
                });
                protobuf(StatusCode::OK, &ExportTraceServiceResponse { partial_success })
            }
        }
    }

    /// Reads the rest of a refused body, up to a limit, and forgets it: closing the connection on a sender that still
    /// writes would destroy the answer on its way.
    async fn discard(&self, mut body: Body) {
        let mut left = self.max_request_bytes;
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        // Whether it came to its end does not matter.
        let _ = tokio::time::timeout(DISCARD_TIMEOUT.min(self.body_timeout), read).await;
    }
}

fn check_media_type(value: Option<&HeaderValue>) -> Result<(), Refusal> {
    let text = value.map_or("", |value| value.to_str().unwrap_or("(not ASCII)"));
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(PROTOBUF) {
        Ok(())
    } else {
        Err(Refusal::MediaType(essence.chars().take(100).collect()))
    }
}

fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
    let name = value.to_str().unwrap_or("(not ASCII)").trim();
    Encoding::from_name(name).ok_or_else(|| Refusal::Encoding(name.chars().take(100).collect()))
}
