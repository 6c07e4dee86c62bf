//! What a record says, what it never says, and how long it may be.

use std::sync::Arc;

use super::*;
use crate::capture::Plan;
use crate::config::Config;
use crate::otlp::envelope::Envelope;
use crate::route::Routes;
use crate::testing::{Told, config, list};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use proptest::prelude::*;
use prost::Message;

const NOW: u64 = 1_700_000_000_500_000_000;

/// Encodes a request, decodes it as a receiver would, and tells how many bytes it took.
fn record_of(told: &Told, logs: &str) -> (LogRecord, usize) {
    let config = config(&format!(r#""logs":{{{logs}}}"#));
    record_within(told, &config, config.logs.max_record_bytes)
}

fn record_within(told: &Told, config: &Config, max_record_bytes: usize) -> (LogRecord, usize) {
    let plan = Plan::new(config);
    let captured = told.captured(&plan);
    let request = FinishedRequest::read(&plan, &captured, NOW);
    let envelope = Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0");
    let mut body = Vec::new();
    let open = envelope.begin(&mut body);
    let redactor = Redactor::new(config, &Arc::new(Routes::new(&config.routes).unwrap()));
    Encoder::new(&config.logs, redactor, max_record_bytes).encode(&request, NOW, &mut body);
    open.end(&mut body);
    let mut decoded = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
    let scope_logs = &mut decoded.resource_logs[0].scope_logs[0];
    assert_eq!(scope_logs.log_records.len(), 1);
    // Less the tag and the padded length.
    (scope_logs.log_records.remove(0), body.len() - envelope.encoded_len() - 4)
}

fn shown(value: &AnyValue) -> String {
    match value.value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => format!("{number:?}"),
        Value::BoolValue(flag) => flag.to_string(),
        Value::ArrayValue(array) => {
            format!("[{}]", array.values.iter().map(shown).collect::<Vec<_>>().join(","))
        }
        other => panic!("{other:?}"),
    }
}

fn attributes(record: &LogRecord) -> Vec<String> {
    record
        .attributes
        .iter()
        .map(|KeyValue { key, value, .. }| format!("{key}={}", shown(value.as_ref().unwrap())))
        .collect()
}

fn attribute(record: &LogRecord, key: &str) -> Option<String> {
    record
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)
        .map(|attribute| shown(attribute.value.as_ref().unwrap()))
}

#[test]
fn a_request_becomes_a_record_with_the_conventions_names() {
    let (record, _) = record_of(&Told::ordinary(), "");
    assert_eq!(
        attributes(&record),
        [
            "http.request.method=GET",
            "http.response.status_code=200",
            "http.server.request.duration=0.012",
            "offpath.sample.weight=1.0",
            "url.scheme=http",
            "network.protocol.version=1.1",
            "envoy.upstream.duration=0.01",
            "http.request.size=120",
            "http.response.size=300",
            "url.path=/orders/7",
            "envoy.response.code_details=via_upstream",
            "envoy.upstream.cluster=orders",
            "envoy.upstream.address=10.9.9.9:80",
            "envoy.route.name=all",
            "envoy.request.id=6e1b",
            "client.address=10.1.2.3",
            "server.address=shop.example",
            "server.port=8080",
            "url.query=token=REDACTED&page=2",
            "user_agent.original=curl/8",
        ]
    );
    assert_eq!(record.time_unix_nano, 1_700_000_000_000_000_000);
    assert_eq!(record.observed_time_unix_nano, NOW);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert_eq!(shown(record.body.as_ref().unwrap()), "GET /orders/7 200 12ms");
    assert_eq!(record.event_name, "http.server.request");
    assert_eq!(record.trace_id, 0x4bf92f3577b34da6a3ce929d0e0e4736u128.to_be_bytes());
    assert_eq!(record.span_id, 0x00f067aa0ba902b7u64.to_be_bytes());
    assert_eq!((record.flags, record.dropped_attributes_count), (1, 0));
}

