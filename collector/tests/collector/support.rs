//! The parties of these tests: the collector's real program, a client, and the OTLP messages that it sends.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_offpath-collector");
pub(crate) const UUID: &str = "0b9e4c1e-6f1d-4d6e-9a55-2f1f6f1c2a3b";
/// 2026-01-01T00:00:00Z.
pub(crate) const T0: u64 = 1_767_225_600_000_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `what` until it answers, for a minute at most.
pub(crate) fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails with instructions when there is no strace.
pub(crate) fn need_strace() {
    let found = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    assert!(
        found,
        "this test needs strace (`apt-get install strace`) and the permission to trace processes (ptrace)"
    );
}

/// A bare connection to `url`, whose reads fail after a minute.
pub(crate) fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A collector that runs; killed when it is dropped.
pub(crate) struct Collector {
    child: Child,
    pub(crate) otlp: String,
    pub(crate) http: String,
}

impl Collector {
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_as(&[], data, flags)
    }

    /// Starts the program behind `wrapper`, which is a command of its own such as strace's.
    pub(crate) fn start_as(wrapper: &[&str], data: &Path, flags: &[&str]) -> Self {
        Self::attach(serve(wrapper, data, flags).spawn().unwrap())
    }

    /// Waits until a program that was just started listens.
    pub(crate) fn attach(mut child: Child) -> Self {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            let prefix = format!("{name} listening on ");
            format!(
                "http://{}",
                line.strip_prefix(&prefix).unwrap_or_else(|| panic!("{prefix:?} expected: {line:?}"))
            )
        };
        let (otlp, http) = (address("otlp-http"), address("http"));
        Self { child, otlp, http }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the collector's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn logs(&self, request: &ExportLogsServiceRequest, batch_id: Option<&str>) -> Answer {
        self.post("/v1/logs", request.encode_to_vec(), batch_id)
    }

    pub(crate) fn metrics(&self, request: &ExportMetricsServiceRequest, batch_id: Option<&str>) -> Answer {
        self.post("/v1/metrics", request.encode_to_vec(), batch_id)
    }

    pub(crate) fn traces(&self, request: &ExportTraceServiceRequest, batch_id: Option<&str>) -> Answer {
        self.post("/v1/traces", request.encode_to_vec(), batch_id)
    }

    pub(crate) fn post(&self, path: &str, body: Vec<u8>, batch_id: Option<&str>) -> Answer {
        let mut headers = vec![("content-type", "application/x-protobuf")];
        headers.extend(batch_id.map(|batch_id| ("x-offpath-batch", batch_id)));
        post(&format!("{}{path}", self.otlp), &headers, &body).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(agent().get(format!("{}{path}", self.http)).call().unwrap())
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The accounting of log records, once none is queued.
    pub(crate) fn settled(&self) -> Value {
        self.settled_signal("logs")
    }

    /// The accounting of a signal, once nothing of it is queued.
    pub(crate) fn settled_signal(&self, signal: &str) -> Value {
        eventually("an empty queue", || {
            let accounting = self.json(&format!("/api/accounting?signal={signal}"));
            (accounting["queued"] == 0).then_some(accounting)
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `serve` on free ports.
pub(crate) fn serve(wrapper: &[&str], data: &Path, flags: &[&str]) -> Command {
    let mut words = wrapper.iter().copied().chain([PROGRAM]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["serve", "--otlp-http", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
    command.arg(data).args(flags).stdout(Stdio::piped());
    if !flags.contains(&"--min-free-disk-bytes") {
        // The disk of a build machine may be nearly full; what happens then has a test of its own.
        command.args(["--min-free-disk-bytes", "0"]);
    }
    command
}

/// Runs a command of the program to its end: status, standard output and error.
pub(crate) fn run(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .build()
        .new_agent()
}

pub(crate) fn post(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
    let request =
        headers.iter().fold(agent().post(url), |request, (name, value)| request.header(*name, *value));
    request.send(body).map(Answer::of)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn of(response: ureq::http::Response<ureq::Body>) -> Self {
        let (parts, mut body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.with_config().limit(64 << 20).read_to_vec().unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn string(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }
}

pub(crate) fn int(value: i64) -> AnyValue {
    AnyValue { value: Some(any_value::Value::IntValue(value)) }
}

pub(crate) fn double(value: f64) -> AnyValue {
    AnyValue { value: Some(any_value::Value::DoubleValue(value)) }
}

pub(crate) fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

pub(crate) fn record(body: &str) -> LogRecord {
    LogRecord { time_unix_nano: T0, body: Some(string(body)), ..LogRecord::default() }
}

pub(crate) fn logs_of(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    logs_from("api", records)
}

pub(crate) fn logs_from(service: &str, records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let resource =
        Resource { attributes: vec![attribute("service.name", string(service))], ..Resource::default() };
    let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

/// `count` records whose bodies are `name/0`, `name/1`, …
pub(crate) fn numbered(name: &str, count: usize) -> ExportLogsServiceRequest {
    logs_of((0..count).map(|number| record(&format!("{name}/{number}"))).collect())
}

/// The spans of a service.
pub(crate) fn spans_from(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource =
        Resource { attributes: vec![attribute("service.name", string(service))], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// `count` spans whose names are `name/0`, `name/1`, …
pub(crate) fn numbered_spans(name: &str, count: usize) -> ExportTraceServiceRequest {
    let span = |number| Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: format!("{name}/{number}"),
        start_time_unix_nano: T0,
        ..Span::default()
    };
    spans_from("api", (0..count).map(span).collect())
}

/// One exponential histogram of `values` in seconds, at scale 3 and with a zero threshold of 100 µs.
pub(crate) fn point(
    start: u64,
    time: u64,
    attributes: Vec<KeyValue>,
    values: &[f64],
) -> ExponentialHistogramDataPoint {
    let index = |value: f64| (value.log2() * 8.0).ceil() as i32 - 1;
    let (low, high): (Vec<f64>, Vec<f64>) = values.iter().partition(|value| **value <= 1e-4);
    let offset = high.iter().map(|value| index(*value)).min().unwrap_or(0);
    let last = high.iter().map(|value| index(*value)).max().unwrap_or(0);
    let mut bucket_counts = vec![0; (last - offset + 1) as usize];
    for value in &high {
        bucket_counts[(index(*value) - offset) as usize] += 1;
    }
    ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: time,
        count: values.len() as u64,
        sum: Some(values.iter().sum()),
        scale: 3,
        zero_count: low.len() as u64,
        zero_threshold: 1e-4,
        positive: Some(Buckets { offset, bucket_counts }),
        ..ExponentialHistogramDataPoint::default()
    }
}

pub(crate) const DELTA: i32 = 1;
pub(crate) const CUMULATIVE: i32 = 2;

pub(crate) fn metrics_of(
    aggregation_temporality: i32,
    data_points: Vec<ExponentialHistogramDataPoint>,
) -> ExportMetricsServiceRequest {
    let histogram = ExponentialHistogram { data_points, aggregation_temporality };
    metrics_with(vec![Metric {
        name: "http.server.request.duration".to_owned(),
        unit: "s".to_owned(),
        data: Some(metric::Data::ExponentialHistogram(histogram)),
        ..Metric::default()
    }])
}

pub(crate) fn metrics_with(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let resource =
        Resource { attributes: vec![attribute("service.name", string("api"))], ..Resource::default() };
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}
