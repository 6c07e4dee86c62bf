//! Which requests become records, what of them is asked of the host, and how many each record stands for.

use std::collections::BTreeMap;

use offpath_host_test::{Cel, Mode, Proxy, Request, get};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};

use crate::support::{
    assert_accounted_for, attributes, builder, double, dropped, millis, paths, points, proxy, records, secs,
};

/// An id whose hash is among the greatest tenth for [`KEPT`], and among the least for [`LEFT_OUT`].
fn id(randomness: u64) -> String {
    format!("8786c78d-4b8d-4c8a-a3{:02x}-{:012x}", randomness >> 48, randomness & 0xffff_ffff_ffff)
}

/// A request whose trace has that randomness.
fn traced(path: &str, randomness: u64) -> Request {
    get(path)
        .header("traceparent", format!("00-4bf92f3577b34da6a3{randomness:014x}-00f067aa0ba902b7-01"))
        .header("x-request-id", id(randomness))
}

/// The greatest randomness: kept by any ratio but 0.
const KEPT: u64 = 0xff_ffff_ffff_ffff;

/// The least randomness: kept by 1 only.
const LEFT_OUT: u64 = 0;

/// How often a host function was called that returns data, which is what a request costs most.
fn data_returning_calls(proxy: &Proxy) -> u64 {
    let returns_data = |name: &str| {
        ["get_property", "call_foreign_function", "get_header_map", "get_buffer", "get_shared_data"]
            .iter()
            .any(|part| name.contains(part))
    };
    proxy.host_calls().iter().filter(|(name, _)| returns_data(name)).map(|(_, calls)| calls).sum()
}

/// Ends a request; how many data-returning calls that took.
fn calls_for(proxy: &mut Proxy, request: Request, status: u16) -> u64 {
    let before = data_returning_calls(proxy);
    proxy.request(request).respond(status).unwrap();
    data_returning_calls(proxy) - before
}

#[test]
fn a_request_takes_as_few_calls_as_it_can_and_nothing_is_asked_for_in_vain() {
    let sampled = |logs: Value| json!({"logs": logs, "metrics": {"enabled": false}});
    let half = json!({"logs": {"sample_ratio": 0.5}});
    // Headers and a list are a call each, and so is a value where there are few of them. First the calls for a request
    // that is kept, then for one that would not be.
    let cases = [
        ("all are kept", json!({}), (2, 2)),
        (
            "all are kept, with routes",
            json!({"routes": ["/a", {"template": "/b", "keep_slower_than": "1s"}]}),
            (2, 2),
        ),
        ("some are kept", half.clone(), (8, 7)),
        ("some of a second are kept", json!({"logs": {"max_records_per_second": 1000}}), (8, 8)),
        ("some of a route are kept", json!({"routes": [{"template": "/", "sample_ratio": 0.5}]}), (8, 7)),
        (
            "some are kept, by the trace alone",
            sampled(json!({"sample_ratio": 0.5, "keep_errors": false})),
            (2, 1),
        ),
        (
            "some are kept, by the request's id",
            sampled(json!({"sample_ratio": 0.5, "sample_by": "request"})),
            (4, 3),
        ),
        (
            "none is kept, whatever it is",
            sampled(json!({"sample_ratio": 0, "sample_by": "random", "keep_errors": false})),
            (0, 0),
        ),
        ("only metrics", json!({"logs": {"enabled": false}}), (7, 7)),
        ("nothing", json!({"logs": {"enabled": false}, "metrics": {"enabled": false}}), (0, 0)),
    ];
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        for (case, config, expected) in &cases {
            let mut proxy = builder(config.clone()).mode(mode).start().unwrap();
            // The first record of a worker takes a lease, which is not every request's.
            proxy.request(traced("/", KEPT)).respond(200).unwrap();
            let kept = calls_for(&mut proxy, traced("/", KEPT), 200);
            let left_out = calls_for(&mut proxy, traced("/", LEFT_OUT), 200);
            assert_eq!((kept, left_out), *expected, "{case} ({mode:?})");
        }
        let mut proxy = builder(json!({})).mode(mode).start().unwrap();
        proxy.request(get("/")).respond(200).unwrap();
        // What a request may well lack costs nothing, what nearly all have costs a second list.
        let bare = get("/").without_upstream("direct_response").with(|info| info.cluster_name = None);
        assert_eq!(calls_for(&mut proxy, bare, 200), 2, "{mode:?}");
        assert_eq!(calls_for(&mut proxy, get("/").with(|info| info.route_name = None), 200), 3, "{mode:?}");
        let mut proxy = builder(half.clone()).mode(mode).start().unwrap();
        proxy.request(traced("/", KEPT)).respond(200).unwrap();
        assert_eq!(calls_for(&mut proxy, traced("/", LEFT_OUT), 503), 8, "a failed one is kept ({mode:?})");
    }
}

