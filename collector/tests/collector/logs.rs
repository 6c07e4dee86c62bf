//! `/api/logs`: fields, filters, pages.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::*;

/// A record as the plugin sends it: request `number`, one per second.
fn request(number: u64, path: &str, status: i64, seconds: f64) -> LogRecord {
    LogRecord {
        time_unix_nano: T0 + number * SECOND + number,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        event_name: "http.server.request".to_owned(),
        body: Some(string(&format!("GET {path} {status}"))),
        trace_id: (0x0102_0304_0506_0708_090a_0b0c_0d0e_0f00_u128 + u128::from(number))
            .to_be_bytes()
            .to_vec(),
        span_id: vec![1, 2, 3, 4, 5, 6, 7, 8],
        attributes: vec![
            attribute("http.request.method", string("GET")),
            attribute("url.path", string(path)),
            attribute("http.route", string("/orders/{id}")),
            attribute("http.response.status_code", int(status)),
            attribute("http.server.request.duration", double(seconds)),
        ],
        ..LogRecord::default()
    }
}

fn bodies(page: &Value) -> Vec<String> {
    page["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["body"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_record_is_answered_as_it_was_sent() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.logs(&logs_of(vec![request(1, "/orders/7", 200, 0.012)]), None).status, 200);
    collector.settled();
    assert_eq!(
        collector.json("/api/logs"),
        json!({"records": [{
            "time": "2026-01-01T00:00:01.000000001Z",
            "trace_id": "0102030405060708090a0b0c0d0e0f01",
            "span_id": "0102030405060708",
            "severity": "INFO",
            "body": "GET /orders/7 200",
            "resource": {"service.name": "api"},
            "attributes": {
                "http.request.method": "GET",
                "url.path": "/orders/7",
                "http.route": "/orders/{id}",
                "http.response.status_code": 200,
                "http.server.request.duration": 0.012,
            },
        }], "next_cursor": null})
    );
}

#[test]
fn filters_select_and_combine() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let requests = vec![
        request(1, "/a", 200, 0.010),
        request(2, "/b", 404, 0.250),
        request(3, "/b", 500, 0.249),
        request(4, "/c", 503, 2.0),
    ];
    assert_eq!(collector.logs(&logs_of(requests), None).status, 200);
    assert_eq!(collector.logs(&logs_from("other", vec![record("bare")]), None).status, 200);
    collector.settled();
    let all = ["GET /c 503", "GET /b 500", "GET /b 404", "GET /a 200", "bare"];
    let cases: [(&str, &[&str]); 15] = [
        ("", &all),
        ("service=api", &all[..4]),
        ("service=other", &all[4..]),
        ("service=nobody", &[]),
        ("path=%2Fb", &all[1..3]),
        ("route=/orders/%7Bid%7D", &all[..4]),
        ("status=404", &all[2..3]),
        ("status=5xx", &all[..2]),
        ("status=5xx&path=/b", &all[1..2]),
        ("min_duration_ms=250", &[all[0], all[2]]),
        ("min_duration_ms=0.5", &all[..4]),
        ("trace_id=0102030405060708090A0B0C0D0E0F02", &all[2..3]),
        ("from=2026-01-01T00:00:02.000000002Z", &all[..3]),
        ("to=2026-01-01T00:00:02.000000002Z", &all[3..]),
        ("from=2026-01-01T01:00:02%2B01:00&to=2026-01-01T00:00:03Z", &all[2..3]),
    ];
    for (query, expected) in cases {
        assert_eq!(bodies(&collector.json(&format!("/api/logs?{query}"))), expected, "{query}");
    }
}

