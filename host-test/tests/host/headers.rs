//! Header maps: pairs, single values, sizes, and when there are none.

use offpath_host_test::{Mode, Proxy, Request, Status, get};

use crate::probe::{Arg, Out, Outcome, Probe, bytes};

const REQUEST: u32 = 0;
const REQUEST_TRAILERS: u32 = 1;
const RESPONSE: u32 = 2;
const RESPONSE_TRAILERS: u32 = 3;

fn on_log(function: &'static str, arguments: &[Arg], request: Request) -> Outcome {
    let probe = Probe::on_log(function, arguments);
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(request).respond(200).unwrap();
    probe.outcomes(&proxy, "proxy_on_log").remove(0)
}

fn value(map: u32, name: &str, request: Request) -> Outcome {
    on_log("proxy_get_header_map_value", &[Arg::Int(map), bytes(name), Arg::OutBytes], request)
}

fn refused(status: Status) -> Outcome {
    Outcome { status: status.code(), results: vec![Out::Null] }
}

fn ok(bytes: &[u8]) -> Outcome {
    Outcome { status: 0, results: vec![Out::Bytes(bytes.to_vec())] }
}

#[test]
fn pairs_are_in_order_with_duplicates_and_any_bytes() {
    let request = get("/").response_header("X-A", b"\xff").response_header("x-a", "");
    let outcome = on_log("proxy_get_header_map_pairs", &[Arg::Int(RESPONSE), Arg::OutBytes], request);
    let expected = b"\x03\0\0\0\x03\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0\x07\0\0\0\x03\0\0\0x-a\0\xff\0x-a\0\0:status\x00200\0";
    assert_eq!(outcome, ok(expected));
}

#[test]
fn the_first_of_several_values_is_returned_whatever_the_case_of_the_name() {
    let request = || get("/").header("X-Many", "a").header("x-many", "b").header("x-empty", "");
    assert_eq!(value(REQUEST, "x-MANY", request()), ok(b"a"));
    assert_eq!(value(REQUEST, "x-empty", request()), Outcome { status: 0, results: vec![Out::Null] });
    assert_eq!(value(REQUEST, "x-none", request()), refused(Status::NotFound));
}

#[test]
fn an_absent_map_has_no_pairs_and_no_values_while_logging() {
    for map in [REQUEST, REQUEST_TRAILERS, RESPONSE_TRAILERS] {
        let pairs =
            on_log("proxy_get_header_map_pairs", &[Arg::Int(map), Arg::OutBytes], Request::abandoned());
        assert_eq!(pairs, Outcome { status: 0, results: vec![Out::Null] }, "map {map}");
        assert_eq!(value(map, "x", Request::abandoned()), refused(Status::NotFound), "map {map}");
    }
}

#[test]
fn an_absent_map_is_a_bad_argument_outside_of_logging() {
    let arguments = [Arg::Int(REQUEST), bytes(":path"), Arg::OutBytes];
    let probe = Probe::default().call("proxy_on_configure", "proxy_get_header_map_value", &arguments);
    let proxy = Proxy::load(&probe.compile()).start().unwrap();
    assert_eq!(probe.outcomes(&proxy, "proxy_on_configure"), [refused(Status::BadArgument)]);
}

#[test]
fn a_map_that_does_not_exist_is_a_bad_argument() {
    assert_eq!(value(8, "x", get("/")), refused(Status::BadArgument));
}

#[test]
fn a_size_is_known_of_maps_that_could_be_changed_only() {
    let size = [Arg::Int(REQUEST), Arg::OutU32];
    let probe = Probe::default()
        .call("proxy_on_request_headers", "proxy_get_header_map_size", &size)
        .returning("proxy_on_request_headers", 0)
        .call("proxy_on_log", "proxy_get_header_map_size", &size);
    let mut proxy = Proxy::load(&probe.compile()).mode(Mode::HttpFilter).start().unwrap();
    proxy.request(get("/ab")).respond(200).unwrap();
    // `:authority`, `:path`, `:method` and `:scheme` with their values.
    let bytes = 10 + 12 + 5 + 3 + 7 + 3 + 7 + 4;
    let known = Outcome { status: 0, results: vec![Out::Int(bytes)] };
    let unknown = Outcome { status: Status::BadArgument.code(), results: vec![Out::Int(0)] };
    assert_eq!(probe.outcomes(&proxy, "proxy_on_request_headers"), [known]);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [unknown]);
}
