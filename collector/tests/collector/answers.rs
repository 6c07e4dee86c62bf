//! What the door answers.

use std::io::{Read, Write};
use std::net::TcpStream;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, metric};
use prost::Message;
use tempfile::tempdir;

use crate::support::*;

type Headers = &'static [(&'static str, &'static str)];

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

/// `google.rpc.Status`, as any OTLP client reads it.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[test]
fn every_mistake_has_its_status_and_a_readable_reason() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let good = numbered("a", 1).encode_to_vec();
    const LONG: &str = match str::from_utf8(&[b'a'; 129]) {
        Ok(text) => text,
        Err(_) => "",
    };
    let cases: [(&str, Headers, &[u8], u16, &str); 15] = [
        ("/v1/profiles", &[PROTOBUF], &good, 404, "/v1/profiles"),
        ("/v1/logs", &[], &good, 415, "only application/x-protobuf"),
        ("/v1/logs", &[("content-type", "application/json")], b"{}", 415, "only application/x-protobuf"),
        ("/v1/logs", &[PROTOBUF, ("content-encoding", "zstd")], &good, 415, "`zstd`"),
        ("/v1/logs", &[PROTOBUF], b"not protobuf", 400, "ExportLogsServiceRequest"),
        ("/v1/logs", &[PROTOBUF], &good[..good.len() - 1], 400, "ends after"),
        ("/v1/logs", &[PROTOBUF], &[10, 6, 18, 4, 18, 2, 50, 1], 400, "LogRecord"),
        ("/v1/metrics", &[PROTOBUF], b"not protobuf", 400, "ExportMetricsServiceRequest"),
        ("/v1/traces", &[PROTOBUF], b"not protobuf", 400, "ExportTraceServiceRequest"),
        ("/v1/traces", &[PROTOBUF], &[10, 6, 18, 4, 18, 2, 10, 1], 400, "Span"),
        ("/v1/traces", &[PROTOBUF, ("content-encoding", "br")], &good, 415, "`br`"),
        ("/v1/logs", &[PROTOBUF, ("content-encoding", "gzip")], &good, 400, "gzip"),
        ("/v1/logs", &[PROTOBUF, ("x-offpath-batch", LONG)], &good, 400, "129 bytes"),
        ("/v1/logs", &[PROTOBUF, ("x-offpath-batch", "a b")], &good, 400, "visible ASCII"),
        ("/v1/logs", &[PROTOBUF, ("x-offpath-batch", "")], &good, 400, "visible ASCII"),
    ];
    for (path, headers, body, status, reason) in cases {
        let answer = post(&format!("{}{path}", collector.otlp), headers, body).unwrap();
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/x-protobuf");
        let message = Status::decode(answer.body.as_slice()).unwrap().message;
        assert!(message.contains(reason), "{path} {headers:?}: {message}");
    }
    assert_eq!(collector.settled()["received"], 0);
    let metrics = collector.get("/metrics").text();
    assert!(
        metrics.contains("offpath_collector_rejected_requests_total{reason=\"media_type\"} 2"),
        "{metrics}"
    );
}

#[test]
fn only_post_is_allowed() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let answer =
        ureq::get(format!("{}/v1/logs", collector.otlp)).config().http_status_as_error(false).build();
    let answer = answer.call().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "POST"));
}

#[test]
fn good_requests_are_answered_with_a_response_message() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let body = numbered("a", 3).encode_to_vec();
    let url = format!("{}/v1/logs", collector.otlp);
    let variants: [(Headers, Vec<u8>); 4] = [
        (&[PROTOBUF], body.clone()),
        (&[("content-type", "Application/X-Protobuf; charset=x")], body.clone()),
        (&[PROTOBUF, ("content-encoding", "identity")], body.clone()),
        (&[PROTOBUF, ("content-encoding", "GZIP")], gzip(&body)),
    ];
    for (headers, body) in variants {
        let answer = post(&url, headers, &body).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-protobuf"));
        let message = ExportLogsServiceResponse::decode(answer.body.as_slice()).unwrap();
        assert_eq!(message.partial_success, None);
    }
    assert_eq!(collector.settled()["stored"], 12);
}