#[test]
fn pages_neither_skip_nor_repeat_while_records_arrive() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    // Many of them at the same time, so that time alone does not order them.
    assert_eq!(collector.logs(&numbered("old", 25), None).status, 200);
    collector.settled();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = collector.json(&format!("/api/logs?limit=10{cursor}"));
        seen.extend(bodies(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert_eq!(page["records"].as_array().unwrap().len(), 10);
        cursor = format!("&cursor={next}");
        assert_eq!(collector.logs(&numbered("new", 3), None).status, 200);
        collector.settled();
    }
    let expected: Vec<String> = (0..25).rev().map(|number| format!("old/{number}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_of_large_records_ends_early_and_goes_on() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let large = "x".repeat(1_000_000);
    for _ in 0..5 {
        let records = vec![record(&large); 8];
        assert_eq!(collector.logs(&logs_of(records), None).status, 200);
    }
    collector.settled();
    let first = collector.json("/api/logs?limit=1000");
    assert_eq!(first["records"].as_array().unwrap().len(), 16);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = collector.json(&format!("/api/logs?limit=1000&cursor={cursor}"));
    assert_eq!(second["records"].as_array().unwrap().len(), 16);
}

#[test]
fn a_page_is_bounded_by_what_it_takes_whatever_the_characters() {
    let nul_first = format!("\0{}", "a".repeat(900_000));
    let wide = "\u{1f600}".repeat(225_000);
    let escaped = "\u{1}".repeat(150_000);
    let severity = LogRecord { severity_text: "s".repeat(900_000), ..record("") };
    let named = [("nul", record(&nul_first)), ("wide", record(&wide)), ("escaped", record(&escaped))];
    for (what, record) in named.into_iter().chain([("severity", severity)]) {
        let data = tempdir().unwrap();
        let collector = Collector::start(data.path(), &[]);
        for _ in 0..2 {
            assert_eq!(collector.logs(&logs_of(vec![record.clone(); 10]), None).status, 200);
        }
        collector.settled();
        let answer = collector.get("/api/logs?limit=1000");
        // Its frame around the records is small.
        assert!(answer.body.len() <= (16 << 20) + 1000, "{what}: {} bytes", answer.body.len());
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(page["records"].as_array().unwrap().len(), 18, "{what}");
    }
}

#[test]
fn limits_are_exact_and_mistakes_are_named() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.logs(&numbered("a", 1001), None).status, 200);
    collector.settled();
    for (query, records) in [("", 100), ("limit=1", 1), ("limit=1000", 1000)] {
        assert_eq!(bodies(&collector.json(&format!("/api/logs?{query}"))).len(), records, "{query}");
    }
    let cases = [
        ("limit=1001", "limit", "1 to 1000"),
        ("limit=0", "limit", "1 to 1000"),
        ("from=yesterday", "from", "RFC 3339"),
        ("to=2026-01-01", "to", "RFC 3339"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from", "before `to`"),
        ("status=2x", "status", "100 to 999"),
        ("status=99", "status", "100 to 999"),
        ("min_duration_ms=-1", "min_duration_ms", "0 or a positive"),
        ("min_duration_ms=NaN", "min_duration_ms", "0 or a positive"),
        ("trace_id=12", "trace_id", "32 hexadecimal"),
        ("cursor=x", "cursor", "next_cursor"),
        ("statsu=200", "statsu", "no such parameter"),
        ("path=a&path=b", "path", "once"),
    ];
    for (query, parameter, allowed) in cases {
        let answer = collector.get(&format!("/api/logs?{query}"));
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &error["error"]["parameter"]), (400, &parameter.into()), "{query}");
        assert!(error["error"]["message"].as_str().unwrap().contains(allowed), "{query}: {error}");
    }
}

/// Request `number` as Envoy Gateway's default format has it, all in text, and without a body.
fn gateway_request(number: u64, path: &str, status: &str, milliseconds: &str) -> LogRecord {
    let fields = [
        ("start_time", "2026-01-01T00:00:00.000Z"),
        ("method", "GET"),
        ("x-envoy-origin-path", path),
        ("response_code", status),
        ("duration", milliseconds),
        (":authority", "shop.example"),
        ("upstream_cluster", "-"),
        ("route_name", "orders"),
    ];
    LogRecord {
        observed_time_unix_nano: T0 + number * SECOND,
        attributes: fields.map(|(name, value)| attribute(name, string(value))).to_vec(),
        ..LogRecord::default()
    }
}

#[test]
fn records_of_envoys_own_loggers_stay_as_they_came() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    // Envoy's OTLP logger: a body text, attributes as configured, no severity, no event name.
    let native = LogRecord {
        time_unix_nano: T0,
        body: Some(string("GET /native HTTP/1.1")),
        attributes: vec![attribute("duration", string("12")), attribute("flags", string("UF,URX"))],
        ..LogRecord::default()
    };
    assert_eq!(
        collector.logs(&logs_of(vec![native, gateway_request(1, "/a?b=c", "200", "12")]), None).status,
        200
    );
    collector.settled();
    let page = collector.json("/api/logs");
    let (gateway, native) = (&page["records"][0], &page["records"][1]);
    assert_eq!(native["body"], "GET /native HTTP/1.1");
    assert_eq!(native["attributes"], json!({"duration": "12", "flags": "UF,URX"}));
    assert_eq!((&native["trace_id"], &native["severity"]), (&"".into(), &"".into()));
    // Without a time of its own, the record has the one at which it was seen.
    assert_eq!(
        (&gateway["time"], &gateway["body"]),
        (&"2026-01-01T00:00:01.000000000Z".into(), &Value::Null)
    );
    let attributes = &gateway["attributes"];
    assert_eq!(attributes.as_object().unwrap().len(), 8);
    let found = ["x-envoy-origin-path", "response_code", "upstream_cluster"].map(|name| &attributes[name]);
    assert_eq!(found, ["/a?b=c", "200", "-"]);
}

