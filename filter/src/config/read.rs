//! Reads the sections of a configuration: for each key its type, its range and its default.

use std::collections::BTreeMap;
use std::time::Duration;

use super::section::{Section, clip};
use super::{
    Attribute, Batch, ClientAddress, Collector, Config, ConfigError, Expression, Histograms, Logs,
    MAX_TEMPLATE_BYTES, Metrics, Queue, Redact, Retry, Route, SampleBy, SeriesAttributes, Temporality,
    WhenFull,
};
use crate::redact::MAX_PARAM_NAME_BYTES;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const MINUTE: Duration = Duration::from_secs(60);

/// Reads the whole of it.
pub(super) fn config(mut root: Section<'_>) -> Result<Config, ConfigError> {
    let collector = collector(root.section("collector")?)?;
    let resource = resource(&mut root)?;
    let logs = logs(root.section("logs")?)?;
    let metrics = metrics(root.section("metrics")?)?;
    let routes = routes(&mut root)?;
    let redact = redact(root.section("redact")?)?;
    let batch = batch(root.section("batch")?, logs.max_record_bytes)?;
    let queue = queue(root.section("queue")?, batch.max_bytes)?;
    let retry = retry(root.section("retry")?)?;
    root.finish()?;
    Ok(Config { collector, resource, logs, metrics, routes, redact, batch, queue, retry })
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
        sample_ratio: section.ratio("sample_ratio")?.unwrap_or(1.0),
        sample_by: section.choice(
            "sample_by",
            &[("trace", SampleBy::Trace), ("request", SampleBy::Request), ("random", SampleBy::Random)],
            SampleBy::Trace,
        )?,
        keep_errors: section.flag("keep_errors", true)?,
        keep_slower_than: keep_slower_than(&mut section)?,
        max_records_per_second: section.optional_size("max_records_per_second", 1..=1_000_000)?,
        request_headers: header_names(&mut section, "request_headers")?,
        response_headers: header_names(&mut section, "response_headers")?,
        attributes: attributes(section.section("attributes")?)?,
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

/// Attributes that a record has of itself, besides `http.request.header.*`, `http.response.header.*` and `offpath.*`.
const RECORD_ATTRIBUTES: [&str; 26] = [
    "client.address",
    "envoy.request.id",
    "envoy.response.code_details",
    "envoy.response.flags",
    "envoy.route.name",
    "envoy.upstream.address",
    "envoy.upstream.cluster",
    "envoy.upstream.duration",
    "error.type",
    "http.client.request.duration",
    "http.request.method",
    "http.request.method_original",
    "http.request.size",
    "http.response.size",
    "http.response.status_code",
    "http.route",
    "http.server.request.duration",
    "network.protocol.version",
    "rpc.response.status_code",
    "rpc.system.name",
    "server.address",
    "server.port",
    "url.path",
    "url.query",
    "url.scheme",
    "user_agent.original",
];

/// The longest expression, and the longest name of what it gives.
const MAX_EXPRESSION_BYTES: usize = 512;
const MAX_ATTRIBUTE_NAME_BYTES: usize = 128;

/// Names and expressions. Whether the proxy takes an expression it has to be asked.
fn attributes(mut section: Section<'_>) -> Result<Vec<Attribute>, ConfigError> {
    let wrong = |name: &str, what: &str| {
        Err(ConfigError::new(format!("configuration: `logs.attributes.{}`: {what}", clip(name))))
    };
    let mut attributes = Vec::new();
    for (name, text) in section.all_texts(32)? {
        if name.len() > MAX_ATTRIBUTE_NAME_BYTES || name.chars().any(char::is_control) {
            return wrong(&name, "is no name, allowed are 1 to 128 bytes without control characters");
        }
        if is_record_attribute(&name) {
            return wrong(&name, "is an attribute that records have of themselves, allowed are other names");
        }
        if text.len() > MAX_EXPRESSION_BYTES {
            return wrong(&name, "is too long, allowed is a CEL expression of at most 512 bytes");
        }
        match Expression::parse(&text) {
            Ok(expression) => attributes.push(Attribute { name, expression }),
            Err(error) => {
                let (text, position, expected) = (clip(&text), error.position, error.expected);
                return wrong(
                    &name,
                    &format!(
                        "is `{text}`, at byte {position} allowed is {expected}, as a CEL expression has it"
                    ),
                );
            }
        }
    }
    section.finish()?;
    Ok(attributes)
}

fn is_record_attribute(name: &str) -> bool {
    let prefixes = ["http.request.header.", "http.response.header.", "offpath."];
    RECORD_ATTRIBUTES.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn keep_slower_than(section: &mut Section<'_>) -> Result<Option<Duration>, ConfigError> {
    section.optional_duration("keep_slower_than", Duration::ZERO..=60 * MINUTE)
}

fn header_names(section: &mut Section<'_>, key: &'static str) -> Result<Vec<String>, ConfigError> {
    let names = section.texts(key, 32, "a header name", |name| name.len() <= 256 && is_token(name))?;
    // A few names, in a small module: the library's sort would be 10 KB of it.
    let mut sorted: Vec<String> = Vec::new();
    for lower in names.iter().map(|name| name.to_ascii_lowercase()) {
        if let Err(place) = sorted.binary_search(&lower) {
            sorted.insert(place, lower);
        }
    }
    Ok(sorted)
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
        exemplars: section.flag("exemplars", true)?,
    };
    section.finish()?;
    Ok(metrics)
}

/// Templates, alone or in objects. What one of them says about the others is for [`crate::route::Routes`] to see.
fn routes(root: &mut Section<'_>) -> Result<Vec<Route>, ConfigError> {
    const TEMPLATE: &str = "a path template such as \"/orders/{id}\": starts with `/`, at most 256 visible ASCII characters, no `?` or `#`";
    let is_template = |text: &str| {
        text.starts_with('/')
            && text.len() <= MAX_TEMPLATE_BYTES
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
    };
    root.items("routes", 10_000, "a template or an object")?
        .into_iter()
        .map(|item| {
            if let Some(template) = item.whole_text(TEMPLATE, is_template)? {
                return Ok(Route { template, sample_ratio: None, keep_slower_than: None });
            }
            let mut section = item.object("a template or an object with `template`")?;
            let route = Route {
                template: section.required_text("template", TEMPLATE, is_template)?,
                sample_ratio: section.ratio("sample_ratio")?,
                keep_slower_than: keep_slower_than(&mut section)?,
            };
            section.finish()?;
            Ok(route)
        })
        .collect()
}

fn redact(mut section: Section<'_>) -> Result<Redact, ConfigError> {
    const MAX_NAMES: usize = 256;
    const PARAM: &str = "a query parameter's name as it is when decoded: 1 to 64 bytes, no blanks and none of `&=;,?#%+/\\<>(){}`";
    // Where one of these stands, the name that is compared begins or ends.
    let is_param = |name: &str| {
        (1..=MAX_PARAM_NAME_BYTES).contains(&name.len())
            && !name.bytes().any(|byte| byte <= b' ' || b"&=;,?#%+/\\<>(){}\x7f".contains(&byte))
    };
    let lower = |names: Vec<&str>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let redact = Redact {
        query_params: lower(section.texts("query_params", MAX_NAMES, PARAM, is_param)?),
        header_values: lower(section.texts(
            "header_values",
            MAX_NAMES,
            "a header name, of which `traceparent` is none: its ids are what the record is found by",
            |name| name.len() <= 256 && is_token(name) && !name.eq_ignore_ascii_case("traceparent"),
        )?),
        // Which of them are in `routes` is for `crate::redact` to see.
        path_params: section
            .texts("path_params", MAX_NAMES, "the name of a parameter in `routes`", |name| !name.is_empty())?
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    section.finish()?;
    Ok(redact)
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
