//! The plugin's configuration: JSON or an encoded `Struct` in, a checked [`Config`] or one [`ConfigError`] out.
//!
//! Strict: an unknown key, a wrong type or a value out of range is an error that names the key's path, the value and
//! what is allowed. Text that is not JSON and anything under `collector.headers` never appears in an error.
//! Goes to every other module; nothing is dropped here.

mod json;
mod protobuf_struct;
mod section;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

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
    pub(crate) fn new(message: impl Into<String>) -> Self {
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
    /// Request headers to record, in lower case.
    pub request_headers: Vec<String>,
    /// Response headers to record, in lower case.
    pub response_headers: Vec<String>,
    /// How much of the client's address is recorded.
    pub client_address: ClientAddress,
    /// The most that one encoded record may occupy.
    pub max_record_bytes: usize,
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

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const MINUTE: Duration = Duration::from_secs(60);

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
        let mut root = Section::root(&root)?;
        let collector = collector(root.section("collector")?)?;
        let resource = resource(&mut root)?;
        let logs = logs(root.section("logs")?)?;
        let metrics = metrics(root.section("metrics")?)?;
        let batch = batch(root.section("batch")?, logs.max_record_bytes)?;
        let queue = queue(root.section("queue")?, batch.max_bytes)?;
        let retry = retry(root.section("retry")?)?;
        root.finish()?;
        Ok(Self { collector, resource, logs, metrics, batch, queue, retry })
    }
}

fn collector(mut section: Section<'_>) -> Result<Collector, ConfigError> {
    let cluster = section.required_text("cluster", "a string of 1 to 256 characters", |text| {
        (1..=256).contains(&text.chars().count())
    })?;
    let collector = Collector {
        authority: section
            .text("authority", "a header value: visible ASCII characters, not empty", |text| {
                !text.is_empty() && is_header_value(text)
            })?
            .unwrap_or_else(|| cluster.clone()),
        path_prefix: section
            .text("path_prefix", "\"\" or a path that starts with `/`", |text| {
                text.is_empty() || (text.starts_with('/') && is_header_value(text) && !text.contains(' '))
            })?
            .map(|text| text.trim_end_matches('/').to_owned())
            .unwrap_or_default(),
        headers: collector_headers(&mut section)?,
        timeout: section.duration(
            "timeout",
            Duration::from_millis(10)..=5 * MINUTE,
            Duration::from_secs(5),
        )?,
        max_in_flight: section.size("max_in_flight", 1..=64, 2)?,
        cluster,
    };
    section.finish()?;
    Ok(collector)
}

/// Headers that the plugin or the proxy sets on each call itself.
const RESERVED_HEADERS: [&str; 7] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-offpath-batch",
];

/// Reads `collector.headers` without ever quoting a value: they are where users put their tokens. A name that is no
/// header name is not quoted either, for it may be a whole `name: value` line.
fn collector_headers(section: &mut Section<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut headers = Vec::new();
    for (name, value) in section.secret_entries("headers", 16)? {
        if !is_token(name) {
            return Err(ConfigError::new(
                "configuration: `collector.headers`: a name in it is not a header name, allowed are letters, digits and -._ and the like",
            ));
        }
        let name = name.to_ascii_lowercase();
        if RESERVED_HEADERS.contains(&name.as_str()) {
            return Err(ConfigError::new(format!(
                "configuration: `collector.headers.{name}`: is set by offpath itself, allowed are other headers"
            )));
        }
        let value = value.filter(|value| is_header_value(value)).ok_or_else(|| {
            ConfigError::new(format!(
                "configuration: `collector.headers.{name}`: the value (not shown) is not a header value, allowed is a string of visible ASCII characters"
            ))
        })?;
        if headers.iter().any(|(known, _)| *known == name) {
            return Err(ConfigError::new(format!(
                "configuration: `collector.headers.{name}`: stands twice, allowed is once, in upper or lower case"
            )));
        }
        headers.push((name, value.to_owned()));
    }
    Ok(headers)
}

fn resource(root: &mut Section<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut section = root.section("resource")?;
    let entries = section.all_texts(64)?;
    section.finish()?;
    Ok(entries)
}

