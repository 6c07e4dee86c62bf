//! The two ways to read a request, and the two ways to load the plugin: they give equal records.

use offpath_host_test::{Cel, Mode, Request, get, post};
use serde_json::{Value, json};

use crate::support::{assert_accounted_for, builder, millis, records, secs};

/// Requests of every kind that a proxy sees; each with its response, or none.
fn requests() -> Vec<(&'static str, Request, Option<u16>)> {
    let long = "x".repeat(8192);
    let mut many_headers = get("/many");
    for index in 0..100 {
        many_headers = many_headers.header(format!("x-h{index}"), format!("{index}"));
    }
    vec![
        (
            "ordinary",
            get("/cart/1?q=1").header("user-agent", "curl").header("x-request-id", "r-1"),
            Some(200),
        ),
        (
            "bytes that are not UTF-8",
            get(b"/\xff\xfe?\x80=\xc3").header("user-agent", b"\xff\xfe\0x"),
            Some(200),
        ),
        (
            "not UTF-8 in recorded headers",
            get("/").header("x-tenant", b"\xf0\x28").response_header("x-cache", b"\xff"),
            Some(200),
        ),
        ("empty values", get("").header("user-agent", "").header("x-tenant", ""), Some(204)),
        ("duplicates", get("/").header("x-tenant", "a").header("x-tenant", "b"), Some(200)),
        ("a long path", get(format!("/{long}?{long}")), Some(414)),
        ("many headers", many_headers, Some(431)),
        (
            "gRPC",
            post("/s/M").header("content-type", "application/grpc").response_trailer("grpc-status", "5"),
            Some(200),
        ),
        ("an unknown method", Request::new("BREW", "/pot"), Some(418)),
        ("no response", get("/gone").flags(1 << 14), None),
        ("no upstream", get("/").without_upstream("no_healthy_upstream").flags(1 << 1), Some(503)),
        (
            "no route",
            get("/").with(|info| {
                info.route_name = None;
                info.cluster_name = None;
            }),
            Some(404),
        ),
        ("answered by an earlier filter", get("/").answered_early("ext_authz_denied"), Some(403)),
        ("outbound", get("/").with(|info| info.listener_direction = 2), Some(200)),
        ("HTTP/2", get("/").with(|info| info.protocol = Some(b"HTTP/2".to_vec())), Some(200)),
        (
            "a content length that is no number",
            get("/").header("content-length", "many").bytes(3, 4),
            Some(400),
        ),
        (
            "addresses that are none",
            get("/").with(|info| {
                info.source_address = b"\xff".to_vec();
                info.source_port = None;
            }),
            Some(200),
        ),
        (
            "a trace",
            get("/").header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            Some(200),
        ),
        ("a trace that is none", get("/").header("traceparent", b"00-\xff"), Some(200)),
        ("as fast as nothing", get("/").took(millis(0)), Some(200)),
        ("quotes and control characters", get("/\"'\\\n\r\t").header("x-tenant", "\"'\\"), Some(200)),
        ("malformed", Request::malformed(), Some(400)),
        ("abandoned", Request::abandoned(), None),
    ]
}

fn config() -> Value {
    json!({
        "logs": {"request_headers": ["x-tenant", "x-h7"], "response_headers": ["x-cache"]},
        "metrics": {"interval": "1s", "histograms": ["duration", "upstream", "proxy"],
                    "attributes": ["envoy.upstream.cluster", "envoy.route.name", "envoy.virtual_host.name"]},
    })
}

/// What the plugin exports for `requests`: the bodies by path, and how many requests it captured one by one.
fn exported(
    mode: Mode,
    cel: Cel,
    requests: Vec<(&'static str, Request, Option<u16>)>,
) -> (Vec<Vec<u8>>, u64) {
    let mut proxy = builder(config()).mode(mode).cel(cel).start().unwrap();
    for (case, request, status) in requests {
        let exchange = proxy.request(request);
        let ended = match status {
            Some(status) => exchange.respond(status),
            None => exchange.reset(),
        };
        ended.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert_accounted_for(&proxy);
    }
    proxy.advance(secs(3)).unwrap();
    let mut calls = proxy.cluster("otlp").answer_all(200).unwrap();
    assert_accounted_for(&proxy);
    calls.sort_by_key(|call| call.path().to_owned());
    (calls.into_iter().map(|call| call.body).collect(), proxy.counter("offpath_capture_fallbacks_total"))
}

#[test]
fn expressions_and_single_properties_give_equal_bytes() {
    let (by_list, fallbacks) = exported(Mode::AccessLogger, Cel::Built, requests());
    assert_eq!(fallbacks, 0);
    for cel in [Cel::NotBuilt, Cel::FailsToEvaluate] {
        let (one_by_one, fallbacks) = exported(Mode::AccessLogger, cel, requests());
        assert_eq!(fallbacks, requests().len() as u64, "{cel:?}");
        assert_eq!(one_by_one, by_list, "{cel:?}");
    }
}

#[test]
fn each_kind_of_request_gives_equal_bytes_on_its_own() {
    for request in requests() {
        let case = request.0;
        let (by_list, fallbacks) = exported(Mode::AccessLogger, Cel::Built, vec![request.clone()]);
        let (one_by_one, _) = exported(Mode::AccessLogger, Cel::NotBuilt, vec![request]);
        assert_eq!(fallbacks, 0, "{case}");
        assert_eq!(one_by_one, by_list, "{case}");
    }
}

#[test]
fn an_access_logger_and_a_filter_give_equal_bytes() {
    // Where the client goes away before the headers are complete there is no stream for a filter to see.
    let seen_by_both =
        || requests().into_iter().filter(|(case, ..)| *case != "abandoned").collect::<Vec<_>>();
    for cel in [Cel::Built, Cel::NotBuilt] {
        let logger = exported(Mode::AccessLogger, cel, seen_by_both());
        let filter = exported(Mode::HttpFilter, cel, seen_by_both());
        assert_eq!(filter, logger, "{cel:?}");
    }
}

#[test]
fn a_request_abandoned_before_its_headers_is_a_record_of_an_access_logger_only() {
    for (mode, expected) in [(Mode::AccessLogger, 1), (Mode::HttpFilter, 0)] {
        let mut proxy = builder(json!({})).mode(mode).start().unwrap();
        proxy.request(Request::abandoned()).reset().unwrap();
        proxy.advance(secs(2)).unwrap();
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        assert_eq!(records(&calls).len(), expected, "{mode:?}");
    }
}

#[test]
fn a_single_evaluation_that_fails_falls_back_for_that_request_only() {
    let mut proxy = builder(json!({})).start().unwrap();
    proxy.request(get("/1")).respond(200).unwrap();
    proxy.set_cel(Cel::FailsToEvaluate);
    proxy.request(get("/2")).respond(200).unwrap();
    proxy.set_cel(Cel::Built);
    proxy.request(get("/3")).respond(200).unwrap();
    assert_eq!(proxy.counter("offpath_capture_fallbacks_total"), 1);
    proxy.advance(secs(2)).unwrap();
    assert_eq!(records(&proxy.cluster("otlp").answer_all(200).unwrap()).len(), 3);
    assert_accounted_for(&proxy);
}
