//! HTTP calls: how Envoy refuses one, and each way in which one ends.

use std::time::Duration;

use offpath_host_test::{Answer, Proxy, Status, VmRole, get};

use crate::probe::{Arg, Out, Outcome, Probe, bytes};

/// Pairs as a guest encodes them.
fn headers(pairs: &[(&str, &str)]) -> Arg {
    let mut out = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(text.bytes().chain([0]));
    }
    Arg::Bytes(out)
}

const REQUIRED: [(&str, &str); 3] = [(":method", "POST"), (":path", "/v1/logs"), (":authority", "otlp")];

fn call(cluster: &str, headers: Arg, timeout_ms: u32) -> [Arg; 6] {
    [bytes(cluster), headers, bytes("body"), bytes(""), Arg::Int(timeout_ms), Arg::OutU32]
}

/// A guest that calls on each request and reports what it sees of the answer.
fn caller(timeout_ms: u32) -> Probe {
    const HEADERS: u32 = 6;
    const BODY: u32 = 4;
    let answer = "proxy_on_http_call_response";
    Probe::on_log("proxy_http_call", &call("otlp", headers(&REQUIRED), timeout_ms))
        .call(answer, "proxy_get_header_map_pairs", &[Arg::Int(HEADERS), Arg::OutBytes])
        .call(answer, "proxy_get_header_map_value", &[Arg::Int(HEADERS), bytes(":status"), Arg::OutBytes])
        .call(answer, "proxy_get_buffer_bytes", &[Arg::Int(BODY), Arg::Int(0), Arg::Int(100), Arg::OutBytes])
        .call(answer, "proxy_get_status", &[Arg::OutU32, Arg::OutBytes])
}

fn outcome(status: Status, results: impl Into<Vec<Out>>) -> Outcome {
    Outcome { status: status.code(), results: results.into() }
}

fn some(text: &str) -> Out {
    Out::Bytes(text.as_bytes().to_vec())
}

fn dispatched(probe: &Probe, prepare: impl FnOnce(&mut Proxy)) -> (Proxy, Outcome) {
    let mut proxy = Proxy::load(&probe.compile()).start().unwrap();
    prepare(&mut proxy);
    proxy.request(get("/")).respond(200).unwrap();
    let outcome = probe.outcomes(&proxy, "proxy_on_log").remove(0);
    (proxy, outcome)
}