#[test]
fn filters_find_the_records_of_every_dialect() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let line = "[2026-01-01T00:00:00.000Z] \"GET /orders/7?n=1 HTTP/1.1\" 503 UF via_upstream - \"-\" 0 98 2000 - \"-\" \
                \"curl/8\" \"-\" \"shop.example\" \"127.0.0.1:8000\" outbound|80||shop - - - - orders\n";
    let istio = LogRecord { time_unix_nano: T0, body: Some(string(line)), ..LogRecord::default() };
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let mut traced = gateway_request(2, "/orders/7", "404", "1");
    traced.attributes.push(attribute("traceparent", string(&format!("00-{trace_id}-b7ad6b7169203331-01"))));
    let records = vec![
        istio,
        request(1, "/orders/7", 503, 2.0),
        gateway_request(1, "/orders/7?n=2", "503", "1999"),
        gateway_request(1, "/", "0", "-"),
        traced,
    ];
    assert_eq!(collector.logs(&logs_of(records), None).status, 200);
    let labels = [("log_name", ""), ("zone_name", ""), ("cluster_name", "edge"), ("node_name", "edge-1")];
    let mut native = logs_of(vec![gateway_request(1, "/", "200", "1")]);
    native.resource_logs[0].resource.as_mut().unwrap().attributes =
        labels.map(|(name, value)| attribute(name, string(value))).to_vec();
    assert_eq!(collector.logs(&native, None).status, 200);
    collector.settled();
    let cases = [
        ("", 6),
        ("status=503", 3),
        ("path=/orders/7", 4),
        ("status=5xx&path=/orders/7&min_duration_ms=2000", 2),
        ("min_duration_ms=1999", 3),
        ("route=orders", 5),
        (&format!("trace_id={trace_id}"), 1),
        ("service=api", 5),
        ("service=edge&status=200", 1),
    ];
    for (query, records) in cases {
        let page = collector.json(&format!("/api/logs?{query}"));
        assert_eq!(page["records"].as_array().unwrap().len(), records, "{query}: {page}");
    }
}

#[test]
fn a_record_without_any_time_has_the_one_at_which_it_was_received() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let before = offpath_collector::clock::rfc3339(offpath_collector::clock::now_unix_nano());
    assert_eq!(collector.logs(&logs_of(vec![LogRecord::default()]), None).status, 200);
    collector.settled();
    let after = offpath_collector::clock::rfc3339(offpath_collector::clock::now_unix_nano());
    let record = collector.json("/api/logs")["records"][0].clone();
    let time = record["time"].as_str().unwrap();
    assert!(before.as_str() <= time && time <= after.as_str(), "{before} {time} {after}");
}

#[test]
fn structured_bodies_and_nested_attributes_keep_their_types() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let any = |value| AnyValue { value: Some(value) };
    let list =
        any(any_value::Value::ArrayValue(ArrayValue { values: vec![int(1), string("two"), double(0.5)] }));
    let map = any(any_value::Value::KvlistValue(KeyValueList { values: vec![attribute("list", list)] }));
    let sent = LogRecord {
        time_unix_nano: T0,
        body: Some(map.clone()),
        attributes: vec![
            attribute("map", map),
            attribute("bytes", any(any_value::Value::BytesValue(vec![0xff, 0x00]))),
            attribute("empty", AnyValue::default()),
        ],
        ..LogRecord::default()
    };
    assert_eq!(collector.logs(&logs_of(vec![sent]), None).status, 200);
    collector.settled();
    let record = &collector.json("/api/logs")["records"][0];
    assert_eq!(record["body"], json!({"list": [1, "two", 0.5]}));
    assert_eq!(
        record["attributes"],
        json!({"map": {"list": [1, "two", 0.5]}, "bytes": "/wA=", "empty": null})
    );
}
