//! The plugin's configuration: JSON or an encoded `Struct` in, a checked [`Config`] or one [`ConfigError`] out.
//!
//! Strict: an unknown key, a wrong type or a value out of range is an error that names the key's path, the value and
//! what is allowed. Text that is not JSON and anything under `collector.headers` never appears in an error.
//! Goes to every other module; nothing is dropped here.

mod expression;
mod json;
mod protobuf_struct;
mod read;
mod section;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use expression::{Expression, Step};
use section::Section;

/// Why a configuration was rejected: one line, in lower case, safe to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// One line: what was wrong, where, which value, what is allowed.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What the user asked for. Every field is within its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where batches go, and how.
    pub collector: Collector,
    /// Resource attributes of everything that is sent.
    pub resource: BTreeMap<String, String>,
    /// Log records.
    pub logs: Logs,
    /// Latency histograms.
    pub metrics: Metrics,
    /// Path templates, in the user's order.
    pub routes: Vec<Route>,
    /// What must not be told, besides the built-in lists.
    pub redact: Redact,
    /// When a batch is sealed.
    pub batch: Batch,
    /// What sealed batches may occupy.
    pub queue: Queue,
    /// How long a batch is tried.
    pub retry: Retry,
}

/// `collector.*`: where batches go, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Collector {
    /// The Envoy cluster that takes the calls.
    pub cluster: String,
    /// `:authority` of the calls.
    pub authority: String,
    /// What stands before `/v1/logs`, without a slash at its end.
    pub path_prefix: String,
    /// Headers added to each call, names in lower case. The values may be secrets.
    pub headers: Vec<(String, String)>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How many calls may be under way at once.
    pub max_in_flight: usize,
}

/// `logs.*`: log records.
#[derive(Debug, Clone, PartialEq)]
pub struct Logs {
    /// Whether there are log records at all.
    pub enabled: bool,
    /// The share of ordinary requests whose records are kept: 0 to 1.
    pub sample_ratio: f64,
    /// What the decision follows.
    pub sample_by: SampleBy,
    /// Whether the records of all failed requests are kept.
    pub keep_errors: bool,
    /// How long a request must take for its record to be kept in any case.
    pub keep_slower_than: Option<Duration>,
    /// The most records of one second.
    pub max_records_per_second: Option<usize>,
    /// Request headers to record, in lower case.
    pub request_headers: Vec<String>,
    /// Response headers to record, in lower case.
    pub response_headers: Vec<String>,
    /// Attributes to record besides, by name.
    pub attributes: Vec<Attribute>,
    /// How much of the client's address is recorded.
    pub client_address: ClientAddress,
    /// The most that one encoded record may occupy.
    pub max_record_bytes: usize,
}

/// One of `logs.attributes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// Its name on the record: none of the record's own.
    pub name: String,
    /// What it is of a request.
    pub expression: Expression,
}

/// What the decision to keep a record follows; where a request lacks it, the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleBy {
    /// The trace id: the same decision on every hop.
    Trace,
    /// The request id: the same decision wherever the proxy's `x-request-id` goes.
    Request,
    /// Chance.
    Random,
}

/// How much of a client's address a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// All of it.
    Full,
    /// Its network: /24 for IPv4, /48 for IPv6.
    Truncated,
    /// Nothing.
    None,
}

/// `metrics.*`: latency histograms.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Whether there are histograms at all.
    pub enabled: bool,
    /// How often they are exported.
    pub interval: Duration,
    /// Whether an export tells all since the start or all since the last export.
    pub temporality: Temporality,
    /// Which histograms are kept.
    pub histograms: Histograms,
    /// Which attributes of bounded sets are added to the series.
    pub attributes: SeriesAttributes,
    /// The most series of one metric, the overflow series included.
    pub max_series: usize,
    /// The most buckets of one exported histogram.
    pub max_buckets: usize,
    /// Whether the histograms have exemplars.
    pub exemplars: bool,
}

/// OTLP's aggregation temporality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Each export tells all since the start.
    Cumulative,
    /// Each export tells all since the last one.
    Delta,
}

/// `metrics.histograms`: which durations are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histograms {
    /// The whole request.
    pub duration: bool,
    /// The upstream's part of it.
    pub upstream: bool,
    /// The proxy's part of it.
    pub proxy: bool,
}

/// `metrics.attributes`: attributes of bounded sets that are added to the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesAttributes {
    /// `envoy.upstream.cluster`.
    pub upstream_cluster: bool,
    /// `envoy.route.name`.
    pub route_name: bool,
    /// `envoy.virtual_host.name`.
    pub virtual_host_name: bool,
}

/// One of `routes`: a path template, and what of `logs.*` differs for the requests that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Such as `/orders/{id}`: starts with a slash, visible ASCII, at most [`MAX_TEMPLATE_BYTES`].
    pub template: String,
    /// Instead of `logs.sample_ratio`.
    pub sample_ratio: Option<f64>,
    /// Instead of `logs.keep_slower_than`.
    pub keep_slower_than: Option<Duration>,
}

impl Route {
    /// Whether its requests are judged otherwise than those of others.
    pub fn has_own_rule(&self) -> bool {
        self.sample_ratio.is_some() || self.keep_slower_than.is_some()
    }
}

/// The longest template: as long as any name in a series may be.
pub const MAX_TEMPLATE_BYTES: usize = 256;

/// `redact.*`: what must not be told, besides the built-in lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redact {
    /// Names of query parameters whose values are secrets, decoded, in lower case.
    pub query_params: Vec<String>,
    /// Names of headers whose values are secrets, in lower case.
    pub header_values: Vec<String>,
    /// Names of the templates' parameters whose segments are secrets.
    pub path_params: Vec<String>,
}

/// `batch.*`: a batch is sealed by whichever of the three comes first.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Records in a batch.
    pub max_records: usize,
    /// Encoded bytes of a batch.
    pub max_bytes: usize,
    /// Age of a batch's first record.
    pub max_delay: Duration,
}

/// `queue.*`: what sealed batches may occupy.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Bytes of the sealed batches that wait or are under way.
    pub max_bytes: usize,
    /// What gives way when a batch of records does not fit.
    pub when_full: WhenFull,
}

/// What gives way when a batch of records does not fit into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest batches that wait.
    DropOldest,
    /// The batch itself.
    DropNewest,
    /// The batch itself, whose records are written to the proxy's own log.
    Spill,
}

/// `retry.*`: how long a batch is tried, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The bound of the first pause.
    pub initial_backoff: Duration,
    /// The bound of every pause.
    pub max_backoff: Duration,
    /// How long a batch is tried, from its first try on.
    pub max_elapsed: Duration,
}

impl Config {
    /// Reads the configuration that the host passes: a JSON object as text (a `StringValue` in the proxy's own
    /// configuration), or an encoded `google.protobuf.Struct`, which Envoy passes on as it is.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line that names the key's path, the value and what is allowed.
    pub fn parse(configuration: &[u8]) -> Result<Self, ConfigError> {
        if configuration.iter().all(u8::is_ascii_whitespace) {
            return Err(ConfigError::new(
                "configuration: is empty, allowed is a JSON object with at least `collector.cluster`",
            ));
        }
        let root = serde_json::from_slice(configuration).map(|json::Json(root)| root).or_else(|error| {
            // serde_json's syntax errors tell the position only, never the text.
            protobuf_struct::decode(configuration)
                .ok_or_else(|| ConfigError::new(format!("configuration: not JSON: {error}")))
        })?;
        read::config(Section::root(&root)?)
    }
}

#[cfg(test)]
mod tests;
