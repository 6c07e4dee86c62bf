//! The OpenTelemetry project's own decoder (its Python package), run on what the plugin sent: `otlp_decoder/decode.py`.

use std::{ffi::OsString, path::Path};

use serde_json::Value;
use tokio::process::Command;
use xtask::{fetch, harness::receiver::Call};

use crate::proxy::project;

/// The log records of all calls, each with the resource it came with, as `{"resource": …, "record": …}`.
pub(crate) async fn log_records(calls: &[Call], folder: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    for request in decode("logs", calls, folder).await {
        for resource_logs in list(&request, "resourceLogs") {
            for scope_logs in list(resource_logs, "scopeLogs") {
                records.extend(list(scope_logs, "logRecords").iter().map(
                    |record| serde_json::json!({"resource": resource_logs["resource"], "record": record}),
                ));
            }
        }
    }
    records
}

/// The metrics of all calls in their order, each with the resource it came with, as `{"resource": …, "metric": …}`.
pub(crate) async fn metrics(calls: &[Call], folder: &Path) -> Vec<Value> {
    let mut metrics = Vec::new();
    for request in decode("metrics", calls, folder).await {
        for resource_metrics in list(&request, "resourceMetrics") {
            for scope_metrics in list(resource_metrics, "scopeMetrics") {
                metrics.extend(list(scope_metrics, "metrics").iter().map(
                    |metric| serde_json::json!({"resource": resource_metrics["resource"], "metric": metric}),
                ));
            }
        }
    }
    metrics
}

/// The spans of all calls.
pub(crate) async fn spans(calls: &[Call], folder: &Path) -> Vec<Value> {
    let requests = decode("traces", calls, folder).await;
    let resources = requests.iter().flat_map(|request| list(request, "resourceSpans"));
    let scopes = resources.flat_map(|resource| list(resource, "scopeSpans"));
    scopes.flat_map(|scope| list(scope, "spans")).cloned().collect()
}

/// The attributes of a resource, a record or a point, by name, in protobuf's JSON mapping: `{"intValue": "200"}`.
pub(crate) fn attributes(of: &Value) -> serde_json::Map<String, Value> {
    list(of, "attributes")
        .iter()
        .map(|attribute| (attribute["key"].as_str().unwrap().to_owned(), attribute["value"].clone()))
        .collect()
}

/// A repeated field; protobuf's JSON mapping leaves an empty one out.
pub(crate) fn list<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

async fn decode(signal: &str, calls: &[Call], folder: &Path) -> Vec<Value> {
    let mut arguments: Vec<OsString> = Vec::new();
    for (number, call) in calls.iter().filter(|call| call.path == format!("/v1/{signal}")).enumerate() {
        let file = folder.join(format!("{signal}-{number}"));
        std::fs::write(&file, &call.body).unwrap();
        let encoding = call.header("content-encoding").unwrap_or("identity");
        arguments.extend([signal.into(), encoding.into(), file.into_os_string()]);
    }
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/otlp_decoder/decode.py"))
        .args(arguments)
        .env("PYTHONPATH", fetch::otlp_decoder(project().await).unwrap())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "not OTLP: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