#[test]
fn empty_requests_succeed_and_leave_a_trace_only_with_a_batch_id() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.post("/v1/logs", vec![], None).status, 200);
    assert_eq!(collector.post("/v1/metrics", vec![], None).status, 200);
    assert_eq!(collector.json("/api/senders"), serde_json::json!([]));
    assert_eq!(collector.post("/v1/metrics", vec![], Some(&format!("{UUID}-1"))).status, 200);
    let sender = eventually("the sender", || collector.json("/api/senders").get(0).cloned());
    assert_eq!((&sender["last_sequence"], &sender["missing"]), (&1.into(), &0.into()));
}

#[test]
fn sizes_are_limited_as_they_come_and_after_decompression() {
    let data = tempdir().unwrap();
    let flags = ["--max-request-bytes", "2000", "--max-decompressed-bytes", "4000"];
    let collector = Collector::start(data.path(), &flags);
    let url = format!("{}/v1/logs", collector.otlp);
    // A request of exactly so many bytes: its one record's body is padded.
    let sized = |bytes: usize| {
        (0..bytes)
            .rev()
            .map(|padding| logs_of(vec![record(&"x".repeat(padding))]).encode_to_vec())
            .find(|request| request.len() == bytes)
            .unwrap()
    };
    for (bytes, status) in [(1999, 200), (2000, 200), (2001, 413)] {
        assert_eq!(post(&url, &[PROTOBUF], &sized(bytes)).unwrap().status, status, "{bytes}");
    }
    for (bytes, status) in [(3999, 200), (4000, 200), (4001, 413)] {
        let headers = [PROTOBUF, ("content-encoding", "gzip")];
        assert_eq!(post(&url, &headers, &gzip(&sized(bytes))).unwrap().status, status, "{bytes}");
    }
    // Without a length, as a stream of chunks.
    for (bytes, status) in [(2000, 200), (2001, 413)] {
        let body = sized(bytes);
        let request = ureq::post(&url).config().http_status_as_error(false).build();
        let request = request.header("content-type", "application/x-protobuf");
        let answer = request.send(ureq::SendBody::from_reader(&mut body.as_slice())).unwrap();
        assert_eq!(answer.status().as_u16(), status, "{bytes}");
    }
    assert_eq!(collector.settled()["stored"], 5);
}

#[test]
fn a_decompression_bomb_is_refused_before_it_unfolds() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    // 128 MiB of zeros in about 128 KiB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 128 << 20), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let headers = [PROTOBUF, ("content-encoding", "gzip")];
    let answer = post(&format!("{}/v1/logs", collector.otlp), &headers, &bomb).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("67108864 bytes after decompression"), "{}", answer.text());
}

#[test]
fn too_many_records_are_refused_however_small_they_are() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let records = vec![opentelemetry_proto::tonic::logs::v1::LogRecord::default(); 131_073];
    assert_eq!(collector.logs(&logs_of(records), None).status, 413);
}

/// Sends the head of a request for `length` bytes, and no body.
fn announce(collector: &Collector, length: usize) -> TcpStream {
    let mut stream = connect(&collector.otlp);
    write!(
        stream,
        "POST /v1/logs HTTP/1.1\r\nhost: collector\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--max-queue-bytes", "65536"]);
    // What is being received counts: this takes all the room there is.
    let _receiving = announce(&collector, 65536);
    let answer = eventually("a refusal", || {
        Some(collector.logs(&numbered("a", 1), None)).filter(|answer| answer.status != 200)
    });
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{}", answer.text());
    assert!(answer.text().contains("at most 65536 may"), "{}", answer.text());
}

/// What is answered, until the connection is closed.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_body_that_comes_too_slowly_or_not_whole_is_to_be_sent_again() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--body-timeout-ms", "50"]);
    let mut slow = announce(&collector, 1000);
    slow.write_all(b"half a body").unwrap();
    let slow = answer(slow);
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut cut = announce(&collector, 1000);
    cut.write_all(b"half a body").unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let cut = answer(cut);
    for (answer, reason) in [(slow, "did not come within 50 ms"), (cut, "could not be read to its end")] {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains(reason), "{answer}");
    }
    assert_eq!(collector.settled()["received"], 0);
}

