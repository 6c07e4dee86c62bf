//! Records of other loggers as they really look, and what is read of them.

use opentelemetry_proto::tonic::common::v1::{KeyValue, KeyValueList};

use super::*;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN_ID: &str = "b7ad6b7169203331";

fn any(value: any_value::Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pairs(fields: &[(&str, &str)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(any(any_value::Value::StringValue((*value).to_owned()))),
        ..KeyValue::default()
    };
    fields.iter().map(pair).collect()
}

fn of_attributes(fields: &[(&str, &str)]) -> Request {
    let record = LogRecord { attributes: pairs(fields), ..LogRecord::default() };
    Request::of(&record, &attributes(&record.attributes))
}

fn of_body(body: any_value::Value) -> Request {
    let record = LogRecord { body: Some(any(body)), ..LogRecord::default() };
    Request::of(&record, &Attributes::new())
}

fn of_line(line: &str) -> Request {
    of_body(any_value::Value::StringValue(line.to_owned()))
}

fn request(method: &str, path: &str, status: i64, duration_seconds: f64, route: Option<&str>) -> Request {
    Request {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        route: route.map(str::to_owned),
        status: Some(status),
        duration_seconds: Some(duration_seconds),
        ..Request::default()
    }
}

/// As Envoy 1.40 writes Envoy Gateway's default fields; those behind `duration` that matter here.
const GATEWAY: [(&str, &str); 8] = [
    ("start_time", "2026-01-01T00:00:00.000Z"),
    ("method", "GET"),
    ("x-envoy-origin-path", "/orders/7?q=1"),
    ("protocol", "HTTP/1.1"),
    ("response_code", "503"),
    ("response_flags", "UF"),
    ("duration", "12"),
    ("route_name", "httproute/shop/orders/rule/0/match/0/*"),
];

fn gateway_request() -> Request {
    request("GET", "/orders/7", 503, 0.012, Some("httproute/shop/orders/rule/0/match/0/*"))
}

#[test]
fn envoy_gateways_fields_are_read_as_attributes_as_a_map_and_as_a_line_of_json() {
    assert_eq!(of_attributes(&GATEWAY), gateway_request());
    let map = KeyValueList { values: pairs(&GATEWAY) };
    assert_eq!(of_body(any_value::Value::KvlistValue(map)), gateway_request());
    let json = |fields: &[(&str, &str)]| {
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect();
        format!("{{{}}}\n", fields.join(","))
    };
    assert_eq!(of_line(&json(&GATEWAY)), gateway_request());
    assert_eq!(of_line(&json(&GATEWAY).replace("\"503\"", "503")), gateway_request());
}

#[test]
fn istios_fields_differ_in_the_name_of_the_path() {
    let fields = GATEWAY.map(|(key, value)| (key.replace("x-envoy-origin-path", "path"), value));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    assert_eq!(of_attributes(&fields), gateway_request());
}

#[test]
fn a_client_adds_no_fields_to_a_line_of_json() {
    for user_agent in ["\",\"response_code\":\"200", "\",\"path\":\"/admin", "a \"quoted\" word", "\\"] {
        let line = format!(
            "{{\"method\":\"GET\",\"x-envoy-origin-path\":\"/\",\"response_code\":\"503\",\"user-agent\":\"{user_agent}\"}}"
        );
        assert_eq!(of_line(&line), Request::default(), "{line}");
    }
}

#[test]
fn lines_of_envoys_default_format_are_read_up_to_what_clients_choose() {
    for user_agent in ["curl/8", "a \"b\" c", "\" 200 - 1 2 3 \"", "-"] {
        let line = format!(
            "[2026-01-01T00:00:00.000Z] \"GET /orders/7?q=1 HTTP/2\" 503 UF 0 98 12 - \"192.0.2.2\" \"{user_agent}\" \
             \"86a44756\" \"shop.example\" \"127.0.0.1:8000\"\n"
        );
        assert_eq!(of_line(&line), request("GET", "/orders/7", 503, 0.012, None), "{line}");
    }
}

#[test]
fn lines_of_istios_default_format_tell_the_route_too() {
    for (details, reason, user_agent) in [
        ("via_upstream", "-", "curl/8"),
        (
            "upstream_reset_before_response_started{connection_failure}",
            "delayed_connect_error:_111",
            "a \"b\" c",
        ),
    ] {
        let line = format!(
            "[2026-01-01T00:00:00.000Z] \"GET /orders/7 HTTP/1.1\" 503 UF {details} - \"{reason}\" 0 98 1200 - \
             \"192.0.2.2\" \"{user_agent}\" \"86a44756\" \"shop.example\" \"127.0.0.1:8000\" \
             outbound|80||shop.svc - 127.0.0.1:21000 127.0.0.1:41028 - orders\n"
        );
        assert_eq!(of_line(&line), request("GET", "/orders/7", 503, 1.2, Some("orders")), "{line}");
    }
}

#[test]
fn lines_of_other_formats_are_left_alone() {
    for line in [
        "",
        "[",
        "{",
        "[2026] \"GET / HTTP/1.1\"",
        "[2026] \"GET / HTTP/1.1\" 200",
        "[2026] \"GET / HTTP/1.1\" 200 - 0 5",
        "[2026] \"GET / HTTP/1.1\" 200 - 0 5 x",
        "[2026] \"GET / HTTP/1.1\" OK - 0 5 1 -",
        "[2026] \"GET /\" 200 - 0 5 1 -",
        "[2026] \"GET / GOPHER\" 200 - 0 5 1 -",
        "GET /orders/7 200 12ms",
        "{\"msg\":\"response_code\"}",
        "{\"response_code\":",
    ] {
        assert_eq!(of_line(line), Request::default(), "{line}");
    }
    // Of an application: nothing says that it is a request, or in which unit it took how long.
    let fields = [("method", "charge"), ("path", "/tmp/x"), ("duration", "12")];
    assert_eq!(of_attributes(&fields), Request::default());
}

#[test]
fn missing_values_are_none() {
    for (missing, of_status) in [("-", "0"), ("", "-"), ("-", "")] {
        let fields = [
            ("method", missing),
            ("path", missing),
            ("response_code", of_status),
            ("duration", missing),
            ("route_name", missing),
            ("traceparent", missing),
        ];
        assert_eq!(of_attributes(&fields), Request::default());
    }
    let line = "[2026-01-01T00:00:00.000Z] \"- - HTTP/1.1\" 0 DC 0 0 3 - \"-\" \"-\" \"-\" \"-\" \"-\"\n";
    assert_eq!(of_line(line), Request { duration_seconds: Some(0.003), ..Request::default() });
}

#[test]
fn the_conventions_go_before_every_dialect() {
    let mut fields = GATEWAY.to_vec();
    fields.extend([
        ("http.request.method", "POST"),
        ("url.path", "/pay?card=1"),
        ("http.response.status_code", "201"),
        ("http.server.request.duration", "12"),
        ("envoy.route.name", "pay"),
    ]);
    // A text has no unit that anybody knows.
    let mut expected = request("POST", "/pay", 201, 0.0, Some("pay"));
    expected.duration_seconds = None;
    assert_eq!(of_attributes(&fields), expected);
    fields.push(("http.route", "/pay/{card}"));
    assert_eq!(of_attributes(&fields).route.as_deref(), Some("/pay/{card}"));
}

#[test]
fn a_trace_is_the_records_own_or_else_what_a_field_says() {
    let traceparent = format!("00-{TRACE_ID}-{SPAN_ID}-01");
    let own = u128::from_str_radix(TRACE_ID, 16).unwrap().to_be_bytes();
    let span = u64::from_str_radix(SPAN_ID, 16).unwrap().to_be_bytes();
    for fields in
        [vec![("traceparent", traceparent.as_str())], vec![("trace_id", TRACE_ID), ("span_id", SPAN_ID)]]
    {
        let request = of_attributes(&fields);
        assert_eq!((request.trace_id, request.span_id), (Some(own), Some(span)), "{fields:?}");
        let record = LogRecord { trace_id: vec![1; 16], attributes: pairs(&fields), ..LogRecord::default() };
        let request = Request::of(&record, &attributes(&record.attributes));
        assert_eq!((request.trace_id, request.span_id), (Some([1; 16]), None), "{fields:?}");
    }
    let zeros = format!("00-{}-{SPAN_ID}-01", "0".repeat(32));
    for traceparent in ["00", "00-12-34-01", &zeros, &traceparent.replace('a', "g"), "-", "00--"] {
        assert_eq!(of_attributes(&[("traceparent", traceparent)]), Request::default(), "{traceparent}");
    }
}

#[test]
fn a_service_without_a_name_is_the_cluster_of_envoys_node() {
    let resource = |fields: &[(&str, &str)]| attributes(&pairs(fields));
    let labels = [("log_name", ""), ("zone_name", ""), ("node_name", "edge-1"), ("cluster_name", "edge")];
    assert_eq!(service(&resource(&labels)).as_deref(), Some("edge"));
    assert_eq!(service(&resource(&[("cluster_name", "k8s")])), None, "nothing says that it is Envoy's");
    let named = [labels.as_slice(), &[("service.name", "shop")]].concat();
    assert_eq!(service(&resource(&named)).as_deref(), Some("shop"));
}
