//! What is measured in which series, and how it is exported.

use super::*;
use crate::capture::{Captured, Plan};
use crate::route::Routes;
use crate::testing::{Told, config};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, exemplar, metric::Data};
use prost::Message;

const START: u64 = 1_700_000_000_000_000_000;
const MAX_BYTES: usize = 262_144;

struct Fixture {
    plan: Plan,
    envelope: Envelope,
    measurements: Measurements,
}

impl Fixture {
    fn new(metrics: &str) -> Self {
        let config = config(&format!(r#""metrics":{{{metrics}}}"#));
        Self {
            plan: Plan::new(&config),
            envelope: Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0"),
            measurements: Measurements::new(&config.metrics, START),
        }
    }

    fn record(&mut self, told: &Told) {
        let captured = told.captured(&self.plan);
        self.measurements.record(&FinishedRequest::read(&self.plan, &captured, START));
    }

    /// All data points of an export: metric, attributes, point.
    fn export(&mut self, max_bytes: usize) -> Vec<(String, String, ExponentialHistogramDataPoint)> {
        self.export_at(START + 1, max_bytes)
    }

    fn export_at(
        &mut self,
        now: u64,
        max_bytes: usize,
    ) -> Vec<(String, String, ExponentialHistogramDataPoint)> {
        let mut requests = Vec::new();
        self.measurements.export(&self.envelope, max_bytes, now, |request| requests.push(request));
        let mut points = Vec::new();
        for request in requests {
            assert!(request.body.len() <= max_bytes);
            let before = points.len();
            let decoded = ExportMetricsServiceRequest::decode(request.body.as_slice()).unwrap();
            for metric in &decoded.resource_metrics[0].scope_metrics[0].metrics {
                assert_eq!(metric.unit, "s");
                let Some(Data::ExponentialHistogram(histogram)) = &metric.data else { panic!("{metric:?}") };
                for point in &histogram.data_points {
                    points.push((metric.name.clone(), attributes(point), point.clone()));
                }
            }
            assert_eq!((points.len() - before) as u64, request.points);
        }
        points
    }
}

fn attributes(point: &ExponentialHistogramDataPoint) -> String {
    let shown = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let pairs = point.attributes.iter().map(|attribute| {
        format!("{}={}", attribute.key, shown(attribute.value.as_ref().unwrap().value.as_ref().unwrap()))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_series_has_attributes_of_bounded_sets_only() {
    let mut fixture = Fixture::new(r#""attributes":["envoy.upstream.cluster","envoy.route.name"]"#);
    fixture.record(&Told::ordinary());
    fixture.record(&Told::ordinary().text("request.path", "/other").text("request.useragent", "x"));
    fixture.record(
        &Told::ordinary()
            .text("request.method", "BREW")
            .text("request.scheme", "gopher")
            .int("response.code", 500),
    );
    let mut points = fixture.export(MAX_BYTES);
    points.sort_by(|a, b| a.1.cmp(&b.1));
    let told: Vec<_> = points
        .iter()
        .map(|(metric, attributes, point)| (metric.as_str(), attributes.as_str(), point.count))
        .collect();
    assert_eq!(
        told,
        [
            (
                "http.server.request.duration",
                "http.request.method=GET url.scheme=http http.response.status_code=200 network.protocol.version=1.1 \
                 envoy.upstream.cluster=orders envoy.route.name=all",
                2
            ),
            (
                "http.server.request.duration",
                "http.request.method=_OTHER http.response.status_code=500 error.type=500 network.protocol.version=1.1 \
                 envoy.upstream.cluster=orders envoy.route.name=all",
                1
            ),
        ]
    );
}

#[test]
fn the_request_is_the_upstreams_part_and_the_proxys_part() {
    let mut fixture = Fixture::new(r#""histograms":["duration","upstream","proxy"]"#);
    fixture.record(&Told::ordinary());
    fixture.record(&Told::ordinary().bytes("response.backend_latency", b""));
    let sums: Vec<_> = fixture
        .export(MAX_BYTES)
        .into_iter()
        .map(|(metric, _, point)| (metric, point.count, point.sum))
        .collect();
    assert_eq!(
        sums,
        [
            ("http.server.request.duration".to_owned(), 2, Some(0.024)),
            ("envoy.upstream.duration".to_owned(), 1, Some(0.01)),
            ("envoy.proxy.duration".to_owned(), 2, Some(0.014)),
        ]
    );
}

#[test]
fn what_leaves_by_an_outbound_listener_is_the_clients() {
    let mut fixture = Fixture::new(r#""attributes":[]"#);
    fixture.record(&Told::ordinary().int("xds.listener_direction", 2));
    fixture.record(&Told::ordinary().int("xds.listener_direction", 1));
    let metrics: Vec<_> =
        fixture.export(MAX_BYTES).into_iter().map(|(metric, _, point)| (metric, point.count)).collect();
    assert_eq!(
        metrics,
        [("http.server.request.duration".into(), 1), ("http.client.request.duration".into(), 1)]
    );
}

#[test]
fn series_beyond_the_bound_are_measured_in_the_overflow_series() {
    for (max_series, expected) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let mut fixture = Fixture::new(&format!(r#""max_series":{max_series}"#));
        for round in 0..2 {
            for status in [200, 404, 500] {
                fixture.record(&Told::ordinary().int("response.code", status));
            }
            let points = fixture.export(MAX_BYTES);
            assert_eq!(points.len(), expected, "max_series {max_series}");
            assert_eq!(fixture.measurements.series_count(), expected);
            let overflow: Vec<_> =
                points.iter().filter(|point| point.1 == "otel.metric.overflow=true").collect();
            assert_eq!(overflow.len(), usize::from(max_series < 4));
            let all: u64 = points.iter().map(|point| point.2.count).sum();
            assert_eq!(all, 3 * (round + 1), "every request is in exactly one series");
        }
    }
}

#[test]
fn hundreds_of_thousands_of_hostile_values_make_no_series() {
    let config = config(r#""logs":{"enabled":false},"routes":["/orders/{id}","/files/{*path}"]"#);
    let (plan, routes) = (Plan::new(&config), Routes::new(&config.routes).unwrap());
    let mut measurements = Measurements::new(&config.metrics, START);
    let mut captured = Captured::default();
    for n in 0..300_000u64 {
        captured.clear();
        for path in plan.property_paths() {
            let value = match path {
                b"request\0path" => format!("{}{n}", ["/orders/", "/files/", "/"][n as usize % 3]).into(),
                b"request\0duration" => n.to_le_bytes().to_vec(),
                // A status is a number of three digits or none, a flag one of those that there are.
                b"response\0code" => (n << 10).to_le_bytes().to_vec(),
                b"response\0flags" => (n << 30).to_le_bytes().to_vec(),
                // The proxy's own configuration says these.
                b"xds\0cluster_name" => b"orders".to_vec(),
                _ => n.to_le_bytes().to_vec(),
            };
            captured.push(Some(&value));
        }
        let mut request = FinishedRequest::read(&plan, &captured, START);
        request.route = routes.find(request.path_and_query().0);
        measurements.record(&request);
    }
    assert!(measurements.series_count() <= 6, "{} series", measurements.series_count());
}

#[test]
fn a_series_has_the_route_and_says_what_is_a_stream() {
    let config = config(r#""metrics":{"attributes":[]},"routes":["/chat/{room}"]"#);
    let (plan, routes) = (Plan::new(&config), Routes::new(&config.routes).unwrap());
    let mut fixture = Fixture::new(r#""attributes":[]"#);
    for (path, status) in [("/chat/7?a=b", 101), ("/chat/8", 200), ("/chat", 200)] {
        let captured =
            Told::ordinary().text("request.path", path).int("response.code", status).captured(&plan);
        let mut request = FinishedRequest::read(&plan, &captured, START);
        request.route = routes.find(request.path_and_query().0);
        fixture.measurements.record(&request);
    }
    let mut told: Vec<_> =
        fixture.export(MAX_BYTES).into_iter().map(|(_, attributes, _)| attributes).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "http.request.method=GET url.scheme=http http.response.status_code=101 network.protocol.version=1.1 \
             offpath.stream.kind=upgrade http.route=/chat/{room}",
            "http.request.method=GET url.scheme=http http.response.status_code=200 network.protocol.version=1.1",
            "http.request.method=GET url.scheme=http http.response.status_code=200 network.protocol.version=1.1 \
             http.route=/chat/{room}",
        ]
    );
}

#[test]
fn cumulative_tells_all_since_the_start_and_delta_all_since_the_last_export() {
    for (temporality, counts, starts) in
        [("cumulative", [1, 2], [START, START]), ("delta", [1, 1], [START, START + 1])]
    {
        let mut fixture = Fixture::new(&format!(r#""temporality":"{temporality}""#));
        for (count, start) in counts.into_iter().zip(starts) {
            fixture.record(&Told::ordinary());
            let (_, _, point) = fixture.export(MAX_BYTES).remove(0);
            assert_eq!(
                (point.count, point.start_time_unix_nano, point.time_unix_nano),
                (count, start, START + 1),
                "{temporality}"
            );
        }
        let idle = fixture.export(MAX_BYTES).len();
        assert_eq!(idle, usize::from(temporality == "cumulative"), "{temporality} without new requests");
    }
}

#[test]
fn a_clock_that_was_set_back_makes_no_point_that_ends_before_it_began() {
    for temporality in ["cumulative", "delta"] {
        let mut fixture = Fixture::new(&format!(r#""temporality":"{temporality}""#));
        for now in [START - 5, START - 3, START - 9] {
            fixture.record(&Told::ordinary());
            let exported = fixture.export_at(now, MAX_BYTES);
            let (_, _, point) = &exported[0];
            assert!(point.start_time_unix_nano <= now, "{temporality} at {now}");
            assert_eq!(point.time_unix_nano, now);
        }
    }
}

#[test]
fn only_the_points_that_came_back_begin_earlier() {
    let mut fixture = Fixture::new(r#""temporality":"delta","histograms":["duration","proxy"]"#);
    fixture.record(&Told::ordinary());
    let mut requests = Vec::new();
    fixture.measurements.export(&fixture.envelope, 700, START + 10, |request| requests.push(request));
    assert_eq!(requests.len(), 2, "a request for each metric");
    fixture.measurements.absorb(requests.pop().unwrap().delta.unwrap());
    fixture.record(&Told::ordinary());
    let exported = fixture.export_at(START + 20, MAX_BYTES);
    let starts: Vec<_> = exported
        .iter()
        .map(|(metric, _, point)| (metric.as_str(), point.start_time_unix_nano, point.count))
        .collect();
    assert_eq!(starts, [("http.server.request.duration", START + 10, 1), ("envoy.proxy.duration", START, 2)]);
    fixture.record(&Told::ordinary());
    let exported = fixture.export_at(START + 30, MAX_BYTES);
    assert!(exported.iter().all(|(_, _, point)| point.start_time_unix_nano == START + 20));
}

/// A request of so many milliseconds with a trace of that number, or with none.
fn traced(ms: i64, number: u8) -> Told {
    let header = format!("00-{:032x}-{:016x}-00", number, number);
    Told::ordinary().int("request.duration", ms * 1_000_000).text("request.headers.traceparent", &header)
}

/// Seconds, the number of the trace, and nanoseconds since the start.
fn exemplars(point: &ExponentialHistogramDataPoint) -> Vec<(f64, u8, u64)> {
    let told = point.exemplars.iter().map(|exemplar| {
        let Some(exemplar::Value::AsDouble(seconds)) = exemplar.value else { panic!("{exemplar:?}") };
        assert_eq!((exemplar.trace_id.len(), exemplar.span_id.len()), (16, 8));
        assert_eq!(exemplar.trace_id[15], exemplar.span_id[7]);
        (seconds, exemplar.trace_id[15], exemplar.time_unix_nano - START)
    });
    told.collect()
}

#[test]
fn each_export_has_exemplars_of_its_own_interval() {
    for temporality in ["cumulative", "delta"] {
        let mut fixture = Fixture::new(&format!(r#""temporality":"{temporality}""#));
        for told in [traced(20, 1), traced(3000, 2), traced(30, 3), traced(9000, 0), traced(25, 4)] {
            fixture.record(&told);
        }
        let (_, _, point) = &fixture.export(MAX_BYTES)[0];
        assert_eq!(exemplars(point), [(3.0, 2, 0), (0.03, 3, 0)], "{temporality}");
        fixture.record(&traced(10, 5));
        let (_, _, point) = &fixture.export(MAX_BYTES)[0];
        assert_eq!(exemplars(point), [(0.01, 5, 0)], "{temporality}");
        fixture.record(&traced(10, 0));
        let (_, _, point) = &fixture.export(MAX_BYTES)[0];
        assert_eq!(exemplars(point), [], "{temporality}: none without a trace");
    }
}

#[test]
fn each_metric_and_the_overflow_series_have_exemplars_and_none_where_they_are_off() {
    let metrics = r#""histograms":["duration","upstream","proxy"],"max_series":1"#;
    let mut fixture = Fixture::new(metrics);
    fixture.record(&traced(12, 1));
    let told: Vec<_> = fixture.export(MAX_BYTES).into_iter().map(|(_, _, point)| exemplars(&point)).collect();
    assert_eq!(told, [[(0.012, 1, 0)], [(0.01, 1, 0)], [(0.002, 1, 0)]]);
    let mut fixture = Fixture::new(&format!(r#"{metrics},"exemplars":false"#));
    fixture.record(&traced(12, 1));
    let told = fixture.export(MAX_BYTES);
    assert!(told.len() == 3 && told.iter().all(|(_, _, point)| point.exemplars.is_empty()));
}

#[test]
fn a_delta_that_came_back_brings_its_exemplars() {
    let mut fixture = Fixture::new(r#""temporality":"delta""#);
    fixture.record(&traced(20, 1));
    fixture.record(&traced(3000, 2));
    let mut requests = Vec::new();
    fixture.measurements.export(&fixture.envelope, MAX_BYTES, START + 10, |request| requests.push(request));
    fixture.record(&traced(30, 3));
    fixture.record(&traced(2000, 4));
    fixture.measurements.absorb(requests.pop().unwrap().delta.unwrap());
    let (_, _, point) = &fixture.export_at(START + 20, MAX_BYTES)[0];
    assert_eq!((point.count, point.start_time_unix_nano), (4, START));
    assert_eq!(exemplars(point), [(3.0, 2, 0), (0.03, 3, 0)]);
}

#[test]
fn exemplars_give_way_where_a_request_has_no_room_for_them() {
    let points = |max_bytes, traces: [u8; 3]| {
        let mut fixture = Fixture::new("");
        for (ms, trace) in [20, 300, 3000].into_iter().zip(traces) {
            fixture.record(&traced(ms, trace));
        }
        fixture.export(max_bytes)
    };
    let mut told = Vec::new();
    for max_bytes in 200..1200 {
        let (with, without) = (points(max_bytes, [1, 2, 3]), points(max_bytes, [0; 3]));
        assert_eq!(with.len(), without.len(), "no point is lost for its exemplars, at {max_bytes} bytes");
        told.extend(with.iter().map(|(_, _, point)| exemplars(point)));
    }
    assert!(told.is_sorted_by_key(Vec::len));
    told.dedup();
    let slowest_first = [(3.0, 3, 0), (0.3, 2, 0), (0.02, 1, 0)];
    assert_eq!(told, [0, 1, 2, 3].map(|count| slowest_first[..count].to_vec()));
}

#[test]
fn an_export_is_split_at_the_bound_and_loses_no_point() {
    let mut fixture = Fixture::new(r#""histograms":["duration","proxy"]"#);
    for status in 100..400 {
        fixture.record(&Told::ordinary().int("response.code", status));
    }
    for max_bytes in [700, 2000, 10_000] {
        let points = fixture.export(max_bytes);
        assert_eq!(points.len(), 600, "at {max_bytes} bytes");
    }
    let mut requests = 0;
    let oversized = fixture.measurements.export(&fixture.envelope, 300, START, |_| requests += 1);
    assert_eq!((requests, oversized), (0, 600), "no point fits");
}