/// A configuration under which some of [`mixed`] is kept for each reason.
fn config() -> Value {
    json!({
        "logs": {"sample_ratio": 0.25, "keep_slower_than": "1s", "request_headers": ["x-tenant"]},
        "metrics": {"interval": "1s", "histograms": ["duration", "upstream"]},
        "routes": ["/orders/{id}", {"template": "/health", "sample_ratio": 0}],
    })
}

/// A request with its status, and the path and the weight of its record, if it has one.
type Case = (Request, u16, Option<(&'static str, f64)>);

fn mixed() -> Vec<Case> {
    // (1 - 0.25) × 2^56, the specification's rejection threshold.
    const THRESHOLD: u64 = 0xc0_0000_0000_0000;
    vec![
        (traced("/orders/1", THRESHOLD).header("x-tenant", "a"), 200, Some(("/orders/1", 4.0))),
        (traced("/orders/2", THRESHOLD - 1).header("x-tenant", "b"), 200, None),
        (traced("/other/3", KEPT), 404, Some(("/other/3", 4.0))),
        (traced("/health", KEPT), 200, None),
        (traced("/health?n=5", LEFT_OUT), 500, Some(("/health", 1.0))),
        (traced("/orders/6", LEFT_OUT).took(secs(1)), 200, Some(("/orders/6", 1.0))),
        (traced("/orders/7", LEFT_OUT).took(millis(999)), 200, None),
        (
            traced("/orders/8", LEFT_OUT).header("tracestate", "x=y,ot=rv:ffffffffffffff"),
            200,
            Some(("/orders/8", 4.0)),
        ),
        (traced("/orders/9", KEPT).header("tracestate", "ot=rv:00000000000000;th:0"), 200, None),
        (get("/orders/10").header("x-request-id", id(KEPT)), 200, Some(("/orders/10", 4.0))),
        (get("/orders/11").header("x-request-id", id(LEFT_OUT)), 200, None),
    ]
}

fn weight(record: &LogRecord) -> f64 {
    match attributes(&record.attributes)["offpath.sample.weight"].value {
        Some(Any::DoubleValue(weight)) => weight,
        ref other => panic!("the weight is {other:?}"),
    }
}

#[test]
fn what_is_kept_and_what_it_stands_for_follow_from_the_request() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        let mut proxy = builder(config()).mode(mode).start().unwrap();
        let expected: Vec<_> = mixed().into_iter().filter_map(|(.., expected)| expected).collect();
        let ended = mixed().len() as u64;
        for (request, status, _) in mixed() {
            proxy.request(request).respond(status).unwrap();
            assert_accounted_for(&proxy);
        }
        proxy.advance(secs(3)).unwrap();
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        let weights = records(&calls).iter().map(weight).collect::<Vec<_>>();
        let told: Vec<_> = paths(&calls).into_iter().zip(weights).collect();
        let expected: Vec<_> = expected.into_iter().map(|(path, weight)| (path.to_owned(), weight)).collect();
        assert_eq!(told, expected);
        assert_eq!(proxy.counter("offpath_records_captured_total"), ended);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), expected.len() as u64);
        assert_eq!(proxy.counter("offpath_records_sampled_out_total"), ended - expected.len() as u64);
        // Cumulative: the last export says it all.
        let points = points(&calls, "http.server.request.duration");
        let last = points.iter().map(|point| point.time_unix_nano).max();
        let newest = points.iter().filter(|point| Some(point.time_unix_nano) == last);
        assert_eq!(newest.map(|point| point.count).sum::<u64>(), ended, "histograms count every request");
    }
}

