//! What the plugin's tests share: the built module, compiled once, and its exports decoded.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use offpath_host_test::{Call, PluginModule, Proxy, ProxyBuilder};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, metric};
use prost::Message as _;
use serde_json::{Value, json};

/// The built plugin: `target/offpath.wasm`, or what `OFFPATH_WASM` names.
pub(crate) fn plugin_wasm() -> &'static PluginModule {
    static MODULE: OnceLock<PluginModule> = OnceLock::new();
    MODULE.get_or_init(|| PluginModule::built("OFFPATH_WASM", "offpath.wasm", "cargo xtask build").unwrap())
}

/// The plugin built with a trap in it, which a request's header `x-offpath-trap` springs: `target/offpath-trap.wasm`, or
/// what `OFFPATH_TRAP_WASM` names.
pub(crate) fn trapping_wasm() -> &'static PluginModule {
    static MODULE: OnceLock<PluginModule> = OnceLock::new();
    let build = "CARGO_PROFILE_WASM_STRIP=debuginfo cargo rustc -p offpath-filter --features trap --lib --crate-type cdylib --profile wasm \
                 --target wasm32-wasip1 --target-dir target/trap && \
                 cp target/trap/wasm32-wasip1/wasm/offpath_filter.wasm target/offpath-trap.wasm";
    MODULE.get_or_init(|| PluginModule::built("OFFPATH_TRAP_WASM", "offpath-trap.wasm", build).unwrap())
}

/// A proxy with the plugin and the smallest configuration, with `changes` merged into it.
pub(crate) fn proxy(changes: Value) -> Proxy {
    builder(changes).start().unwrap()
}

/// As [`proxy`], not yet started.
pub(crate) fn builder(changes: Value) -> ProxyBuilder {
    Proxy::load(plugin_wasm()).config(config(changes))
}

/// The smallest configuration, with `changes` merged into it.
pub(crate) fn config(changes: Value) -> Value {
    let mut config = json!({"collector": {"cluster": "otlp"}});
    merge(&mut config, changes);
    config
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

/// The calls of so many seconds, each accepted as it comes.
pub(crate) fn accepted_calls(proxy: &mut Proxy, seconds: u64) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..seconds {
        proxy.advance(secs(1)).unwrap();
        calls.extend(proxy.cluster("otlp").answer_all(200).unwrap());
    }
    calls
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A `POST` to `/v1/logs`, decoded by the OpenTelemetry project's own types.
pub(crate) fn decode_logs(call: &Call) -> ExportLogsServiceRequest {
    assert_eq!(call.path(), "/v1/logs");
    ExportLogsServiceRequest::decode(call.body.as_slice()).unwrap()
}

/// A `POST` to `/v1/metrics`, decoded.
pub(crate) fn decode_metrics(call: &Call) -> ExportMetricsServiceRequest {
    assert_eq!(call.path(), "/v1/metrics");
    ExportMetricsServiceRequest::decode(call.body.as_slice()).unwrap()
}

/// A batch's name: what makes a second try of it the same batch.
pub(crate) fn batch_id(call: &Call) -> String {
    call.header("x-offpath-batch").expect("a call without `x-offpath-batch`").to_owned()
}

/// The paths of all log records among `calls`, in their order.
pub(crate) fn paths<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Vec<String> {
    let path = |record: LogRecord| match attributes(&record.attributes).remove("url.path")?.value {
        Some(Any::StringValue(path)) => Some(path),
        _ => None,
    };
    records(calls).into_iter().filter_map(path).collect()
}

/// All log records among `calls`.
pub(crate) fn records<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Vec<LogRecord> {
    calls
        .into_iter()
        .filter(|call| call.path() == "/v1/logs")
        .flat_map(|call| decode_logs(call).resource_logs)
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect()
}

/// All exponential histogram points of that metric among `calls`.
pub(crate) fn points<'a>(
    calls: impl IntoIterator<Item = &'a Call>,
    name: &str,
) -> Vec<ExponentialHistogramDataPoint> {
    calls
        .into_iter()
        .filter(|call| call.path() == "/v1/metrics")
        .flat_map(|call| decode_metrics(call).resource_metrics)
        .flat_map(|resource| resource.scope_metrics)
        .flat_map(|scope| scope.metrics)
        .filter(|metric| metric.name == name)
        .flat_map(|metric| match metric.data {
            Some(metric::Data::ExponentialHistogram(histogram)) => histogram.data_points,
            other => panic!("`{name}` is no exponential histogram but {other:?}"),
        })
        .collect()
}

/// Attributes by name; each name at most once.
pub(crate) fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, AnyValue> {
    let by_name: BTreeMap<_, _> =
        attributes.iter().map(|entry| (entry.key.clone(), entry.value.clone().unwrap_or_default())).collect();
    assert_eq!(by_name.len(), attributes.len(), "an attribute occurs twice: {attributes:?}");
    by_name
}

pub(crate) fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Any::StringValue(value.to_owned())) }
}

pub(crate) fn int(value: i64) -> AnyValue {
    AnyValue { value: Some(Any::IntValue(value)) }
}

pub(crate) fn double(value: f64) -> AnyValue {
    AnyValue { value: Some(Any::DoubleValue(value)) }
}

/// The reasons for which records can be dropped.
pub(crate) const DROP_REASONS: &str = "offpath_records_dropped_total.reason.";

pub(crate) fn dropped(proxy: &Proxy, reason: &str) -> u64 {
    proxy.counter(&format!("{DROP_REASONS}{reason}"))
}

/// The accounting identity, which holds whenever no hook is running.
#[track_caller]
pub(crate) fn assert_accounted_for(proxy: &Proxy) {
    let dropped: u64 = proxy.counters(DROP_REASONS).iter().map(|(_, value)| value).sum();
    for gauge in ["offpath_records_pending", "offpath_queue_bytes"] {
        assert!(
            proxy.gauge(gauge).cast_signed() >= 0,
            "{gauge} fell to {}",
            proxy.gauge(gauge).cast_signed()
        );
    }
    let accounted = proxy.counter("offpath_records_sampled_out_total")
        + proxy.counter("offpath_records_delivered_total")
        + dropped
        + proxy.gauge("offpath_records_pending");
    assert_eq!(
        proxy.counter("offpath_records_captured_total"),
        accounted,
        "captured != accounted for: {:?}, pending {}",
        proxy.counters("offpath_"),
        proxy.gauge("offpath_records_pending"),
    );
}
