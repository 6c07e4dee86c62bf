//! Reading OTLP (opentelemetry-proto 1.11) without building the whole request in memory.
//!
//! In: the protobuf bytes of an `ExportLogsServiceRequest`, `ExportMetricsServiceRequest` or `ExportTraceServiceRequest`.
//! Out: a visitor sees each resource, scope and then record, data point or span in turn. Prost decodes one resource,
//! scope, record, point or span at a time: two bytes on the wire can become a struct of hundreds of bytes, so that
//! decoding 64 MiB as one message could take gigabytes. Nothing is dropped here: bytes that are not OTLP are an error
//! for the whole request.

pub mod dead;
pub mod dialect;
pub mod drops;
pub mod exemplars;
pub mod logs;
pub mod metrics;
pub mod traces;
pub mod value;
pub mod wire;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

/// The largest resource, scope, log record, data point or span that is decoded.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The most records, data points or spans that one request may carry.
pub const MAX_RECORDS_PER_REQUEST: u64 = 131_072;

/// What a request carries; the names are the last part of OTLP's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Log records, `/v1/logs`.
    Logs,
    /// Metric data points, `/v1/metrics`.
    Metrics,
    /// Spans, `/v1/traces`.
    Traces,
}

impl Signal {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Metrics, Self::Traces];

    /// The name in the store, in labels and in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// The signal of a name that [`Signal::as_str`] gave.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

/// Why bytes are not the OTLP message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The framing of a message is broken.
    #[error("{message}: {reason}")]
    Wire {
        /// The OTLP message that was read.
        message: &'static str,
        /// What was wrong with it.
        reason: String,
    },
    /// A part that cannot be set aside alone is larger than [`MAX_MESSAGE_BYTES`].
    #[error("{message} of {bytes} bytes: at most {MAX_MESSAGE_BYTES} are allowed")]
    TooLarge {
        /// The OTLP message that was read.
        message: &'static str,
        /// Its size on the wire.
        bytes: usize,
    },
    /// The request carries more than [`MAX_RECORDS_PER_REQUEST`].
    #[error("more than {MAX_RECORDS_PER_REQUEST} records in one request: send smaller batches")]
    TooMany,
}

/// What a request holds, found without storing it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validated {
    /// Records, points or spans that will be stored.
    pub accepted: u64,
    /// Points of kinds that are not stored, or that are stored by sender and name none.
    pub unsupported: u64,
    /// Points and spans that contradict OTLP or themselves.
    pub invalid: u64,
    /// Why the first of the refused ones was.
    pub first_reason: Option<String>,
}

impl Validated {
    /// Refuses a request that carries more than [`MAX_RECORDS_PER_REQUEST`].
    ///
    /// # Errors
    /// [`Malformed::TooMany`].
    fn check_number(&self) -> Result<(), Malformed> {
        match self.accepted.saturating_add(self.unsupported).saturating_add(self.invalid) {
            records if records > MAX_RECORDS_PER_REQUEST => Err(Malformed::TooMany),
            _ => Ok(()),
        }
    }
}

impl ScopeVisitor for Validated {
    type Error = Malformed;
}

/// Sees what requests of any signal have around their records, points and spans: resources, and in them scopes.
pub trait ScopeVisitor {
    /// What makes the walk stop.
    type Error: From<Malformed>;
    /// The resource of all that follows.
    ///
    /// # Errors
    /// Stops the walk.
    fn resource(&mut self, _: Resource) -> Result<(), Self::Error> {
        Ok(())
    }
    /// The scope of all that follows.
    ///
    /// # Errors
    /// Stops the walk.
    fn scope(&mut self, _: InstrumentationScope) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The names, in errors, of a request and of its two levels of nesting. The fields have the same numbers in all signals.
struct Levels {
    request: &'static str,
    resource: &'static str,
    scope: &'static str,
}

/// Walks down to the encoded records, metrics or spans of each scope.
fn walk_scopes<V: ScopeVisitor>(
    levels: &Levels,
    request: &[u8],
    visitor: &mut V,
    mut item: impl FnMut(&mut V, &[u8]) -> Result<(), V::Error>,
) -> Result<(), V::Error> {
    for in_resource in wire::messages(levels.request, request, 1) {
        let in_resource = in_resource?;
        visitor.resource(embedded("Resource", in_resource, 1)?)?;
        for in_scope in wire::messages(levels.resource, in_resource, 2) {
            let in_scope = in_scope?;
            visitor.scope(embedded("InstrumentationScope", in_scope, 1)?)?;
            for bytes in wire::messages(levels.scope, in_scope, 2) {
                item(visitor, bytes?)?;
            }
        }
    }
    Ok(())
}

/// Decodes one message of at most [`MAX_MESSAGE_BYTES`].
///
/// # Errors
/// [`Malformed`], naming `message`.
pub fn decode<M: Message + Default>(message: &'static str, bytes: &[u8]) -> Result<M, Malformed> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Malformed::TooLarge { message, bytes: bytes.len() });
    }
    M::decode(bytes).map_err(|error| Malformed::Wire { message, reason: error.to_string() })
}

/// The embedded message `tag` of `parent`, or its default when it is absent.
fn embedded<M: Message + Default>(message: &'static str, parent: &[u8], tag: u32) -> Result<M, Malformed> {
    let mut value = M::default();
    for bytes in wire::messages(message, parent, tag) {
        let bytes = bytes?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed::TooLarge { message, bytes: bytes.len() });
        }
        // A field that comes twice is merged, as protobuf has it.
        value.merge(bytes).map_err(|error| Malformed::Wire { message, reason: error.to_string() })?;
    }
    Ok(value)
}
