//! `proxy_get_property`: encodings and statuses, and what is in scope of which hook.

use std::time::Duration;

use crate::probe::{Arg, Out, Outcome, Probe, bytes};
use offpath_host_test::{Mode, Proxy, Request, Status, get};

fn read(path: &str, request: Request) -> Outcome {
    let probe = Probe::on_log("proxy_get_property", &[bytes(path), Arg::OutBytes]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(request).respond(404).unwrap();
    probe.outcomes(&proxy, "proxy_on_log").remove(0)
}

fn ok(bytes: impl AsRef<[u8]>) -> Outcome {
    Outcome { status: Status::Ok.code(), results: vec![Out::Bytes(bytes.as_ref().to_vec())] }
}

fn empty() -> Outcome {
    Outcome { status: Status::Ok.code(), results: vec![Out::Null] }
}

fn refused(status: Status) -> Outcome {
    Outcome { status: status.code(), results: vec![Out::Null] }
}

#[test]
fn a_total_size_is_the_body_and_the_names_and_values_of_all_headers() {
    // :authority shop.example, :path /, :method GET, :scheme http, a b; and :status 404, c d, e f.
    let request =
        || get("/").header("a", "b").response_header("c", "d").response_trailer("e", "f").bytes(7, 9);
    let (sent, answered) = (22 + 6 + 10 + 11 + 2, 10 + 2);
    let cases = [
        ("request\0headers_bytes", sent),
        ("request\0total_size", sent + 7),
        ("response\0headers_bytes", answered),
        ("response\0total_size", answered + 2 + 9),
    ];
    for (path, size) in cases {
        assert_eq!(read(path, request()), ok(i64::from(size).to_le_bytes()), "{path:?}");
    }
    assert_eq!(read("request\0total_size", Request::malformed()), ok(0_i64.to_le_bytes()));
}

#[test]
fn attributes_have_envoys_encodings() {
    let request = || {
        get("/cart/1?q=a%20b&r=\u{e9}#end")
            .header("User-Agent", b"\xff\xfe")
            .header("x-many", "a")
            .header("x-many", "b")
            .took(Duration::from_millis(3))
            .bytes(7, 9)
            .flags(1 << 2)
    };
    let cases = [
        ("request\0path", ok("/cart/1?q=a%20b&r=\u{e9}#end")),
        ("request\0url_path", ok("/cart/1")),
        ("request\0query", ok("q=a%20b&r=\u{e9}")),
        ("request\0method", ok("GET")),
        ("request\0host", ok("shop.example")),
        ("request\0scheme", ok("http")),
        ("request\0protocol", ok("HTTP/1.1")),
        ("request\0useragent", ok(b"\xff\xfe")),
        ("request\0headers\0x-many", ok("a,b")),
        ("request\0headers\0X-MANY", ok("a,b")),
        ("request\0duration", ok(3_000_000_i64.to_le_bytes())),
        ("request\0size", ok(7_i64.to_le_bytes())),
        ("response\0code", ok(404_i64.to_le_bytes())),
        ("response\0size", ok(9_i64.to_le_bytes())),
        ("response\0flags", ok(4_i64.to_le_bytes())),
        ("response\0code_details", ok("via_upstream")),
        ("response\0backend_latency", ok(3_000_000_i64.to_le_bytes())),
        ("source\0address", ok("10.0.0.7:40312")),
        ("source\0port", ok(40312_i64.to_le_bytes())),
        ("upstream\0address", ok("10.0.1.5:9000")),
        ("upstream\0request_attempt_count", ok(1_u64.to_le_bytes())),
        ("connection\0mtls", ok([0])),
        ("connection\0id", ok(1_u64.to_le_bytes())),
        ("xds\0cluster_name", ok("shop")),
        ("xds\0listener_direction", ok(0_i64.to_le_bytes())),
        ("plugin_root_id", ok("offpath")),
    ];
    for (path, expected) in cases {
        assert_eq!(read(path, request()), expected, "{path:?}");
    }
}

#[test]
fn what_is_empty_is_a_null_pointer_and_what_is_absent_is_not_found() {
    let cases = [
        ("xds\0route_name", empty()),
        ("request\0query", empty()),
        ("upstream\0transport_failure_reason", empty()),
        ("xds\0node\0id", empty()),
        ("request\0useragent", refused(Status::NotFound)),
        ("request\0headers\0x-none", refused(Status::NotFound)),
        ("request\0no_such", refused(Status::NotFound)),
        ("request\0path\0deeper", refused(Status::NotFound)),
        ("no_such", refused(Status::NotFound)),
        ("connection\0tls_version", refused(Status::NotFound)),
        ("request", refused(Status::SerializationFailure)),
        ("", refused(Status::SerializationFailure)),
        ("connection_id", refused(Status::NotFound)),
    ];
    for (path, expected) in cases {
        assert_eq!(read(path, get("/")), expected, "{path:?}");
    }
}

#[test]
fn grpc_status_is_stated_or_guessed_from_the_http_status() {
    let guessed = ok(12_i64.to_le_bytes());
    assert_eq!(read("response\0grpc_status", get("/")), guessed);
    assert_eq!(
        read("response\0grpc_status", get("/").response_trailer("grpc-status", "5")),
        ok(5_i64.to_le_bytes())
    );
    assert_eq!(
        read("response\0grpc_status", get("/").response_header("grpc-status", "x")),
        ok((-1_i64).to_le_bytes())
    );
}

#[test]
fn malformed_request_has_no_headers_but_a_response_code() {
    for path in ["request\0path", "request\0url_path", "request\0query", "request\0method"] {
        assert_eq!(read(path, Request::malformed()), refused(Status::NotFound), "{path:?}");
    }
    assert_eq!(read("response\0code", Request::malformed()), ok(404_i64.to_le_bytes()));
    assert_eq!(read("request\0size", Request::malformed()), ok(0_i64.to_le_bytes()));
}

#[test]
fn content_length_is_the_request_size_unless_it_is_no_number() {
    assert_eq!(read("request\0size", get("/").header("content-length", "11")), ok(11_i64.to_le_bytes()));
    assert_eq!(read("request\0size", get("/").header("content-length", "many")), refused(Status::NotFound));
}

#[test]
fn a_header_map_is_returned_as_pairs_with_its_values_joined() {
    let outcome = read("response\0headers", get("/").response_header("a", "1").response_header("a", "2"));
    let expected = b"\x02\0\0\0\x07\0\0\0\x03\0\0\0\x01\0\0\0\x03\0\0\0:status\x00404\0a\x001,2\0";
    assert_eq!(outcome, ok(expected));
}

#[test]
fn nothing_of_a_request_is_in_scope_outside_of_a_stream() {
    let probe = Probe::default()
        .call("proxy_on_configure", "proxy_get_property", &[bytes("request\0path"), Arg::OutBytes])
        .call("proxy_on_configure", "proxy_get_property", &[bytes("xds\0node\0cluster"), Arg::OutBytes]);
    let proxy = Proxy::load(&probe.compile()).node("n-1", "shop-frontend").start().unwrap();
    let outcomes = probe.outcomes(&proxy, "proxy_on_configure");
    assert_eq!(outcomes, [refused(Status::NotFound), ok("shop-frontend")]);
}

#[test]
fn a_filter_sees_each_header_map_only_in_its_own_hook() {
    let path = [bytes("request\0path"), Arg::OutBytes];
    let duration = [bytes("request\0duration"), Arg::OutBytes];
    let mut probe = Probe::default();
    for hook in ["proxy_on_request_headers", "proxy_on_response_headers", "proxy_on_log"] {
        probe = probe
            .call(hook, "proxy_get_property", &path)
            .call(hook, "proxy_get_property", &duration)
            .returning(hook, 0);
    }
    let mut proxy = Proxy::load(&probe.compile()).mode(Mode::HttpFilter).start().unwrap();
    proxy.request(get("/a")).respond(200).unwrap();
    let absent = refused(Status::NotFound);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_request_headers"), [ok("/a"), absent.clone()]);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_response_headers"), [absent.clone(), absent]);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [ok("/a"), ok(12_000_000_i64.to_le_bytes())]);
}

#[test]
fn an_attribute_that_is_not_emulated_is_refused_by_name() {
    let probe = Probe::on_log("proxy_get_property", &[bytes("xds\0route_metadata"), Arg::OutBytes]);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    let error = format!("{:?}", proxy.request(get("/")).respond(200).unwrap_err());
    assert!(error.contains("`xds.route_metadata` is not emulated"), "{error}");
}
