//! Histograms: every request is counted once, in the series that it belongs to.

use offpath_host_test::{Call, get, post};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, metric,
};
use serde_json::json;

use crate::support::{
    accepted_calls, attributes, builder, decode_metrics, millis, points, proxy, secs, text,
};

const DURATION: &str = "http.server.request.duration";

fn count(points: &[ExponentialHistogramDataPoint]) -> u64 {
    points.iter().map(|point| point.count).sum()
}

/// The last export's points only: what a cumulative stream says in the end.
fn last(calls: &[Call], name: &str) -> Vec<ExponentialHistogramDataPoint> {
    let points = points(calls, name);
    let end = points.iter().map(|point| point.time_unix_nano).max();
    points.into_iter().filter(|point| Some(point.time_unix_nano) == end).collect()
}

#[test]
fn every_request_is_counted_once_whatever_the_temporality() {
    for temporality in ["cumulative", "delta"] {
        let config = json!({"metrics": {"interval": "1s", "temporality": temporality}});
        let mut proxy = proxy(config);
        let mut calls = Vec::new();
        for round in 0..5 {
            for number in 0..20_u64 {
                proxy.request(get("/").took(millis(number * 7 + round))).respond(200).unwrap();
            }
            calls.extend(accepted_calls(&mut proxy, 2));
        }
        let counted = match temporality {
            "cumulative" => count(&last(&calls, DURATION)),
            _ => count(&points(&calls, DURATION)),
        };
        assert_eq!(counted, 100, "{temporality}");
        let expected = match temporality {
            "cumulative" => AggregationTemporality::Cumulative,
            _ => AggregationTemporality::Delta,
        };
        let metrics = calls.iter().filter(|call| call.path() == "/v1/metrics").flat_map(|call| {
            decode_metrics(call).resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics)
        });
        for metric in metrics.flat_map(|scope| scope.metrics) {
            let Some(metric::Data::ExponentialHistogram(histogram)) = metric.data else {
                panic!("{metric:?}")
            };
            assert_eq!(histogram.aggregation_temporality(), expected);
            assert_eq!(metric.unit, "s");
        }
    }
}

#[test]
fn a_points_buckets_sum_and_bounds_agree() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    for duration in [millis(0), millis(1), millis(10), millis(10), secs(60)] {
        proxy.request(get("/").took(duration)).respond(200).unwrap();
    }
    let calls = accepted_calls(&mut proxy, 2);
    let [point] = &last(&calls, DURATION)[..] else { panic!() };
    let positive: u64 = point.positive.as_ref().unwrap().bucket_counts.iter().sum();
    assert_eq!((point.count, point.zero_count, positive), (5, 1, 4));
    assert!(point.negative.as_ref().is_none_or(|negative| negative.bucket_counts.is_empty()));
    assert!((point.sum.unwrap() - 60.021).abs() < 1e-9);
    assert!((point.zero_threshold - 1e-4).abs() < 1e-12);
    assert!(point.start_time_unix_nano < point.time_unix_nano);
}

#[test]
fn a_series_is_method_status_protocol_and_cluster() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    proxy.request(get("/a")).respond(200).unwrap();
    proxy.request(get("/b?other=path")).respond(200).unwrap();
    proxy.request(get("/a")).respond(404).unwrap();
    proxy.request(post("/a")).respond(200).unwrap();
    proxy.request(get("/a").with(|info| info.cluster_name = Some(b"blue".to_vec()))).respond(200).unwrap();
    proxy.request(get("/a").with(|info| info.protocol = Some(b"HTTP/2".to_vec()))).respond(200).unwrap();
    let calls = accepted_calls(&mut proxy, 2);
    let points = last(&calls, DURATION);
    let mut counts: Vec<_> = points.iter().map(|point| point.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 1, 2]);
    let blue = points
        .iter()
        .map(|point| attributes(&point.attributes))
        .find(|point| point["envoy.upstream.cluster"] == text("blue"));
    let names: Vec<_> = blue.unwrap().into_keys().collect();
    let expected = [
        "envoy.upstream.cluster",
        "http.request.method",
        "http.response.status_code",
        "network.protocol.version",
        "url.scheme",
    ];
    assert_eq!(names, expected);
}

