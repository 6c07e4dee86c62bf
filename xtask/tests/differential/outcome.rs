//! What a run exported and counted, without what two runs cannot have in common: times, ports, ids, and how often an
//! interval was over.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;

/// What a run exported and counted, as far as it can be compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Each record, as sorted lines of text.
    pub(crate) records: Vec<Vec<String>>,
    /// Each series of the last exports, with how many requests it counted.
    pub(crate) series: BTreeMap<Vec<String>, u64>,
    /// The resource of every export, without the sender's id.
    resources: BTreeSet<Vec<String>>,
    /// What every call had in its headers.
    headers: BTreeSet<Vec<String>>,
    /// Counters and gauges, as the plugin named them.
    pub(crate) counted: BTreeMap<String, u64>,
}

/// One export call: path, headers, body.
pub(crate) type Call = (String, BTreeMap<String, String>, Vec<u8>);

impl Outcome {
    pub(crate) fn new(calls: &[Call], counted: BTreeMap<String, u64>) -> Self {
        let mut outcome = Self { counted, ..Self::default() };
        let mut series_by_sender = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (path, headers, body) in calls {
            outcome.headers.insert(comparable_headers(path, headers));
            if !seen.insert(&headers["x-offpath-batch"]) {
                continue;
            }
            if path == "/v1/logs" {
                outcome.add_records(body);
            } else {
                let sender = headers["x-offpath-batch"].rsplit_once('-').unwrap().0;
                series_by_sender.insert(sender, outcome.series(body));
            }
        }
        outcome.records.sort();
        // Cumulative: what a sender said last is all that it has seen.
        for (key, count) in series_by_sender.into_values().flatten() {
            *outcome.series.entry(key).or_default() += count;
        }
        outcome
    }

    fn add_records(&mut self, body: &[u8]) {
        for resource in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
            self.resources.insert(lines(&resource.resource.unwrap().attributes));
            for scope in resource.scope_logs {
                let name = scope.scope.unwrap();
                for mut record in scope.log_records {
                    assert!(
                        record.time_unix_nano > 0 && record.observed_time_unix_nano >= record.time_unix_nano
                    );
                    let mut fields = lines(&std::mem::take(&mut record.attributes));
                    (record.time_unix_nano, record.observed_time_unix_nano) = (0, 0);
                    record.body = record.body.map(without_last_word);
                    fields.push(format!("{record:?} {name:?} {}", scope.schema_url));
                    self.records.push(fields);
                }
            }
        }
    }

    fn series(&mut self, body: &[u8]) -> Vec<(Vec<String>, u64)> {
        let mut series = Vec::new();
        for resource in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
            self.resources.insert(lines(&resource.resource.unwrap().attributes));
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let histogram = match metric.data {
                    Some(Data::ExponentialHistogram(histogram)) => histogram,
                    // Drops, which the statistics are compared by: when they are told is up to the moment of an export.
                    Some(Data::Sum(_)) if metric.name.ends_with(".dropped") => continue,
                    other => panic!("{}: {other:?}", metric.name),
                };
                for point in histogram.data_points {
                    let mut key = lines(&point.attributes);
                    key.push(format!(
                        "{} {} {}",
                        metric.name, metric.unit, histogram.aggregation_temporality
                    ));
                    series.push((key, point.count));
                }
            }
        }
        series
    }
}

/// Attributes as sorted lines, without times, ports and ids.
fn lines(attributes: &[KeyValue]) -> Vec<String> {
    let mut lines: Vec<String> = attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            let compared = match (attribute.key.as_str(), value) {
                ("http.server.request.duration" | "envoy.upstream.duration", Some(Any::DoubleValue(_))) => {
                    "a time".to_owned()
                }
                ("envoy.request.id" | "service.instance.id", Some(Any::StringValue(id))) => {
                    format!("{} bytes of id", id.len())
                }
                ("envoy.upstream.address", Some(Any::StringValue(address))) => {
                    address.rsplit_once(':').unwrap().0.to_owned()
                }
                (_, value) => format!("{value:?}"),
            };
            format!("{} = {compared}", attribute.key)
        })
        .collect();
    lines.sort();
    lines
}

/// A record's body ends with how long the request took.
fn without_last_word(body: AnyValue) -> AnyValue {
    let Some(Any::StringValue(text)) = body.value else { panic!("{body:?}") };
    AnyValue { value: Some(Any::StringValue(text.rsplit_once(' ').unwrap().0.to_owned())) }
}

/// What the plugin itself says in a call's headers.
fn comparable_headers(path: &str, headers: &BTreeMap<String, String>) -> Vec<String> {
    let id = &headers["x-offpath-batch"];
    let own = ["content-type", "user-agent", "x-tenant"].map(|name| format!("{name}: {}", headers[name]));
    let id = format!("x-offpath-batch: {} bytes of id", id.rsplit_once('-').unwrap().0.len());
    own.into_iter().chain([path.to_owned(), id]).collect()
}

/// Whether a run has come to its end: everything was exported and has its end.
pub(crate) fn is_over(outcome: &Outcome, requests: u64) -> bool {
    let counted = |name: &str| outcome.counted.get(name).copied().unwrap_or_default();
    let measured: u64 = outcome
        .series
        .iter()
        .filter(|(key, _)| key.iter().any(|line| line.starts_with("http.server")))
        .map(|(_, count)| count)
        .sum();
    counted("offpath_records_captured_total") == requests
        && (counted("offpath_records_pending"), counted("offpath_queue_bytes")) == (0, 0)
        && measured == requests
}

/// Takes out of what was counted what depends on how often an interval was over or a try was made.
pub(crate) fn comparable(mut outcome: Outcome, calls: &[Call]) -> Outcome {
    let metrics: BTreeSet<&String> = calls
        .iter()
        .filter(|(path, ..)| path == "/v1/metrics")
        .map(|(_, headers, _)| &headers["x-offpath-batch"])
        .collect();
    for (name, count) in &mut outcome.counted {
        match name.as_str() {
            "offpath_batches_sent_total" => *count -= metrics.len() as u64,
            "offpath_batches_retried_total" | "offpath_metric_points_dropped_total.reason.rejected" => {
                *count = (*count).min(1)
            }
            _ => {}
        }
    }
    // Which slots there are depends on which workers had requests.
    outcome.counted.retain(|name, _| !name.starts_with("offpath_vm_"));
    outcome
}