#[test]
fn a_full_disk_says_when_to_come_again() {
    let data = tempdir().unwrap();
    // More than any disk has.
    let collector = Collector::start(data.path(), &["--min-free-disk-bytes", "1125899906842624"]);
    let answer = collector.logs(&numbered("a", 1), None);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{}", answer.text());
    assert!(answer.text().contains("at least 1125899906842624 must be"), "{}", answer.text());
}

#[test]
fn points_that_are_not_stored_are_a_partial_success() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let gauge = Metric {
        name: "g".to_owned(),
        data: Some(metric::Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); 2] })),
        ..Metric::default()
    };
    let mut wrong_count = point(T0, T0 + SECOND, vec![], &[0.1]);
    wrong_count.count = 7;
    let mut request = metrics_of(DELTA, vec![point(T0, T0 + SECOND, vec![], &[0.1, 0.2]), wrong_count]);
    request.resource_metrics[0].scope_metrics[0].metrics.insert(0, gauge);
    let answer = collector.metrics(&request, None);
    assert_eq!(answer.status, 200);
    let partial =
        ExportMetricsServiceResponse::decode(answer.body.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_data_points, 3);
    assert_eq!(
        partial.error_message,
        "only exponential histograms and offpath's own counters are stored, `g` is a gauge"
    );
    let metrics = eventually("a stored point", || {
        Some(collector.get("/metrics").text())
            .filter(|text| text.contains("offpath_collector_stored_records_total{signal=\"metrics\"} 1\n"))
    });
    for line in ["{reason=\"unsupported\"} 2", "{reason=\"invalid\"} 1"] {
        assert!(metrics.contains(&format!("offpath_collector_rejected_points_total{line}")), "{metrics}");
    }
}

#[test]
fn a_token_is_needed_for_everything_but_the_health_checks_and_the_page() {
    let data = tempdir().unwrap();
    let file = data.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let collector = Collector::start(data.path(), &["--token-file", file.to_str().unwrap()]);
    let url = format!("{}/v1/logs", collector.otlp);
    let body = numbered("a", 1).encode_to_vec();
    let answer = post(&url, &[PROTOBUF], &body).unwrap();
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(post(&url, &[PROTOBUF, ("authorization", "Bearer wrong")], &body).unwrap().status, 401);
    assert_eq!(post(&url, &[PROTOBUF, ("authorization", "Bearer s3cret")], &body).unwrap().status, 200);
    for (path, status) in
        [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/api/logs", 401)]
    {
        assert_eq!(collector.get(path).status, status, "{path}");
    }
    let request = ureq::get(format!("{}/api/accounting", collector.http));
    assert_eq!(request.header("authorization", "Bearer s3cret").call().unwrap().status().as_u16(), 200);
}

#[test]
fn listening_off_loopback_needs_a_token_or_to_be_asked_for() {
    let data = tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    let (success, _, error) = run(&["serve", "--http", "0.0.0.0:0", "--data", folder]);
    assert!(!success);
    assert_eq!(
        error,
        "offpath-collector: http `0.0.0.0:0` is reachable from other machines: this needs token_file, or insecure\n"
    );
    let collector = Collector::start(data.path(), &["--insecure"]);
    assert_eq!(collector.get("/healthz").status, 200);
}

#[test]
fn an_unknown_key_of_the_configuration_is_named() {
    let data = tempdir().unwrap();
    let file = data.path().join("config.toml");
    std::fs::write(&file, "http = '127.0.0.1:0'\nmax_queue = 1\n").unwrap();
    let folder = data.path().to_str().unwrap();
    let (success, _, error) = run(&["serve", "--data", folder, "--config", file.to_str().unwrap()]);
    assert!(!success);
    assert!(error.contains("line 2") && error.contains("unknown field `max_queue`"), "{error}");
}
