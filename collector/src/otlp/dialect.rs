//! What a log record says of a request, in whichever dialect: one view of a fleet whose proxies log in different ways.
//!
//! In: a record's attributes and body. Out: a [`Request`], for the typed columns; the record itself stays as it came.
//! What cannot be read as it should be is left out here, and only here. The dialects, in this order:
//!
//! - OpenTelemetry's semantic conventions, which offpath's plugin speaks; also as text, as Envoy's own loggers write it;
//! - the fields of Envoy Gateway's default format (`x-envoy-origin-path`, `response_code`, `duration`, …) and of Istio's
//!   JSON format (`path` instead): as attributes, as a structured body, or as a body that is a line of JSON. Both names mean
//!   the path that the client asked for; where both are there, `path` is somebody's own field and may be a rewritten one, or,
//!   in a line, either may be a client's, so that neither is told where they differ;
//! - a body that is a line of Envoy's default format, or of Istio's, which has three fields more in its middle.
//!
//! Envoy writes `-`, or nothing, for a missing value, 0 for the status of a request that got no answer, and durations in
//! whole milliseconds.

use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde::Deserialize;
use serde_json::Value;

use super::value::{Attributes, attributes};

/// A request, as far as its record tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Its method.
    pub method: Option<String>,
    /// Its path, without the query.
    pub path: Option<String>,
    /// The template that its path matched; without one, the name of the proxy's route.
    pub route: Option<String>,
    /// The status of its answer.
    pub status: Option<i64>,
    /// How long it took.
    pub duration_seconds: Option<f64>,
    /// Its trace.
    pub trace_id: Option<[u8; 16]>,
    /// Its span.
    pub span_id: Option<[u8; 8]>,
}

impl Request {
    /// Reads a record whose attributes are `attributes`.
    #[must_use]
    pub fn of(record: &LogRecord, attributes: &Attributes) -> Self {
        let field = |name: &str| attributes.get(name).and_then(text);
        let (method, status) = (field("http.request.method"), field("http.response.status_code"));
        let log = if method.is_some() || status.is_some() {
            AccessLog::default()
        } else {
            AccessLog::find(attributes, record.body.as_ref()).unwrap_or_default()
        };
        let (trace_id, span_id) = trace(record, attributes, &log);
        Self {
            method: method.or_else(|| text(&log.method)),
            path: field("url.path").or_else(|| log.path()).map(without_query),
            route: field("http.route")
                .or_else(|| field("envoy.route.name"))
                .or_else(|| text(&log.route_name)),
            status: status.and_then(|status| status.parse().ok()).or_else(|| log.status()),
            duration_seconds: duration_seconds(attributes).or_else(|| log.duration_seconds()),
            trace_id,
            span_id,
        }
    }
}

/// The service that a resource's records are of: Envoy's own loggers name the node's cluster instead, as offpath's plugin
/// does where it is not told a name.
#[must_use]
pub fn service(resource: &Attributes) -> Option<String> {
    let is_envoys = ["log_name", "zone_name", "node_name"].iter().all(|label| resource.contains_key(*label));
    let cluster = || resource.get("cluster_name").filter(|_| is_envoys);
    resource.get("service.name").or_else(cluster).and_then(text)
}

/// By the conventions: seconds, as a number. Envoy's loggers have no command for seconds, so that nobody knows the unit of
/// a text.
fn duration_seconds(attributes: &Attributes) -> Option<f64> {
    // On records of outbound listeners it is the client's.
    ["http.server.request.duration", "http.client.request.duration"]
        .iter()
        .find_map(|name| attributes.get(*name).and_then(Value::as_f64))
}

/// The record's own ids, else those that a field tells.
fn trace(
    record: &LogRecord,
    attributes: &Attributes,
    log: &AccessLog,
) -> (Option<[u8; 16]>, Option<[u8; 8]>) {
    if let Some(trace_id) = id(record.trace_id.as_slice().try_into().ok()) {
        return (Some(trace_id), id(record.span_id.as_slice().try_into().ok()));
    }
    let field = |name: &str, of_log: &Value| attributes.get(name).and_then(text).or_else(|| text(of_log));
    let (trace_id, span_id) = match field("traceparent", &log.traceparent) {
        Some(traceparent) => {
            let mut parts = traceparent.split('-').skip(1).map(str::to_owned);
            (parts.next(), parts.next())
        }
        None => (field("trace_id", &log.trace_id), field("span_id", &log.span_id)),
    };
    let trace_id = id(trace_id.and_then(|digits| from_hex(&digits, 32)).map(u128::to_be_bytes));
    let span_id = span_id.filter(|_| trace_id.is_some()).and_then(|digits| from_hex(&digits, 16));
    (trace_id, id(span_id.and_then(|number| u64::try_from(number).ok()).map(u64::to_be_bytes)))
}

