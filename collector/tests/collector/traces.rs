//! Spans: `/v1/traces` with the guarantees of the other signals, and `/api/traces/{trace_id}`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const TRACE_ID: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// Span `number` of the trace: it starts after so many seconds and lasts half of one.
fn span(number: u64) -> Span {
    Span {
        trace_id: TRACE_ID.to_be_bytes().to_vec(),
        span_id: number.to_be_bytes().to_vec(),
        name: format!("span {number}"),
        start_time_unix_nano: T0 + number * SECOND,
        end_time_unix_nano: T0 + number * SECOND + SECOND / 2,
        ..Span::default()
    }
}

fn names(trace: &Value) -> Vec<&str> {
    trace["spans"].as_array().unwrap().iter().map(|span| span["name"].as_str().unwrap()).collect()
}

#[test]
fn a_trace_is_answered_as_its_senders_sent_it_in_the_order_of_its_starts() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let event = Event {
        time_unix_nano: T0 + 2 * SECOND + 1,
        name: "exception".to_owned(),
        attributes: vec![attribute("exception.type", string("Timeout"))],
        dropped_attributes_count: 1,
    };
    let link = Link {
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        trace_state: "a=b".to_owned(),
        attributes: vec![attribute("n", int(1))],
        flags: 1,
        ..Link::default()
    };
    let child = Span {
        parent_span_id: 1_u64.to_be_bytes().to_vec(),
        trace_state: "ot=th:8".to_owned(),
        flags: 0x301,
        kind: SpanKind::Client.into(),
        attributes: vec![attribute("http.response.status_code", int(503))],
        events: vec![event],
        links: vec![link],
        status: Some(Status { code: 2, message: "upstream is down".to_owned() }),
        dropped_events_count: 3,
        ..span(2)
    };
    let parent = Span { kind: SpanKind::Server.into(), ..span(1) };
    let other = Span { trace_id: vec![1; 16], ..span(9) };
    assert_eq!(collector.traces(&spans_from("shop", vec![child, other]), None).status, 200);
    assert_eq!(collector.traces(&spans_from("edge", vec![parent]), None).status, 200);
    collector.settled_signal("traces");
    let expected = json!({"trace_id": TRACE, "spans": [
        {
            "span_id": "0000000000000001",
            "parent_span_id": "",
            "trace_state": "",
            "flags": 0,
            "name": "span 1",
            "kind": "SERVER",
            "start_time": "2026-01-01T00:00:01.000000000Z",
            "end_time": "2026-01-01T00:00:01.500000000Z",
            "status": {"code": "UNSET", "message": ""},
            "resource": {"service.name": "edge"},
            "attributes": {},
            "events": [],
            "links": [],
        },
        {
            "span_id": "0000000000000002",
            "parent_span_id": "0000000000000001",
            "trace_state": "ot=th:8",
            "flags": 0x301,
            "name": "span 2",
            "kind": "CLIENT",
            "start_time": "2026-01-01T00:00:02.000000000Z",
            "end_time": "2026-01-01T00:00:02.500000000Z",
            "status": {"code": "ERROR", "message": "upstream is down"},
            "resource": {"service.name": "shop"},
            "attributes": {"http.response.status_code": 503},
            "events": [{
                "time": "2026-01-01T00:00:02.000000001Z",
                "name": "exception",
                "attributes": {"exception.type": "Timeout"},
                "dropped_attributes_count": 1,
            }],
            "links": [{
                "trace_id": "abababababababababababababababab",
                "span_id": "cdcdcdcdcdcdcdcd",
                "trace_state": "a=b",
                "flags": 1,
                "attributes": {"n": 1},
            }],
            "dropped_events_count": 3,
        },
    ], "next_cursor": null});
    assert_eq!(collector.json(&format!("/api/traces/{TRACE}")), expected);
    assert_eq!(collector.json(&format!("/api/traces/{}", TRACE.to_uppercase())), expected);
}

#[test]
fn unknown_traces_and_malformed_ids_are_answered_with_a_reason() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let unknown = collector.get(&format!("/api/traces/{TRACE}"));
    assert_eq!(unknown.status, 404);
    let reason = format!("no span of trace `{TRACE}` is stored");
    assert_eq!(
        serde_json::from_str::<Value>(&unknown.text()).unwrap(),
        json!({"error": {"message": reason}})
    );
    let (short, long) = (&TRACE[1..], format!("{TRACE}0"));
    for id in
        [short, &long, "%30af7651916cd43dd8448eb211c80319", "+af7651916cd43dd8448eb211c80319c", "%ff", "x"]
    {
        let answer = collector.get(&format!("/api/traces/{id}"));
        let message = format!("trace_id `{id}`: 32 hexadecimal digits are allowed");
        let expected = json!({"error": {"parameter": "trace_id", "value": id, "message": message}});
        assert_eq!((answer.status, serde_json::from_str::<Value>(&answer.text()).unwrap()), (400, expected));
    }
    for (query, reason) in [("cursor=1", "next_cursor"), ("limit=1", "no such parameter, there are cursor")] {
        let answer = collector.get(&format!("/api/traces/{TRACE}?{query}"));
        assert!(answer.status == 400 && answer.text().contains(reason), "{query}: {}", answer.text());
    }
    assert_eq!(collector.get("/api/traces/").status, 404);
}