#[test]
fn a_request_of_which_nothing_is_known_becomes_a_record_all_the_same() {
    let (record, _) = record_of(&Told::default(), r#""request_headers":["x-a"]"#);
    assert_eq!(
        attributes(&record),
        [
            "http.request.method=_OTHER",
            "http.server.request.duration=0.0",
            "offpath.sample.weight=1.0",
            "error.type=_OTHER"
        ]
    );
    assert_eq!(shown(record.body.as_ref().unwrap()), "_OTHER - - 0ms");
    assert_eq!((record.time_unix_nano, record.severity_number), (NOW, 17));
    assert!(record.trace_id.is_empty() && record.span_id.is_empty());
}

#[test]
fn failures_say_why() {
    let (record, _) =
        record_of(&Told::ordinary().int("response.code", 503).int("response.flags", 1 << 5 | 1 << 15), "");
    assert_eq!(attribute(&record, "error.type").unwrap(), "503");
    assert_eq!(attribute(&record, "envoy.response.flags").unwrap(), "UF,URX");
    assert_eq!(record.severity_text, "ERROR");

    let grpc = Told::ordinary()
        .text("request.headers.content-type", "application/grpc+proto")
        .int("response.grpc_status", 14);
    let (record, _) = record_of(&grpc, "");
    assert_eq!(attribute(&record, "rpc.response.status_code").unwrap(), "UNAVAILABLE");
    assert_eq!(attribute(&record, "error.type").unwrap(), "UNAVAILABLE");

    let (record, _) =
        record_of(&Told::ordinary().text("request.method", "BREW").int("response.code", 404), "");
    assert_eq!(attribute(&record, "http.request.method_original").unwrap(), "BREW");
    assert_eq!(record.severity_text, "WARN");
}

#[test]
fn only_listed_headers_are_recorded_and_credentials_never() {
    let told = Told::ordinary()
        .text("request.headers.x-a", "one,two")
        .text("request.headers.authorization", "Bearer s3cret")
        .text("request.headers.x-b", "not listed")
        .text("response.headers.set-cookie", "id=s3cret");
    let (record, _) = record_of(
        &told,
        r#""request_headers":["X-A","Authorization","x-gone"],"response_headers":["set-cookie"]"#,
    );
    let all = attributes(&record);
    assert_eq!(
        all[all.len() - 3..],
        [
            "http.request.header.authorization=[REDACTED]",
            "http.request.header.x-a=[one,two]",
            "http.response.header.set-cookie=[REDACTED]",
        ]
    );
    assert!(!format!("{record:?}").contains("s3cret") && !format!("{record:?}").contains("not listed"));
}

/// The answer to an expression: its type's letter, and its value.
fn answer(letter: &str, value: &[u8]) -> Vec<u8> {
    list(&[letter.as_bytes(), value])
}

#[test]
fn attributes_that_users_name_keep_their_types_and_their_bounds() {
    let logs = r#""attributes":{"s":"a()","i":"b()","l":"c()","none":"d()","secret":"request.headers.cookie",
        "secrets":"[request.headers['Cookie']]","url":"f()"}"#;
    let long = "é".repeat(300);
    let told = Told::ordinary()
        .bytes("s", &answer("s", long.as_bytes()))
        .bytes("i", &answer("i", &(-7_i64).to_le_bytes()))
        .bytes("l", &answer("l", &list(&[b"a", b"\xff", long.as_bytes()])))
        .text("request.headers.cookie", "s3cret")
        .bytes("secrets", &answer("l", &list(&[b"s3cret", b""])))
        .bytes("url", &answer("s", b"https://ann:s3cret@example/?token=s3cret&a=1"));
    let (record, _) = record_of(&told, logs);
    let cut = "é".repeat(128);
    assert_eq!(attribute(&record, "s").unwrap(), cut);
    assert_eq!(attribute(&record, "i").unwrap(), "-7");
    assert_eq!(attribute(&record, "l").unwrap(), format!("[a,\u{fffd},{cut}]"));
    assert_eq!(attribute(&record, "none"), None);
    assert_eq!(attribute(&record, "secret").unwrap(), "REDACTED");
    assert_eq!(attribute(&record, "secrets").unwrap(), "[REDACTED,]");
    assert_eq!(attribute(&record, "url").unwrap(), "https://REDACTED@example/?token=REDACTED&a=1");
    assert_eq!(attribute(&record, "offpath.truncated").unwrap(), "true");
}