/// OTLP has receivers treat an id that is all zero as absent.
fn id<const N: usize>(bytes: Option<[u8; N]>) -> Option<[u8; N]> {
    bytes.filter(|bytes| bytes.iter().any(|byte| *byte != 0))
}

fn from_hex(digits: &str, length: usize) -> Option<u128> {
    let is_hex = digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u128::from_str_radix(digits, 16).ok())?
}

/// The fields of an access log that have a column, by the names of Envoy Gateway and Istio. In a line of JSON a field that
/// comes twice is an error: where a format is a text, Envoy escapes nothing in it, and whoever chooses a path or a user agent
/// could add fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AccessLog {
    method: Value,
    #[serde(rename = "x-envoy-origin-path")]
    origin_path: Value,
    path: Value,
    response_code: Value,
    duration: Value,
    route_name: Value,
    traceparent: Value,
    trace_id: Value,
    span_id: Value,
}

impl AccessLog {
    /// The access log that a record is, if it is one: what has a `response_code`.
    fn find(attributes: &Attributes, body: Option<&AnyValue>) -> Option<Self> {
        if attributes.contains_key("response_code") {
            return Some(Self::of_fields(attributes));
        }
        match body?.value.as_ref()? {
            any_value::Value::KvlistValue(list) => {
                let fields = self::attributes(&list.values);
                fields.contains_key("response_code").then(|| Self::of_fields(&fields))
            }
            any_value::Value::StringValue(line) if line.starts_with('{') => {
                line.contains("\"response_code\"").then(|| Self::of_json(line))?
            }
            any_value::Value::StringValue(line) => Self::of_line(line),
            _ => None,
        }
    }

    fn of_fields(fields: &Attributes) -> Self {
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        Self {
            method: field("method"),
            origin_path: field("x-envoy-origin-path"),
            path: field("path"),
            response_code: field("response_code"),
            duration: field("duration"),
            route_name: field("route_name"),
            traceparent: field("traceparent"),
            trace_id: field("trace_id"),
            span_id: field("span_id"),
        }
    }

    /// Reads a line of JSON. Where its format has one of the names of the path, the other one may be what a client added.
    fn of_json(line: &str) -> Option<Self> {
        let log: Self = serde_json::from_str(line).ok()?;
        let contradicts =
            text(&log.origin_path).zip(text(&log.path)).is_some_and(|(one, other)| one != other);
        Some(if contradicts { Self { origin_path: Value::Null, path: Value::Null, ..log } } else { log })
    }

    /// Reads `[start] "method path protocol" status flags …`, up to the duration: all that follows is the client's to
    /// choose, but for what ends Istio's lines.
    fn of_line(line: &str) -> Option<Self> {
        let (_, rest) = line.strip_prefix('[')?.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let (method, request) = request.split_once(' ')?;
        let (path, protocol) = request.rsplit_once(' ')?;
        if protocol != "-" && !protocol.starts_with("HTTP/") {
            return None;
        }
        let (response_code, rest) = rest.split_once(' ')?;
        let (_flags, rest) = rest.split_once(' ')?;
        let istio = after_failure(rest);
        // Bytes received, bytes sent, and then the duration.
        let mut numbers = istio.unwrap_or(rest).split(' ');
        let (_, _, duration) = (number(numbers.next()?)?, number(numbers.next()?)?, number(numbers.next()?)?);
        let value = |text: &str| Value::from(text);
        Some(Self {
            method: value(method),
            path: value(path),
            response_code: number(response_code)?.into(),
            duration: duration.into(),
            route_name: istio.and_then(last_of_istio).map(value).unwrap_or_default(),
            ..Self::default()
        })
    }

    fn path(&self) -> Option<String> {
        text(&self.origin_path).or_else(|| text(&self.path))
    }

    fn status(&self) -> Option<i64> {
        text(&self.response_code)?.parse().ok().filter(|status| *status > 0)
    }

    fn duration_seconds(&self) -> Option<f64> {
        Some(number(&text(&self.duration)?)? as f64 / 1000.0)
    }
}

/// What follows the three fields that Istio's format has before the sizes: the answer's details, the connection's, and,
/// in quotes, why there was none to the upstream.
fn after_failure(rest: &str) -> Option<&str> {
    let (_details, rest) = rest.split_once(' ')?;
    let (_termination, rest) = rest.split_once(' ')?;
    rest.strip_prefix('"')?.split_once("\" ").map(|(_reason, rest)| rest)
}

/// The route's name: the last of the six words that Istio's lines end with.
fn last_of_istio(line: &str) -> Option<&str> {
    let (_, words) = line.trim_end().rsplit_once("\" ")?;
    words.split(' ').nth(5).filter(|_| words.split(' ').count() == 6)
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// A value as text, if it is one or a whole number; Envoy's `-` is none.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !matches!(text.as_str(), "" | "-") => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn without_query(mut path: String) -> String {
    if let Some(end) = path.find('?') {
        path.truncate(end);
    }
    path
}

#[cfg(test)]
mod tests;
