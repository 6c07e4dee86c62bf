//! The record that the plugin writes, as anybody else would write it: OTLP's messages, built and encoded by prost.
//!
//! Of ordinary requests only, and without the plugin's care: nothing is redacted, cut or bounded.

use offpath_filter::capture::Field;
use offpath_filter::request::FinishedRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

/// The record of `request`.
pub(super) fn log_record(request: &FinishedRequest<'_>, now_unix_nano: u64) -> LogRecord {
    let severity = request.outcome.severity();
    let context = request.trace_context().unwrap();
    let status = request.outcome.status.unwrap();
    let (path, query) = request.path_and_query();
    let path = String::from_utf8_lossy(path);
    let body = format!("{} {path} {status} {}ms", request.method.as_str(), request.duration_nano / 1_000_000);
    LogRecord {
        time_unix_nano: request.start_unix_nano,
        observed_time_unix_nano: now_unix_nano,
        severity_number: severity.number() as i32,
        severity_text: severity.text().to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: vec![
            string("http.request.method", request.method.as_str()),
            int("http.response.status_code", u64::from(status)),
            double("http.server.request.duration", request.duration_nano as f64 / 1e9),
            double("offpath.sample.weight", request.sample_weight),
            string("url.scheme", request.scheme.unwrap().as_str()),
            string("network.protocol.version", request.protocol_version.unwrap().as_str()),
            double("envoy.upstream.duration", request.upstream_duration_nano.unwrap() as f64 / 1e9),
            int("http.request.size", request.count(Field::RequestSize).unwrap()),
            int("http.response.size", request.count(Field::ResponseSize).unwrap()),
            string("url.path", path),
            text("envoy.response.code_details", request.bytes(Field::CodeDetails)),
            text("envoy.upstream.cluster", request.bytes(Field::Cluster)),
            text("envoy.upstream.address", request.bytes(Field::UpstreamAddress)),
            text("envoy.route.name", request.bytes(Field::RouteName)),
            text("envoy.request.id", request.bytes(Field::RequestId)),
            text("client.address", before_colon(request.bytes(Field::ClientAddress))),
            text("server.address", request.bytes(Field::Host)),
            text("url.query", query.unwrap()),
            text("user_agent.original", request.bytes(Field::UserAgent)),
        ],
        dropped_attributes_count: 0,
        flags: u32::from(context.flags),
        trace_id: context.trace_id.to_vec(),
        span_id: context.span_id.to_vec(),
        event_name: "http.server.request".to_owned(),
    }
}

fn before_colon(address: &[u8]) -> &[u8] {
    address.split(|&byte| byte == b':').next().unwrap_or_default()
}

fn text(key: &str, value: &[u8]) -> KeyValue {
    string(key, String::from_utf8_lossy(value))
}

fn string(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(value as i64))
}

fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
