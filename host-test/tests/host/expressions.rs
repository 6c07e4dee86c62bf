//! CEL: tokens, encodings of results, and each way of failing.

use std::time::Duration;

use offpath_host_test::{Cel, Proxy, ProxyBuilder, Request, Status, get};

use crate::probe::{Arg, Out, Outcome, Probe, bytes};

fn create(source: &str) -> [Arg; 3] {
    [bytes("expr_create"), bytes(source), Arg::OutBytes]
}

fn with_token(function: &str, token: u32) -> [Arg; 3] {
    [bytes(function), bytes(token.to_le_bytes()), Arg::OutBytes]
}

fn probe(source: &str) -> Probe {
    Probe::default().call("proxy_on_configure", "proxy_call_foreign_function", &create(source)).call(
        "proxy_on_log",
        "proxy_call_foreign_function",
        &with_token("expr_evaluate", 0),
    )
}

fn evaluate_in(
    source: &str,
    request: Request,
    prepare: impl FnOnce(ProxyBuilder) -> ProxyBuilder,
) -> Outcome {
    let probe = probe(source);
    let mut proxy = prepare(Proxy::load(&probe.compile())).start().unwrap();
    proxy.request(request).respond(200).unwrap();
    probe.outcomes(&proxy, "proxy_on_log").remove(0)
}

fn evaluate(source: &str, request: Request) -> Outcome {
    evaluate_in(source, request, |proxy| proxy)
}

fn ok(bytes: impl AsRef<[u8]>) -> Outcome {
    Outcome { status: 0, results: vec![Out::Bytes(bytes.as_ref().to_vec())] }
}

fn refused(status: Status) -> Outcome {
    Outcome { status: status.code(), results: vec![Out::Null] }
}

#[test]
fn results_have_envoys_encodings() {
    let request = || {
        get("/a")
            .header("x-raw", b"\xff\xfe")
            .took(Duration::from_millis(3))
            .header("x-b", "1")
            .header("x-b", "2")
    };
    let cases = [
        ("request.path", ok("/a")),
        ("request.duration", ok(3_000_000_i64.to_le_bytes())),
        ("response.code", ok(200_i64.to_le_bytes())),
        ("response.code == 200", ok([1])),
        ("upstream.request_attempt_count", ok(1_u64.to_le_bytes())),
        ("1.5", ok(1.5_f64.to_le_bytes())),
        ("request.headers['x-b']", ok("1,2")),
        ("request.headers['x-raw']", ok(b"\xff\xfe")),
        ("'x-none' in request.headers ? request.headers['x-none'] : 'none'", ok("none")),
        ("has(request.useragent) ? request.useragent : 'none'", ok("none")),
        ("xds.node.id", ok("node-1")),
        ("[]", ok([0, 0, 0, 0])),
        ("response.trailers", ok([0, 0, 0, 0])),
        ("{'a': 'b'}", ok(b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b\0")),
        (
            "[request.path, response.code, request.headers['x-raw'], '']",
            ok(b"\x04\0\0\0\x02\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0/a\0\0\xc8\0\0\0\0\0\0\0\0\0\xff\xfe\0\0\0\0"),
        ),
    ];
    for (source, expected) in cases {
        let outcome = evaluate_in(source, request(), |proxy| proxy.node("node-1", ""));
        assert_eq!(outcome, expected, "{source}");
    }
}

#[test]
fn a_missing_attribute_fails_the_whole_evaluation() {
    for source in ["[request.path, request.useragent]", "request.headers['x-none']", "xds.nothing"] {
        assert_eq!(evaluate(source, get("/")), refused(Status::InternalFailure), "{source}");
    }
}

#[test]
fn an_empty_result_is_not_a_null_pointer() {
    assert_eq!(evaluate("''", get("/")), ok(""));
}

#[test]
fn a_group_as_a_whole_cannot_be_encoded() {
    assert_eq!(evaluate("request", get("/")), refused(Status::SerializationFailure));
}

#[test]
fn a_source_that_does_not_parse_is_a_bad_argument() {
    let probe = probe("[request.path,,");
    let proxy = Proxy::load(&probe.compile()).start().unwrap();
    assert_eq!(probe.outcomes(&proxy, "proxy_on_configure"), [refused(Status::BadArgument)]);
    assert!(proxy.log_lines().iter().all(|line| line.message.contains("expr_create parse error")));
}

#[test]
fn a_token_must_be_known_and_of_four_bytes() {
    let probe = Probe::default()
        .call("proxy_on_log", "proxy_call_foreign_function", &create("1"))
        .call("proxy_on_log", "proxy_call_foreign_function", &with_token("expr_evaluate", 1))
        .call(
            "proxy_on_log",
            "proxy_call_foreign_function",
            &[bytes("expr_evaluate"), bytes("abc"), Arg::OutBytes],
        )
        .call("proxy_on_log", "proxy_call_foreign_function", &with_token("expr_delete", 0))
        .call("proxy_on_log", "proxy_call_foreign_function", &with_token("expr_evaluate", 0));
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    let expected = [
        ok(0_u32.to_le_bytes()),
        refused(Status::NotFound),
        refused(Status::BadArgument),
        Outcome { status: 0, results: vec![Out::Null] },
        refused(Status::NotFound),
    ];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), expected);
}

#[test]
fn a_proxy_without_cel_knows_none_of_its_functions() {
    let probe = probe("1");
    let mut proxy = Proxy::load(&probe.compile()).cel(Cel::NotBuilt).start().unwrap();
    proxy.request(get("/")).respond(200).unwrap();
    assert_eq!(probe.outcomes(&proxy, "proxy_on_configure"), [refused(Status::NotFound)]);
    assert_eq!(probe.outcomes(&proxy, "proxy_on_log"), [refused(Status::NotFound)]);
}

#[test]
fn evaluation_can_be_made_to_fail() {
    let outcome = evaluate_in("1", get("/"), |proxy| proxy.cel(Cel::FailsToEvaluate));
    assert_eq!(outcome, refused(Status::InternalFailure));
}

#[test]
fn an_attribute_that_is_not_emulated_is_refused_by_name_when_the_expression_is_created() {
    for (source, name) in
        [("[has(xds.route_metadata) ? 1 : 2]", "`xds.route_metadata`"), ("metadata['x']", "`metadata.…`")]
    {
        let error = format!("{:?}", Proxy::load(&probe(source).compile()).start().err().unwrap());
        assert!(error.contains(name), "{error}");
    }
}