#[test]
fn a_call_has_what_the_guest_said_and_a_content_length() {
    let (mut proxy, result) = dispatched(&caller(1500), |_| {});
    assert_eq!(result, outcome(Status::Ok, [Out::Int(1)]));
    let [call] = &proxy.cluster("otlp").pending()[..] else { panic!() };
    assert_eq!((call.path(), call.body.as_slice(), call.vm), ("/v1/logs", &b"body"[..], VmRole::Worker(0)));
    assert_eq!(call.header("content-length"), Some("4"));
    assert_eq!(call.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(proxy.calls_made_by(VmRole::Worker(0)), 1);
}

#[test]
fn a_call_is_refused_at_once_as_envoy_refuses_it() {
    let unknown = Probe::on_log("proxy_http_call", &call("nobody", headers(&REQUIRED), 0));
    let bad = outcome(Status::BadArgument, [Out::Int(0)]);
    assert_eq!(dispatched(&unknown, |_| {}).1, bad);
    assert_eq!(dispatched(&caller(0), |proxy| proxy.cluster("otlp").remove()).1, bad);
    for missing in REQUIRED {
        let fewer: Vec<_> = REQUIRED.into_iter().filter(|header| *header != missing).collect();
        let probe = Probe::on_log("proxy_http_call", &call("otlp", headers(&fewer), 0));
        assert_eq!(dispatched(&probe, |_| {}).1, bad, "without {missing:?}");
    }
    let malformed = Probe::on_log("proxy_http_call", &call("otlp", bytes("no pairs"), 0));
    assert_eq!(dispatched(&malformed, |_| {}).1, bad);
    let negative = Probe::on_log("proxy_http_call", &call("otlp", headers(&REQUIRED), u32::MAX));
    assert_eq!(dispatched(&negative, |_| {}).1, bad);

    let (mut proxy, result) = dispatched(&caller(0), |proxy| proxy.cluster("otlp").remove_endpoints());
    assert_eq!(result, outcome(Status::InternalFailure, [Out::Int(0)]));
    assert!(proxy.cluster("otlp").pending().is_empty());
}

#[test]
fn an_answer_can_be_read_while_it_is_delivered() {
    let probe = caller(0);
    let (mut proxy, _) = dispatched(&probe, |_| {});
    let call = proxy.cluster("otlp").answer(Answer::status(429).with_body("later")).unwrap();
    assert_eq!(call.body, b"body");
    let expected = [
        outcome(Status::Ok, [Out::Bytes(b"\x01\0\0\0\x07\0\0\0\x03\0\0\0:status\x00429\0".to_vec())]),
        outcome(Status::Ok, [some("429")]),
        outcome(Status::Ok, [some("later")]),
        outcome(Status::Ok, [Out::Int(0), Out::Null]),
    ];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_http_call_response"), expected);
    assert!(proxy.cluster("otlp").answer(200).is_err());
}

#[test]
fn a_reset_has_no_headers_no_body_and_a_status() {
    let probe = caller(0);
    let (mut proxy, _) = dispatched(&probe, |_| {});
    proxy.cluster("otlp").answer(Answer::Reset).unwrap();
    let expected = [
        outcome(Status::Ok, [Out::Null]),
        outcome(Status::BadArgument, [Out::Null]),
        outcome(Status::NotFound, [Out::Null]),
        outcome(Status::Ok, [Out::Int(Status::BrokenConnection.code()), some("reset")]),
    ];
    assert_eq!(probe.outcomes(&proxy, "proxy_on_http_call_response"), expected);
}

#[test]
fn a_call_that_takes_too_long_is_answered_504_by_the_proxy() {
    let probe = caller(1500);
    let (mut proxy, _) = dispatched(&probe, |_| {});
    proxy.advance(Duration::from_millis(1499)).unwrap();
    assert_eq!(proxy.cluster("otlp").pending().len(), 1);
    proxy.advance(Duration::from_millis(1)).unwrap();
    assert!(proxy.cluster("otlp").pending().is_empty());
    let outcomes = probe.outcomes(&proxy, "proxy_on_http_call_response");
    assert_eq!(outcomes[1], outcome(Status::Ok, [some("504")]));
    assert_eq!(outcomes[2], outcome(Status::Ok, [some("upstream request timeout")]));
}

#[test]
fn a_call_without_a_timeout_waits_for_ever() {
    let (mut proxy, _) = dispatched(&caller(0), |_| {});
    proxy.advance(Duration::from_secs(365 * 24 * 3600)).unwrap();
    assert_eq!(proxy.cluster("otlp").pending().len(), 1);
}

#[test]
fn a_serving_cluster_answers_after_its_latency_or_the_timeout() {
    for (latency_ms, status) in [(1000, "200"), (2000, "504")] {
        let probe = caller(1500);
        let (mut proxy, _) = dispatched(&probe, |proxy| {
            proxy.cluster("otlp").serve(200, Duration::from_millis(latency_ms));
        });
        proxy.advance(Duration::from_secs(2)).unwrap();
        let outcomes = probe.outcomes(&proxy, "proxy_on_http_call_response");
        assert_eq!(outcomes[1], outcome(Status::Ok, [some(status)]), "{latency_ms} ms");
    }
}

#[test]
fn calls_of_a_context_that_is_gone_are_never_answered() {
    let (mut proxy, _) = dispatched(&caller(0), |_| {});
    proxy.reconfigure(serde_json::json!({})).unwrap();
    assert!(proxy.cluster("otlp").pending().is_empty());
}
