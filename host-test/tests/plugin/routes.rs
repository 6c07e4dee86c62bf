//! Route templates on records and in histograms, and that series come from bounded sets only.

use std::collections::BTreeMap;

use offpath_host_test::{Call, Proxy, Request, get, post};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::json;

use crate::support::{assert_accounted_for, attributes, builder, millis, points, proxy, records, secs, text};

const DURATION: &str = "http.server.request.duration";

/// Lets everything go out and answers it.
fn export(proxy: &mut Proxy) -> Vec<Call> {
    proxy.advance(secs(2)).unwrap();
    proxy.cluster("otlp").answer_all(200).unwrap()
}

/// Requests by a series' attribute, empty where it has none, in the newest export.
fn counts_by(calls: &[Call], name: &str) -> BTreeMap<String, u64> {
    let points = points(calls, DURATION);
    let last = points.iter().map(|point| point.time_unix_nano).max();
    let mut counts = BTreeMap::new();
    for point in points.iter().filter(|point| Some(point.time_unix_nano) == last) {
        let value = match attributes(&point.attributes).remove(name).and_then(|value| value.value) {
            Some(Any::StringValue(text)) => text,
            Some(other) => format!("{other:?}"),
            None => String::new(),
        };
        *counts.entry(value).or_insert(0) += point.count;
    }
    counts
}

#[test]
fn records_and_series_have_the_most_specific_template_or_none() {
    // Kept among others, or all: the path is asked for at different times.
    for logs in [json!({}), json!({"max_records_per_second": 1000})] {
        let mut proxy = proxy(json!({
            "logs": logs,
            "metrics": {"interval": "1s"},
            "routes": ["/orders/{id}", "/orders/latest", {"template": "/files/{*path}", "sample_ratio": 1}],
        }));
        let requests =
            ["/orders/7?a=/orders/latest", "/orders/8", "/orders/latest#top", "/files/a/b", "/secret/9"];
        for path in requests {
            proxy.request(get(path)).respond(200).unwrap();
        }
        let calls = export(&mut proxy);
        let routes: Vec<_> = records(&calls)
            .iter()
            .map(|record| attributes(&record.attributes).remove("http.route"))
            .collect();
        let order = Some(text("/orders/{id}"));
        let expected =
            [order.clone(), order, Some(text("/orders/latest")), Some(text("/files/{*path}")), None];
        assert_eq!(routes, expected);
        let expected = [("", 1), ("/files/{*path}", 1), ("/orders/latest", 1), ("/orders/{id}", 2)];
        let expected: BTreeMap<_, _> = expected.map(|(route, count)| (route.to_owned(), count)).into();
        assert_eq!(counts_by(&calls, "http.route"), expected);
    }
}

#[test]
fn streams_have_series_of_their_own() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}, "routes": ["/chat"]}));
    let upgrade = || get("/chat").header("connection", "upgrade").header("upgrade", "websocket");
    proxy.request(upgrade().took(secs(600))).respond(101).unwrap();
    proxy.request(upgrade()).respond(403).unwrap();
    proxy.request(get("/chat")).respond(200).unwrap();
    proxy.request(Request::new("CONNECT", "").took(secs(60))).respond(200).unwrap();
    proxy.request(Request::new("CONNECT", "")).respond(503).unwrap();
    let grpc = post("/chat").header("content-type", "application/grpc").response_trailer("grpc-status", "0");
    proxy.request(grpc.took(secs(300))).respond(200).unwrap();
    let calls = export(&mut proxy);
    let expected = [("", 4), ("tunnel", 1), ("upgrade", 1)].map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(counts_by(&calls, "offpath.stream.kind"), expected.into());
    let expected = [("", 5), ("grpc", 1)].map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(counts_by(&calls, "rpc.system.name"), expected.into());
    let kinds: Vec<_> = records(&calls)
        .iter()
        .map(|record| attributes(&record.attributes).remove("offpath.stream.kind"))
        .collect();
    assert_eq!(kinds, [Some(text("upgrade")), None, None, Some(text("tunnel")), None, None]);
}

#[test]
fn what_clients_choose_makes_no_series_and_takes_no_memory() {
    let config = json!({
        "logs": {"sample_ratio": 0.01, "sample_by": "random"},
        "metrics": {"interval": "1s"},
        "routes": ["/orders/{id}", "/files/{*path}"],
    });
    let mut proxy = builder(config).start().unwrap();
    let mut calls = Vec::new();
    let mut settled = 0;
    for round in 0..25_u64 {
        for number in 0..1000 {
            let random = (round * 1000 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let path = ["/orders/", "/files/", "/"][number as usize % 3];
            let request = Request::new(format!("M{random:x}"), format!("{path}{random:x}?{random}"))
                .set_header(":authority", format!("{random:x}.example"))
                .set_header(":scheme", format!("s{random:x}"))
                .header("user-agent", format!("{random:x}"))
                .with(|info| info.protocol = Some(format!("P/{random:x}").into_bytes()));
            proxy.request(request.took(millis(random >> 54))).respond(200).unwrap();
        }
        calls = export(&mut proxy);
        if round == 10 {
            settled = proxy.memory_bytes(0);
        }
    }
    assert_eq!(counts_by(&calls, "http.route").len(), 3);
    assert_eq!(points(&calls, DURATION).len() % 3, 0, "three series in each export");
    assert_eq!(counts_by(&calls, "http.route").values().sum::<u64>(), 25_000);
    assert_eq!(proxy.memory_bytes(0), settled, "after 25,000 requests and after 11,000");
    assert_accounted_for(&proxy);
}

#[test]
fn templates_beyond_the_bound_on_series_are_counted_in_the_overflow_series() {
    let templates: Vec<_> = (0..50).map(|number| format!("/{number}/{{id}}")).collect();
    let config = json!({"metrics": {"interval": "1s", "max_series": 10}, "routes": templates});
    let mut proxy = proxy(config);
    for number in 0..200 {
        proxy.request(get(format!("/{}/{number}", number % 50))).respond(200).unwrap();
    }
    let calls = export(&mut proxy);
    let by_route = counts_by(&calls, "http.route");
    assert_eq!(by_route.len(), 10, "{by_route:?}");
    assert_eq!(by_route[""], 200 - 9 * 4, "the overflow series has no route");
    let overflow = counts_by(&calls, "otel.metric.overflow");
    assert_eq!(overflow.len(), 2, "{overflow:?}");
    assert_eq!(overflow.values().sum::<u64>(), 200);
}
