//! One finished request, read from what was captured: typed values, and how it ended.
//!
//! [`crate::capture`] bytes come in; a [`FinishedRequest`] goes to [`crate::measure`] and [`crate::record`]. Every value
//! comes from outside: any of them may be missing or nonsense, and is then left out.

mod flags;
mod outcome;
mod vocabulary;

pub use flags::ResponseFlags;
pub use outcome::{ErrorType, Outcome, Severity};
pub use vocabulary::{GrpcStatus, Method, ProtocolVersion, Scheme, StreamKind};

use crate::capture::{AttributeValue, Captured, Field, NotAnAttribute, Plan};
use crate::route;

/// `envoy.config.core.v3.TrafficDirection.OUTBOUND`.
const OUTBOUND: i64 = 2;

/// A finished request. Text is as the host has it: any bytes.
#[derive(Debug)]
pub struct FinishedRequest<'c> {
    /// When it began, unix nanoseconds.
    pub start_unix_nano: u64,
    /// From its first byte to the end of the response, in nanoseconds.
    pub duration_nano: u64,
    /// When the proxy told of it, unix nanoseconds.
    pub ended_unix_nano: u64,
    /// The upstream's part: from the first byte sent to it to the last one received.
    pub upstream_duration_nano: Option<u64>,
    /// The method, of a bounded set.
    pub method: Method,
    /// The scheme, of a bounded set.
    pub scheme: Option<Scheme>,
    /// The HTTP version, of a bounded set.
    pub protocol_version: Option<ProtocolVersion>,
    /// Whether it was a gRPC call, by its content type.
    pub is_grpc: bool,
    /// Whether it left by an outbound listener: the proxy was the client then.
    pub is_outbound: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// The template that its path matches, once somebody has looked for it.
    pub route: Option<route::Match<'c>>,
    /// How many requests its record stands for.
    pub sample_weight: f64,
    plan: &'c Plan,
    captured: &'c Captured,
}

impl<'c> FinishedRequest<'c> {
    /// Reads what was captured, at `now_unix_nano`. It has no route yet, and stands for itself.
    pub fn read(plan: &'c Plan, captured: &'c Captured, now_unix_nano: u64) -> Self {
        let nano = |field| plan.int(captured, field).and_then(|value| u64::try_from(value).ok());
        // Without a start (no stream information at all) the request is taken to begin and end now.
        let start_unix_nano = nano(Field::StartTime).filter(|&start| start > 0).unwrap_or(now_unix_nano);
        let is_grpc = is_grpc(plan.bytes(captured, Field::ContentType));
        Self {
            start_unix_nano,
            ended_unix_nano: now_unix_nano,
            duration_nano: nano(Field::Duration)
                .unwrap_or_else(|| now_unix_nano.saturating_sub(start_unix_nano)),
            upstream_duration_nano: nano(Field::UpstreamDuration),
            method: Method::read(plan.bytes(captured, Field::Method)),
            scheme: Scheme::read(plan.bytes(captured, Field::Scheme)),
            protocol_version: ProtocolVersion::read(plan.bytes(captured, Field::Protocol)),
            is_grpc,
            is_outbound: plan.int(captured, Field::ListenerDirection) == Some(OUTBOUND),
            outcome: Outcome::new(
                plan.int(captured, Field::Status),
                // Envoy derives a gRPC status for every request; it says something about gRPC calls only.
                plan.int(captured, Field::GrpcStatus).filter(|_| is_grpc),
                ResponseFlags::from_bits(plan.int(captured, Field::Flags).unwrap_or(0) as u64),
            ),
            route: None,
            sample_weight: 1.0,
            plan,
            captured,
        }
    }