#[test]
fn series_beyond_the_bound_are_counted_in_the_overflow_series() {
    for max_series in [1, 3, 10, 11, 12] {
        let mut proxy = proxy(json!({"metrics": {"interval": "1s", "max_series": max_series}}));
        for cluster in 0..11 {
            let named = format!("cluster-{cluster}").into_bytes();
            proxy.request(get("/").with(|info| info.cluster_name = Some(named))).respond(200).unwrap();
        }
        let calls = accepted_calls(&mut proxy, 2);
        let points = last(&calls, DURATION);
        assert_eq!(count(&points), 11, "{max_series}");
        assert!(points.len() <= max_series, "{} > {max_series}", points.len());
        let overflow = points
            .iter()
            .filter(|point| attributes(&point.attributes).contains_key("otel.metric.overflow"))
            .count();
        assert_eq!(overflow, usize::from(max_series < 12), "{max_series}");
    }
}

#[test]
fn a_point_never_has_more_buckets_than_allowed() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s", "max_buckets": 16}}));
    for exponent in 0..60 {
        proxy.request(get("/").took(millis(1 + exponent * exponent * 17))).respond(200).unwrap();
    }
    let calls = accepted_calls(&mut proxy, 2);
    let points = last(&calls, DURATION);
    assert_eq!(count(&points), 60);
    assert!(points.iter().all(|point| point.positive.as_ref().unwrap().bucket_counts.len() <= 16));
}

#[test]
fn upstream_and_proxy_durations_split_the_whole() {
    let config = json!({"metrics": {"interval": "1s", "histograms": ["duration", "upstream", "proxy"]}});
    let mut proxy = proxy(config);
    proxy.request(get("/")).respond(200).unwrap();
    proxy.request(get("/").without_upstream("direct_response").took(millis(1))).respond(200).unwrap();
    let calls = accepted_calls(&mut proxy, 2);
    let sum = |name| last(&calls, name).iter().filter_map(|point| point.sum).sum::<f64>();
    assert!((sum(DURATION) - 0.013).abs() < 1e-9);
    assert!((sum("envoy.upstream.duration") - 0.009).abs() < 1e-9);
    assert!((sum("envoy.proxy.duration") - 0.004).abs() < 1e-9);
    assert_eq!(count(&last(&calls, "envoy.upstream.duration")), 1);
}

#[test]
fn outbound_requests_have_the_clients_metric() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}}));
    proxy.request(get("/").with(|info| info.listener_direction = 2)).respond(200).unwrap();
    let calls = accepted_calls(&mut proxy, 2);
    assert_eq!(count(&last(&calls, "http.client.request.duration")), 1);
    assert!(last(&calls, DURATION).is_empty());
}

#[test]
fn each_worker_counts_its_own_requests() {
    let mut proxy = builder(json!({"metrics": {"interval": "1s"}})).workers(2).start().unwrap();
    for number in 0..100 {
        proxy.request(get("/")).on_worker(number % 2).respond(200).unwrap();
    }
    let calls = accepted_calls(&mut proxy, 1);
    let by_worker = |worker| {
        let own: Vec<_> = calls
            .iter()
            .filter(|call| call.vm == offpath_host_test::VmRole::Worker(worker))
            .cloned()
            .collect();
        count(&last(&own, DURATION))
    };
    assert_eq!((by_worker(0), by_worker(1)), (50, 50));
}

#[test]
fn large_exports_are_split_and_lose_nothing() {
    let config = json!({
        "metrics": {"interval": "1s"},
        "logs": {"enabled": false, "max_record_bytes": 1024},
        "batch": {"max_bytes": 2048},
        "queue": {"max_bytes": 1_048_576},
    });
    let mut proxy = proxy(config);
    for cluster in 0..100 {
        let named = format!("cluster-{cluster}").into_bytes();
        proxy.request(get("/").with(|info| info.cluster_name = Some(named))).respond(200).unwrap();
    }
    let calls = accepted_calls(&mut proxy, 2);
    assert!(calls.len() > 5 && calls.iter().all(|call| call.body.len() <= 2048));
    assert_eq!(count(&last(&calls, DURATION)), 100);
}

#[test]
fn points_that_are_refused_are_counted() {
    let mut proxy = proxy(json!({"metrics": {"interval": "1s"}, "logs": {"enabled": false}}));
    proxy.request(get("/")).respond(200).unwrap();
    proxy.request(post("/")).respond(200).unwrap();
    proxy.advance(secs(1)).unwrap();
    proxy.cluster("otlp").answer(400).unwrap();
    assert_eq!(proxy.counter("offpath_metric_points_dropped_total.reason.rejected"), 2);
}