#[test]
fn a_batch_of_spans_that_comes_again_is_stored_once_and_counted_beside_the_records() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let request = spans_from("edge", vec![span(1), span(2)]);
    let batch_id = format!("{UUID}-1");
    assert_eq!(collector.traces(&request, Some(&batch_id)).status, 200);
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "gzip"),
        ("x-offpath-batch", batch_id.as_str()),
    ];
    let url = format!("{}/v1/traces", collector.otlp);
    assert_eq!(post(&url, &headers, &gzip(&request.encode_to_vec())).unwrap().status, 200);
    // Without an id nothing is a duplicate, and the same id on another signal is another batch.
    assert_eq!(collector.traces(&request, None).status, 200);
    assert_eq!(collector.logs(&numbered("a", 1), Some(&batch_id)).status, 200);
    let expected = json!({"received": 6, "stored": 4, "deduplicated": 2, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled_signal("traces"), expected);
    let expected = json!({"received": 1, "stored": 1, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled(), expected);
    let trace = collector.json(&format!("/api/traces/{TRACE}"));
    assert_eq!(names(&trace), ["span 1", "span 1", "span 2", "span 2"]);
    let metrics = collector.get("/metrics").text();
    assert!(metrics.contains("offpath_collector_stored_records_total{signal=\"traces\"} 4\n"), "{metrics}");
}

#[test]
fn acknowledged_spans_outlive_a_kill() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    for number in 1..=50 {
        let answer =
            collector.traces(&spans_from("edge", vec![span(number)]), Some(&format!("{UUID}-{number}")));
        assert_eq!(answer.status, 200);
    }
    collector.kill();
    let collector = Collector::start(data.path(), &[]);
    let expected = json!({"received": 50, "stored": 50, "deduplicated": 0, "dead_lettered": 0, "queued": 0});
    assert_eq!(collector.settled_signal("traces"), expected);
    let expected: Vec<String> = (1..=50).map(|number| format!("span {number}")).collect();
    assert_eq!(names(&collector.json(&format!("/api/traces/{TRACE}"))), expected);
}

#[test]
fn spans_that_otlp_calls_invalid_are_a_partial_success() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let spans =
        vec![span(1), Span { span_id: vec![1], ..span(2) }, Span { trace_id: vec![], ..span(3) }, span(4)];
    let answer = collector.traces(&spans_from("edge", spans), None);
    assert_eq!(answer.status, 200);
    let partial =
        ExportTraceServiceResponse::decode(answer.body.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert_eq!(
        partial.error_message,
        "span `span 2` is invalid: span_id has 1 bytes or is all zero: 8 bytes are required, not all zero"
    );
    assert_eq!(collector.settled_signal("traces")["received"], 2);
    assert_eq!(names(&collector.json(&format!("/api/traces/{TRACE}"))), ["span 1", "span 4"]);
    let metrics = collector.get("/metrics").text();
    assert!(metrics.contains("offpath_collector_rejected_spans_total 2\n"), "{metrics}");
}

#[test]
fn a_span_that_no_row_can_hold_is_set_aside_alone_and_can_be_replayed() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON spans WHEN NEW.name = 'span 2'
             BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )
        .unwrap();
    let far_future = Span { end_time_unix_nano: u64::MAX, ..span(3) };
    let too_large = Span { name: "x".repeat(1 << 20), ..span(4) };
    let request = spans_from("edge", vec![span(1), span(2), far_future, too_large, span(5)]);
    assert_eq!(collector.traces(&request, Some(&format!("{UUID}-1"))).status, 200);
    let expected = json!({"received": 5, "stored": 2, "deduplicated": 0, "dead_lettered": 3, "queued": 0});
    assert_eq!(collector.settled_signal("traces"), expected);
    let folder = data.path().to_str().unwrap();
    let (_, list, _) = run(&["dead-letters", "list", "--data", folder]);
    let reasons = ["poison", "endTimeUnixNano `18446744073709551615` is out of range", "1048576 are allowed"];
    for (line, reason) in list.lines().zip(reasons) {
        assert!(line.contains("\ttraces\t1\t") && line.contains(reason), "{line}");
    }
    connection.execute_batch("DROP TRIGGER refuse").unwrap();
    assert!(run(&["dead-letters", "replay", "--data", folder, "1"]).0);
    let expected = json!({"received": 5, "stored": 3, "deduplicated": 0, "dead_lettered": 2, "queued": 0});
    eventually("the replayed span", || {
        (collector.json("/api/accounting?signal=traces") == expected).then_some(())
    });
    let trace = collector.json(&format!("/api/traces/{TRACE}"));
    assert_eq!(names(&trace), ["span 1", "span 2", "span 5"]);
    assert_eq!(trace["spans"][1]["resource"], json!({"service.name": "edge"}));
}

#[test]
fn a_full_disk_refuses_spans_and_says_when_to_come_again() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--min-free-disk-bytes", "1125899906842624"]);
    let answer = collector.traces(&spans_from("edge", vec![span(1)]), None);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{}", answer.text());
}

#[test]
fn a_trace_larger_than_a_page_is_continued_where_it_ended() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    // Two start at the same time: the cursor tells them apart.
    let large = |number: u64| Span {
        attributes: vec![attribute("text", string(&"x".repeat(900_000)))],
        start_time_unix_nano: T0 + number.div_ceil(2) * SECOND,
        ..span(number)
    };
    for numbers in [31..=40_u64, 11..=20, 21..=30, 1..=10] {
        let request = spans_from("edge", numbers.map(large).collect());
        assert_eq!(collector.traces(&request, None).status, 200);
    }
    assert_eq!(collector.settled_signal("traces")["stored"], 40);
    let (mut all, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = collector.json(&format!("/api/traces/{TRACE}{cursor}"));
        all.extend(names(&page).into_iter().map(str::to_owned));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(all, (1..=40).map(|number| format!("span {number}")).collect::<Vec<_>>());
}