    /// A field's bytes as the host has them; empty when it has none.
    pub fn bytes(&self, field: Field) -> &'c [u8] {
        self.plan.bytes(self.captured, field)
    }

    /// A count; `None` when the host has none.
    pub fn count(&self, field: Field) -> Option<u64> {
        self.plan.int(self.captured, field).and_then(|value| u64::try_from(value).ok())
    }

    /// The value of the `index`th configured request header; empty when it was not there.
    pub fn request_header(&self, index: usize) -> &'c [u8] {
        self.plan.request_header(self.captured, index)
    }

    /// The value of the `index`th configured response header; empty when it was not there.
    pub fn response_header(&self, index: usize) -> &'c [u8] {
        self.plan.response_header(self.captured, index)
    }

    /// The value of the `index`th attribute that the user has named; `None` when the request lacks it.
    ///
    /// # Errors
    /// When it is no value that an attribute can have.
    pub fn attribute(&self, index: usize) -> Result<Option<AttributeValue<'c>>, NotAnAttribute> {
        self.plan.attribute(self.captured, index)
    }

    /// How many attributes that the user has named have failed: could not be evaluated, or are no attribute's values.
    pub fn failed_attributes(&self) -> u64 {
        let unusable = (0..self.plan.attributes()).filter(|&index| self.attribute(index).is_err()).count();
        self.captured.failed() + unusable as u64
    }

    /// The path and, if there is one, the query; a fragment belongs to neither.
    pub fn path_and_query(&self) -> (&'c [u8], Option<&'c [u8]>) {
        let whole = self.bytes(Field::Path);
        let whole = whole.split(|&byte| byte == b'#').next().unwrap_or_default();
        match whole.iter().position(|&byte| byte == b'?') {
            Some(at) => (whole.get(..at).unwrap_or_default(), whole.get(at + 1..)),
            None => (whole, None),
        }
    }

    /// What kind of stream it was, if it was no exchange of one request for one response.
    pub fn stream_kind(&self) -> Option<StreamKind> {
        StreamKind::of(self.method, self.outcome.status)
    }

    /// The `x-request-id` header.
    pub fn request_id(&self) -> &'c [u8] {
        self.bytes(Field::RequestId)
    }

    /// The `tracestate` header, where it was asked for.
    pub fn tracestate(&self) -> &'c [u8] {
        self.bytes(Field::Tracestate)
    }

    /// The trace and span ids and the trace flags of `traceparent`, if it is a valid one.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::read(self.bytes(Field::Traceparent))
    }
}

/// The ids of a `traceparent` header. Source: W3C Trace Context, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id, not all zero.
    pub trace_id: [u8; 16],
    /// The parent span's id, not all zero.
    pub span_id: [u8; 8],
    /// The trace flags.
    pub flags: u8,
}

impl TraceContext {
    fn read(header: &[u8]) -> Option<Self> {
        let (version, rest) = (hex::<1>(header.get(..2)?)?, header.get(2..)?);
        // Later versions may append fields, version 00 may not, and ff is no version.
        let ends_right = match version {
            [0] => rest.len() == 53,
            [0xff] => false,
            _ => rest.len() == 53 || rest.get(53) == Some(&b'-'),
        };
        let dashes = [0, 33, 50].iter().all(|&at| rest.get(at) == Some(&b'-'));
        if !ends_right || !dashes {
            return None;
        }
        let trace_id = hex(rest.get(1..33)?)?;
        let span_id = hex(rest.get(34..50)?)?;
        let [flags] = hex(rest.get(51..53)?)?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, flags })
    }
}

/// Lower-case hexadecimal digits, as the specification demands.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// `application/grpc`, alone or with a suffix (gRPC over HTTP/2, "Requests").
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';' | b' ')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_has_ids() {
        let valid = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::read(valid).unwrap();
        assert_eq!(context.trace_id, 0x4bf92f3577b34da6a3ce929d0e0e4736u128.to_be_bytes());
        assert_eq!(context.span_id, 0x00f067aa0ba902b7u64.to_be_bytes());
        assert_eq!(context.flags, 1);
        assert!(
            TraceContext::read(b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some()
        );
        for wrong in [
            &b""[..],
            b"00",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"\xff\xfe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::read(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/json", "application/grpc-web", "application/grpcx"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }
}
