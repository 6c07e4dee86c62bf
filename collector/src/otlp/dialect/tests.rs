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

/// All of Envoy Gateway's default fields (1.9, `EnvoyJSONLogFields`) as Envoy writes them.
const GATEWAY: [(&str, &str); 24] = [
    ("start_time", "2026-01-01T00:00:00.000Z"),
    ("method", "GET"),
    ("x-envoy-origin-path", "/orders/7?q=1"),
    ("protocol", "HTTP/1.1"),
    ("response_code", "503"),
    ("response_flags", "UF"),
    ("response_code_details", "upstream_reset_before_response_started{connection_failure}"),
    ("connection_termination_details", "-"),
    ("upstream_transport_failure_reason", "delayed_connect_error:_111"),
    ("bytes_received", "0"),
    ("bytes_sent", "98"),
    ("duration", "12"),
    ("x-envoy-upstream-service-time", "-"),
    ("x-forwarded-for", "192.0.2.2"),
    ("user-agent", "curl/8.9.1"),
    ("x-request-id", "04186347-7203-41d0-8b56-965bc32ef60a"),
    (":authority", "shop.example"),
    ("upstream_host", "127.0.0.1:8000"),
    ("upstream_cluster", "httproute/shop/orders/rule/0"),
    ("upstream_local_address", "-"),
    ("downstream_local_address", "127.0.0.1:10080"),
    ("downstream_remote_address", "192.0.2.2:41028"),
    ("requested_server_name", "-"),
    ("route_name", "httproute/shop/orders/rule/0/match/0/*"),
];

/// All fields of Istio's JSON format (1.30, `EnvoyJSONLogFormatIstio`) as Envoy writes them.
const ISTIO: [(&str, &str); 24] = [
    ("start_time", "2026-01-01T00:00:00.000Z"),
    ("route_name", "default"),
    ("method", "GET"),
    ("path", "/orders/7?q=1"),
    ("protocol", "HTTP/1.1"),
    ("response_code", "503"),
    ("response_flags", "UF"),
    ("response_code_details", "upstream_reset_before_response_started{connection_failure}"),
    ("connection_termination_details", "-"),
    ("bytes_received", "0"),
    ("bytes_sent", "98"),
    ("duration", "12"),
    ("upstream_service_time", "-"),
    ("x_forwarded_for", "192.0.2.2"),
    ("user_agent", "curl/8.9.1"),
    ("request_id", "04186347-7203-41d0-8b56-965bc32ef60a"),
    ("authority", "shop.example"),
    ("upstream_host", "127.0.0.1:8000"),
    ("upstream_cluster", "outbound|80||orders.shop.svc.cluster.local"),
    ("upstream_local_address", "-"),
    ("downstream_local_address", "127.0.0.1:15006"),
    ("downstream_remote_address", "192.0.2.2:41028"),
    ("requested_server_name", "-"),
    ("upstream_transport_failure_reason", "delayed_connect_error:_111"),
];

fn gateway_request() -> Request {
    request("GET", "/orders/7", 503, 0.012, Some("httproute/shop/orders/rule/0/match/0/*"))
}

fn istio_request() -> Request {
    request("GET", "/orders/7", 503, 0.012, Some("default"))
}

/// As a line of JSON, whose names come in the order in which `fields` are.
fn json(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect();
    format!("{{{}}}\n", fields.join(","))
}

/// What is read of fields as attributes, as a map and as a line of JSON.
fn of_fields(fields: &[(&str, &str)]) -> [Request; 3] {
    let map = KeyValueList { values: pairs(fields) };
    [of_attributes(fields), of_body(any_value::Value::KvlistValue(map)), of_line(&json(fields))]
}

#[test]
fn the_fields_of_envoy_gateway_and_istio_are_read_as_attributes_as_a_map_and_as_a_line_of_json() {
    for (fields, expected) in [(GATEWAY, gateway_request()), (ISTIO, istio_request())] {
        for (request, form) in of_fields(&fields).into_iter().zip(["attributes", "map", "line"]) {
            assert_eq!(request, expected, "{form}");
        }
        // Numbers, as Envoy's JSON formats write them.
        let line = json(&fields).replace("\"503\"", "503").replace("\"12\"", "12");
        assert_eq!(of_line(&line), expected);
    }
}

#[test]
fn envoy_gateways_name_of_the_path_goes_before_another_one_but_in_a_line() {
    let (rewritten, same) = (("path", "/v2/orders/7"), ("path", "/orders/7?q=1"));
    let without_path = Request { path: None, ..gateway_request() };
    for (path, of_line) in [(rewritten, without_path), (same, gateway_request())] {
        for fields in [[&GATEWAY[..], &[path]].concat(), [&[path][..], &GATEWAY].concat()] {
            assert_eq!(of_fields(&fields), [gateway_request(), gateway_request(), of_line.clone()]);
        }
    }
    // Where one has no value, the other one is all there is.
    let missing = [&ISTIO[..], &[("x-envoy-origin-path", "-")]].concat();
    assert_eq!(of_fields(&missing), [istio_request(), istio_request(), istio_request()]);
    let missing = [&GATEWAY[..], &[("path", "-")]].concat();
    assert_eq!(of_fields(&missing), [gateway_request(), gateway_request(), gateway_request()]);
}

#[test]
fn a_client_adds_no_fields_to_a_line_of_json() {
    for user_agent in [
        "\",\"response_code\":\"200",
        "\",\"x-envoy-origin-path\":\"/admin",
        "\",\"duration\":\"1",
        "a \"quoted\" word",
        "\\",
    ] {
        let line = json(&GATEWAY).replace("curl/8.9.1", user_agent);
        assert_eq!(of_line(&line), Request::default(), "{line}");
    }
    // The other name of the path is no field that comes twice.
    for (fields, request, added) in
        [(GATEWAY, gateway_request(), "path"), (ISTIO, istio_request(), "x-envoy-origin-path")]
    {
        let line = json(&fields).replace("curl/8.9.1", &format!("x\",\"{added}\":\"/admin"));
        assert_eq!(of_line(&line), Request { path: None, ..request }, "{line}");
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
