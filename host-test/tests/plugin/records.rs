//! Log records: what one says of its request.

use std::collections::BTreeMap;

use offpath_host_test::{Request, get, post};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};

use crate::support::{attributes, builder, decode_logs, double, int, millis, proxy, records, secs, text};

/// The record of one request, under a configuration.
fn record_of(changes: Value, request: Request, status: Option<u16>) -> LogRecord {
    let mut proxy = proxy(changes);
    let exchange = proxy.request(request);
    match status {
        Some(status) => exchange.respond(status),
        None => exchange.reset(),
    }
    .unwrap();
    proxy.advance(secs(2)).unwrap();
    let mut records = records(&proxy.cluster("otlp").answer_all(200).unwrap());
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn attributes_of(changes: Value, request: Request, status: u16) -> BTreeMap<String, AnyValue> {
    attributes(&record_of(changes, request, Some(status)).attributes)
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Any::StringValue(line)) => line,
        other => panic!("the body is {other:?}"),
    }
}

#[test]
fn a_record_has_the_contracts_attributes() {
    let request = get("/orders/7?page=2#top")
        .header("user-agent", "curl/8.5.0")
        .header("x-request-id", "5f1c")
        .bytes(0, 321)
        .with(|info| info.route_name = Some(b"orders".to_vec()));
    let expected = [
        ("http.request.method", text("GET")),
        ("http.response.status_code", int(200)),
        ("http.server.request.duration", double(0.012)),
        ("offpath.sample.weight", double(1.0)),
        ("url.scheme", text("http")),
        ("url.path", text("/orders/7")),
        ("url.query", text("page=2")),
        ("network.protocol.version", text("1.1")),
        ("user_agent.original", text("curl/8.5.0")),
        ("server.address", text("shop.example")),
        ("client.address", text("10.0.0.7")),
        ("envoy.response.code_details", text("via_upstream")),
        ("envoy.upstream.cluster", text("shop")),
        ("envoy.upstream.address", text("10.0.1.5:9000")),
        ("envoy.upstream.duration", double(0.009)),
        ("envoy.route.name", text("orders")),
        ("envoy.request.id", text("5f1c")),
        // Headers included, as OpenTelemetry defines these two.
        ("http.request.size", int(104)),
        ("http.response.size", int(331)),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(attributes_of(json!({}), request, 200), expected);
}

#[test]
fn a_record_has_its_requests_times_ids_severity_and_line() {
    let request =
        get("/orders/7").header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let mut proxy = proxy(json!({}));
    let ended = proxy.now_unix_nanos();
    proxy.request(request).respond(200).unwrap();
    proxy.advance(secs(2)).unwrap();
    let record = records(&proxy.cluster("otlp").answer_all(200).unwrap()).remove(0);
    assert_eq!(record.time_unix_nano, ended - 12_000_000);
    assert_eq!(record.observed_time_unix_nano, ended);
    assert_eq!(record.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(record.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!((record.severity_number, record.severity_text.as_str()), (9, "INFO"));
    assert_eq!(record.event_name, "http.server.request");
    assert_eq!(body(&record), "GET /orders/7 200 12ms");
}

#[test]
fn severity_and_error_type_follow_the_outcome() {
    const UPSTREAM_RESET: u64 = 1 << 6;
    const CLIENT_GONE: u64 = 1 << 14;
    let grpc = || post("/shop.Cart/Add").header("content-type", "application/grpc");
    let cases = [
        ("ordinary", get("/"), Some(200), "INFO", None),
        ("client error", get("/"), Some(404), "WARN", None),
        ("server error", get("/"), Some(503), "ERROR", Some("503")),
        ("reset upstream", get("/").flags(UPSTREAM_RESET), None, "ERROR", Some("UC")),
        ("client gone", get("/").flags(CLIENT_GONE), None, "ERROR", Some("DC")),
        ("gRPC done", grpc().response_trailer("grpc-status", "0"), Some(200), "INFO", None),
        (
            "gRPC failed",
            grpc().response_trailer("grpc-status", "14"),
            Some(200),
            "ERROR",
            Some("UNAVAILABLE"),
        ),
        ("no gRPC", get("/").response_trailer("grpc-status", "14"), Some(200), "INFO", None),
    ];
    for (case, request, status, severity, error_type) in cases {
        let record = record_of(json!({}), request, status);
        assert_eq!(record.severity_text, severity, "{case}");
        assert_eq!(attributes(&record.attributes).get("error.type"), error_type.map(text).as_ref(), "{case}");
    }
}

#[test]
fn what_a_malformed_request_lacks_is_left_out() {
    let record = record_of(json!({}), Request::malformed(), Some(400));
    let names: Vec<_> = attributes(&record.attributes).into_keys().collect();
    let expected = [
        "client.address",
        "envoy.response.code_details",
        "envoy.response.flags",
        "http.request.method",
        "http.request.size",
        "http.response.size",
        "http.response.status_code",
        "http.server.request.duration",
        "network.protocol.version",
        "offpath.sample.weight",
    ];
    assert_eq!(names, expected);
    assert_eq!(attributes(&record.attributes)["http.request.method"], text("_OTHER"));
    assert!(record.trace_id.is_empty() && record.span_id.is_empty());
    assert_eq!(body(&record), "_OTHER - 400 0ms");
}

#[test]
fn outbound_requests_are_the_clients() {
    let attributes = attributes_of(json!({}), get("/").with(|info| info.listener_direction = 2), 200);
    assert!(attributes.contains_key("http.client.request.duration"), "{attributes:?}");
    assert!(!attributes.contains_key("http.server.request.duration"), "{attributes:?}");
}

#[test]
fn only_allowed_headers_are_recorded_and_never_credentials() {
    let config = json!({"logs": {
        "request_headers": ["X-Tenant", "authorization", "x-none"],
        "response_headers": ["x-cache", "Set-Cookie"],
    }});
    let request = get("/")
        .header("x-tenant", "a")
        .header("x-tenant", "b")
        .header("x-other", "other")
        .header("Authorization", "Bearer s3cr3t")
        .response_header("x-cache", "HIT")
        .response_header("set-cookie", "session=s3cr3t");
    let record = record_of(config, request, Some(200));
    let attributes = attributes(&record.attributes);
    let header = |name: &str| format!("{:?}", attributes.get(name));
    assert!(header("http.request.header.x-tenant").contains("\"a,b\""), "{attributes:?}");
    assert!(header("http.request.header.authorization").contains("REDACTED"), "{attributes:?}");
    assert!(header("http.response.header.x-cache").contains("\"HIT\""), "{attributes:?}");
    assert!(header("http.response.header.set-cookie").contains("REDACTED"), "{attributes:?}");
    let text = format!("{record:?}");
    for absent in ["s3cr3t", "other", "x-none"] {
        assert!(!text.contains(absent), "`{absent}` is in {text}");
    }
}

#[test]
fn secrets_in_the_query_are_never_told() {
    let request = get("/login?user=ann&password=s3cr3t&%74oken=s3cr3t");
    let record = record_of(json!({}), request, Some(200));
    assert_eq!(
        attributes(&record.attributes)["url.query"],
        text("user=ann&password=REDACTED&%74oken=REDACTED")
    );
    assert!(!format!("{record:?}").contains("s3cr3t"));
}

#[test]
fn the_clients_address_is_told_as_far_as_allowed() {
    let cases = [
        ("full", "10.1.2.3:5555", Some("10.1.2.3")),
        ("truncated", "10.1.2.3:5555", Some("10.1.2.0")),
        ("full", "[2001:db8:1:2::3]:5555", Some("2001:db8:1:2::3")),
        ("truncated", "[2001:db8:1:2::3]:5555", Some("2001:db8:1::")),
        ("none", "10.1.2.3:5555", None),
    ];
    for (mode, address, expected) in cases {
        let request = get("/").with(|info| info.source_address = address.as_bytes().to_vec());
        let attributes = attributes_of(json!({"logs": {"client_address": mode}}), request, 200);
        assert_eq!(attributes.get("client.address"), expected.map(text).as_ref(), "{mode} {address}");
    }
}

#[test]
fn a_record_that_was_cut_says_so_and_keeps_its_bound() {
    use prost::Message as _;
    for max_record_bytes in [512, 513, 8192] {
        let request = get(format!("/{}", "é".repeat(5000))).header("user-agent", "u".repeat(5000));
        let config = json!({"logs": {"max_record_bytes": max_record_bytes}});
        let record = record_of(config, request, Some(200));
        assert!(record.encoded_len() <= max_record_bytes, "{} > {max_record_bytes}", record.encoded_len());
        let value = attributes(&record.attributes).remove("offpath.truncated");
        assert_eq!(value, Some(AnyValue { value: Some(Any::BoolValue(true)) }));
    }
}

#[test]
fn the_resource_is_the_users_and_the_proxys() {
    let config =
        json!({"collector": {"cluster": "otlp"}, "resource": {"deployment.environment.name": "test"}});
    let mut proxy = builder(config).node("sidecar-7", "shop-frontend").start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    proxy.advance(secs(2)).unwrap();
    let call = proxy.cluster("otlp").answer(200).unwrap();
    let request = decode_logs(&call);
    let resource = attributes(&request.resource_logs[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource["deployment.environment.name"], text("test"));
    assert_eq!(resource["service.name"], text("shop-frontend"));
    assert_eq!(resource["envoy.node.id"], text("sidecar-7"));
    let batch = call.header("x-offpath-batch").unwrap();
    let (instance, sequence) = batch.rsplit_once('-').unwrap();
    assert_eq!(resource["service.instance.id"], text(instance));
    assert_eq!(sequence, "1");
}

#[test]
fn no_record_is_captured_where_logs_are_off() {
    let mut proxy = proxy(json!({"logs": {"enabled": false}, "metrics": {"interval": "1s"}}));
    proxy.request(get("/").took(millis(5))).respond(200).unwrap();
    proxy.advance(secs(3)).unwrap();
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    assert!(calls.iter().all(|call| call.path() == "/v1/metrics") && !calls.is_empty());
    assert_eq!(proxy.counter("offpath_records_captured_total"), 0);
}