fn logs(mut section: Section<'_>) -> Result<Logs, ConfigError> {
    let logs = Logs {
        enabled: section.flag("enabled", true)?,
        request_headers: header_names(&mut section, "request_headers")?,
        response_headers: header_names(&mut section, "response_headers")?,
        client_address: section.choice(
            "client_address",
            &[
                ("full", ClientAddress::Full),
                ("truncated", ClientAddress::Truncated),
                ("none", ClientAddress::None),
            ],
            ClientAddress::Full,
        )?,
        max_record_bytes: section.size("max_record_bytes", 512..=64 * KIB, 8 * KIB)?,
    };
    section.finish()?;
    Ok(logs)
}

fn header_names(section: &mut Section<'_>, key: &'static str) -> Result<Vec<String>, ConfigError> {
    let names = section.texts(key, 32, "a header name", |name| name.len() <= 256 && is_token(name))?;
    let mut lower: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    lower.sort_unstable();
    lower.dedup();
    Ok(lower)
}

fn metrics(mut section: Section<'_>) -> Result<Metrics, ConfigError> {
    let kept = section.subset("histograms", ["duration", "upstream", "proxy"], [true, false, false])?;
    let added = section.subset(
        "attributes",
        ["envoy.upstream.cluster", "envoy.route.name", "envoy.virtual_host.name"],
        [true, false, false],
    )?;
    let metrics = Metrics {
        enabled: section.flag("enabled", true)?,
        interval: section.duration(
            "interval",
            Duration::from_secs(1)..=10 * MINUTE,
            Duration::from_secs(10),
        )?,
        temporality: section.choice(
            "temporality",
            &[("cumulative", Temporality::Cumulative), ("delta", Temporality::Delta)],
            Temporality::Cumulative,
        )?,
        histograms: Histograms { duration: kept[0], upstream: kept[1], proxy: kept[2] },
        attributes: SeriesAttributes {
            upstream_cluster: added[0],
            route_name: added[1],
            virtual_host_name: added[2],
        },
        max_series: section.size("max_series", 1..=100_000, 2000)?,
        max_buckets: section.size("max_buckets", 16..=640, 160)?,
    };
    section.finish()?;
    Ok(metrics)
}

fn batch(mut section: Section<'_>, max_record_bytes: usize) -> Result<Batch, ConfigError> {
    let batch = Batch {
        max_records: section.size("max_records", 1..=65_536, 512)?,
        max_bytes: section.size("max_bytes", max_record_bytes as u64..=4 * MIB, 256 * KIB)?,
        max_delay: section.duration(
            "max_delay",
            Duration::from_millis(10)..=MINUTE,
            Duration::from_secs(1),
        )?,
    };
    section.finish()?;
    Ok(batch)
}

fn queue(mut section: Section<'_>, batch_max_bytes: usize) -> Result<Queue, ConfigError> {
    let queue = Queue {
        max_bytes: section.size("max_bytes", 2 * batch_max_bytes as u64..=512 * MIB, 16 * MIB)?,
        when_full: section.choice(
            "when_full",
            &[
                ("drop_oldest", WhenFull::DropOldest),
                ("drop_newest", WhenFull::DropNewest),
                ("spill", WhenFull::Spill),
            ],
            WhenFull::DropOldest,
        )?,
    };
    section.finish()?;
    Ok(queue)
}

fn retry(mut section: Section<'_>) -> Result<Retry, ConfigError> {
    const LEAST: Duration = Duration::from_millis(10);
    let retry = Retry {
        initial_backoff: section.duration("initial_backoff", LEAST..=MINUTE, Duration::from_millis(500))?,
        max_backoff: section.duration("max_backoff", LEAST..=10 * MINUTE, Duration::from_secs(30))?,
        max_elapsed: section.duration("max_elapsed", Duration::ZERO..=60 * MINUTE, 5 * MINUTE)?,
    };
    section.finish()?;
    Ok(retry)
}

/// RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What every proxy forwards unchanged: visible ASCII and spaces (RFC 9110, section 5.5, without obs-text).
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.trim() == text
}

#[cfg(test)]
mod tests;