#[test]
fn expressions_and_single_properties_give_equal_bytes() {
    let exported = |config: Value, mode: Mode, cel: Cel| {
        let mut proxy = builder(config).mode(mode).cel(cel).start().unwrap();
        for (request, status, _) in mixed() {
            proxy.request(request).respond(status).unwrap();
        }
        proxy.request(Request::malformed()).respond(400).unwrap();
        proxy.advance(secs(3)).unwrap();
        let mut calls = proxy.cluster("otlp").answer_all(200).unwrap();
        calls.sort_by_key(|call| call.path().to_owned());
        let bodies: Vec<_> = calls.into_iter().map(|call| call.body).collect();
        let kept = proxy.counter("offpath_records_delivered_total");
        (bodies, kept, proxy.counter("offpath_capture_fallbacks_total"))
    };
    let requests = mixed().len() as u64 + 1;
    let half = |by: &str| json!({"sample_ratio": 0.5, "sample_by": by});
    let metrics = json!({"interval": "1s"});
    // Where there is a list at all, and for which requests.
    for (config, lists_all, lists_kept) in [
        (config(), true, false),
        (json!({"metrics": metrics}), true, true),
        (json!({"metrics": metrics, "logs": half("trace")}), false, true),
        (json!({"metrics": {"enabled": false}, "logs": half("request")}), false, true),
        (json!({"metrics": metrics, "logs": {"enabled": false}}), false, false),
    ] {
        let (by_list, kept, fallbacks) = exported(config.clone(), Mode::AccessLogger, Cel::Built);
        assert!(!by_list.is_empty() && fallbacks == 0, "{config}");
        for mode in [Mode::AccessLogger, Mode::HttpFilter] {
            for cel in [Cel::NotBuilt, Cel::FailsToEvaluate] {
                let (one_by_one, _, fallbacks) = exported(config.clone(), mode, cel);
                let listed = [(lists_all, requests), (lists_kept, kept)];
                let expected = listed.iter().find_map(|(lists, count)| lists.then_some(*count));
                assert_eq!(fallbacks, expected.unwrap_or(0), "{config} ({mode:?}, {cel:?})");
                assert_eq!(one_by_one, by_list, "{config} ({mode:?}, {cel:?})");
            }
        }
    }
}

#[test]
fn two_proxies_keep_the_same_requests() {
    let kept = |by: &str, first_worker: usize| {
        let config = json!({"logs": {"sample_ratio": 0.3, "sample_by": by}, "batch": {"max_records": 1}});
        let mut proxy = builder(config).workers(2).start().unwrap();
        for number in 0..200_u64 {
            let randomness = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
            let request = traced(&format!("/{number}"), randomness);
            proxy.request(request).on_worker((first_worker + number as usize) % 2).respond(200).unwrap();
        }
        proxy.advance(secs(2)).unwrap();
        let mut paths = paths(&proxy.cluster("otlp").answer_all(200).unwrap());
        paths.sort_unstable();
        paths
    };
    for by in ["trace", "request"] {
        let paths = kept(by, 0);
        assert!((30..90).contains(&paths.len()), "{by}: {}", paths.len());
        assert_eq!(paths, kept(by, 1), "{by}");
    }
}

#[test]
fn a_second_has_no_more_records_than_allowed_and_their_weights_tell_of_the_others() {
    let config = json!({"logs": {"max_records_per_second": 10, "sample_by": "random"}});
    let mut proxy = proxy(config);
    let mut calls = Vec::new();
    for _ in 0..20 {
        for number in 0..100 {
            let status = if number % 50 == 0 { 503 } else { 200 };
            proxy.request(get("/")).respond(status).unwrap();
            proxy.advance(millis(10)).unwrap();
            assert_accounted_for(&proxy);
        }
        calls.extend(proxy.cluster("otlp").answer_all(200).unwrap());
    }
    proxy.advance(secs(2)).unwrap();
    calls.extend(proxy.cluster("otlp").answer_all(200).unwrap());
    let records = records(&calls);
    let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
    for record in &records {
        *by_second.entry(record.observed_time_unix_nano / 1_000_000_000).or_default() += 1;
    }
    assert!(by_second.values().all(|&records| records <= 10), "{by_second:?}");
    assert!(by_second.len() >= 20 && records.len() > 80, "{by_second:?}");
    assert_eq!(
        records[..5].iter().map(weight).collect::<Vec<_>>(),
        [1.0; 5],
        "half of a second's are as configured"
    );
    assert_eq!(dropped(&proxy, "rate_limited"), 0);
    let failed = |record: &&LogRecord| record.severity_text == "ERROR";
    let weights_of_failed: Vec<f64> = records.iter().filter(failed).map(weight).collect();
    for (weights, requests) in
        [(records.iter().map(weight).collect(), 2000.0), (weights_of_failed, 40.0)] as [(Vec<f64>, f64); 2]
    {
        let variance: f64 = weights.iter().map(|weight| weight * (weight - 1.0)).sum();
        let sum: f64 = weights.iter().sum();
        // Of few requests that are nearly all kept, none of the few that are not may be there to tell of it.
        let variance = variance.max(requests / 10.0);
        assert!((sum - requests).abs() <= 4.0 * variance.sqrt(), "{sum} instead of {requests}");
    }
    assert_eq!(proxy.counter("offpath_records_captured_total"), 2000);
}

#[test]
fn a_record_of_a_proxy_that_keeps_all_stands_for_itself() {
    let mut proxy = proxy(json!({}));
    proxy.request(get("/")).respond(200).unwrap();
    proxy.advance(secs(2)).unwrap();
    let record = records(&proxy.cluster("otlp").answer_all(200).unwrap()).remove(0);
    assert_eq!(attributes(&record.attributes)["offpath.sample.weight"], double(1.0));
}