#[test]
fn no_attribute_of_a_record_can_be_named_by_a_user() {
    let told = Told::ordinary()
        .text("request.method", "BREW")
        .text("request.headers.content-type", "application/grpc");
    for flags in [0, 1 << 14] {
        let told = told
            .clone()
            .int("response.flags", flags)
            .int("response.code", 101)
            .int("xds.listener_direction", 2 - flags);
        let (record, _) = record_of(&told, r#""request_headers":["user-agent"]"#);
        for KeyValue { key, .. } in &record.attributes {
            let json =
                format!(r#"{{"collector":{{"cluster":"c"}},"logs":{{"attributes":{{"{key}":"1"}}}}}}"#);
            assert!(Config::parse(json.as_bytes()).is_err(), "{key}");
        }
    }
}

#[test]
fn hosts_are_split_from_their_ports() {
    for (host, address, port) in [
        ("shop.example", "shop.example", None),
        ("shop.example:80", "shop.example", Some("80")),
        ("[2001:db8::1]:443", "2001:db8::1", Some("443")),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("shop:port", "shop:port", None),
        ("shop:99999", "shop", None),
        ("me:s3cret@shop.example:80", "shop.example", Some("80")),
        ("s3cret@", "", None),
    ] {
        let (record, _) = record_of(&Told::ordinary().text("request.host", host), "");
        assert_eq!(attribute(&record, "server.address").unwrap_or_default(), address, "{host}");
        assert_eq!(attribute(&record, "server.port").as_deref(), port, "{host}");
    }
}

#[test]
fn long_values_are_cut_at_a_character_and_the_record_says_so() {
    let path = format!("/{}", "ü".repeat(3000));
    let (record, _) = record_of(&Told::ordinary().text("request.path", &path), "");
    let told = attribute(&record, "url.path").unwrap();
    assert_eq!(told.len(), 2047, "cut below the bound, between characters");
    assert!(path.starts_with(&told));
    assert_eq!(attribute(&record, "offpath.truncated").unwrap(), "true");
    assert_eq!(record.dropped_attributes_count, 0);

    for (len, truncated) in [(2047, None), (2048, None), (2049, Some("true"))] {
        let (record, _) = record_of(&Told::ordinary().text("request.path", &"/".repeat(len)), "");
        assert_eq!(attribute(&record, "offpath.truncated").as_deref(), truncated, "{len} bytes");
    }
}

#[test]
fn a_cut_body_is_said_too_and_larger_records_take_longer_values() {
    let path = format!("/{}", "x".repeat(199));
    let (record, _) = record_of(&Told::ordinary().text("request.path", &path), r#""max_record_bytes":520"#);
    assert!(!shown(record.body.as_ref().unwrap()).contains(&path));
    assert_eq!(attribute(&record, "offpath.truncated").unwrap(), "true");

    let path = format!("/{}", "x".repeat(8191));
    let (record, _) = record_of(&Told::ordinary().text("request.path", &path), r#""max_record_bytes":32768"#);
    assert_eq!(attribute(&record, "url.path").unwrap(), path);
    assert!(shown(record.body.as_ref().unwrap()).contains(&path));
    assert_eq!(attribute(&record, "offpath.truncated"), None);
}

#[test]
fn listed_headers_that_are_urls_lose_their_secrets() {
    let told = Told::ordinary()
        .text("request.headers.referer", "https://me:s3cret@shop/?token=s3cret&a=1")
        .text("response.headers.location", "/cb?code=s3cret#access_token=s3cret");
    let (record, _) = record_of(&told, r#""request_headers":["referer"],"response_headers":["location"]"#);
    let told = |key| attribute(&record, key).unwrap();
    assert_eq!(told("http.request.header.referer"), "[https://REDACTED@shop/?token=REDACTED&a=1]");
    assert_eq!(told("http.response.header.location"), "[/cb?code=REDACTED#access_token=REDACTED]");
}

#[test]
fn a_tight_bound_leaves_the_least_out_first() {
    let long = "x".repeat(2000);
    let told =
        Told::ordinary().text("request.useragent", &long).text("request.path", &format!("/{long}?{long}"));
    let (record, len) = record_of(&told, r#""max_record_bytes":512,"request_headers":["x-a"]"#);
    assert!(len <= 512, "{len} bytes");
    assert_eq!(attribute(&record, "http.response.status_code").unwrap(), "200");
    assert_eq!(attribute(&record, "user_agent.original"), None);
    assert_eq!(attribute(&record, "offpath.truncated").unwrap(), "true");
    assert!(record.dropped_attributes_count > 0);
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let (record, _) = record_of(
        &Told::ordinary().bytes("request.path", b"/a\xff\xfe/b").bytes("request.useragent", b"\xc3"),
        "",
    );
    assert_eq!(attribute(&record, "url.path").unwrap(), "/a\u{fffd}\u{fffd}/b");
    assert_eq!(attribute(&record, "user_agent.original").unwrap(), "\u{fffd}");
}

proptest! {
    #[test]
    fn whatever_the_host_tells_the_record_decodes_and_keeps_its_bound(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 30),
        max_record_bytes in 256usize..4096,
    ) {
        let config = config(r#""logs":{"attributes":{"a":"f()","b":"f()"}}"#);
        let plan = Plan::new(&config);
        let texts: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let mut told = Told::default().bytes("a", &answer("l", &list(&texts))).bytes("b", &answer("l", &list(&texts[..2])));
        for (path, value) in plan.property_paths().zip(&values) {
            told = told.bytes(&String::from_utf8_lossy(path).replace('\0', "."), value);
        }
        let (_, len) = record_within(&told, &config, max_record_bytes);
        prop_assert!(len <= max_record_bytes, "{len} bytes of {max_record_bytes}");
    }
}
