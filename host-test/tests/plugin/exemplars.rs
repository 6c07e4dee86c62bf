//! Exemplars: a few requests with a trace stand for what a histogram counts, the slowest always among them.

use offpath_host_test::{Call, Proxy, Request, get};
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, exemplar};
use serde_json::{Value, json};

use crate::support::{millis, points, proxy, secs};

const DURATION: &str = "http.server.request.duration";

/// The seconds and the trace of each, the slowest first.
type Exemplars = Vec<(f64, u8)>;

fn exemplars(point: &ExponentialHistogramDataPoint) -> Exemplars {
    let told = point.exemplars.iter().map(|exemplar| {
        assert!((point.start_time_unix_nano..=point.time_unix_nano).contains(&exemplar.time_unix_nano));
        assert_eq!((exemplar.trace_id.len(), exemplar.span_id.len()), (16, 8));
        let Some(exemplar::Value::AsDouble(seconds)) = exemplar.value else { panic!("{exemplar:?}") };
        assert!((point.min()..=point.max()).contains(&seconds), "{point:?}");
        (seconds, exemplar.trace_id[15])
    });
    told.collect()
}

fn traced(number: u8) -> Request {
    get("/").header("traceparent", format!("00-{number:032x}-{number:016x}-01"))
}

/// A second passes; the export that it brings is answered.
fn export(proxy: &mut Proxy, status: u16) -> Vec<Call> {
    proxy.advance(secs(1)).unwrap();
    proxy.cluster("otlp").answer_all(status).unwrap()
}

fn config(changes: Value) -> Value {
    let mut metrics = json!({"interval": "1s"});
    metrics.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({"logs": {"enabled": false}, "metrics": metrics})
}

#[test]
fn the_slowest_of_an_interval_and_of_each_part_of_the_range_are_exemplars() {
    for temporality in ["cumulative", "delta"] {
        let mut proxy = proxy(config(json!({"temporality": temporality})));
        export(&mut proxy, 200);
        let requests = [(7, 1), (5000, 2), (9, 3), (300, 4), (8, 5), (8000, 6), (20, 7)];
        for (ms, number) in requests {
            proxy.request(traced(number).took(millis(ms))).respond(200).unwrap();
        }
        let point = points(&export(&mut proxy, 200), DURATION).remove(0);
        assert_eq!(exemplars(&point), [(8.0, 6), (0.3, 4), (0.02, 7), (0.009, 3)], "{temporality}");
        // The next interval has its own, though a cumulative point still counts the others.
        proxy.request(traced(8).took(millis(7))).respond(200).unwrap();
        let point = points(&export(&mut proxy, 200), DURATION).remove(0);
        assert_eq!(exemplars(&point), [(0.007, 8)], "{temporality}");
    }
}

#[test]
fn however_many_requests_there_are_a_point_has_eight_exemplars_at_most() {
    let mut proxy = proxy(config(json!({})));
    export(&mut proxy, 200);
    for exponent in 0..20 {
        for ms in [1 << exponent, 3 << exponent] {
            proxy.request(traced(1).took(millis(ms))).respond(200).unwrap();
        }
    }
    let point = points(&export(&mut proxy, 200), DURATION).remove(0);
    assert_eq!((point.count, exemplars(&point).len()), (40, 7), "the eighth part ends at 1 ms");
}

#[test]
fn there_are_none_without_a_trace_and_none_where_they_are_off() {
    for (changes, request, expected) in [
        (json!({}), traced(1), 1),
        (json!({}), get("/"), 0),
        (json!({}), traced(0), 0),
        (json!({}), get("/").header("traceparent", "00-1-2-3"), 0),
        (json!({}), traced(1).header("traceparent", "00-1-2-3"), 0),
        (json!({"exemplars": false}), traced(1), 0),
    ] {
        let mut proxy = proxy(config(changes.clone()));
        export(&mut proxy, 200);
        proxy.request(request).respond(200).unwrap();
        let point = points(&export(&mut proxy, 200), DURATION).remove(0);
        assert_eq!(exemplars(&point).len(), expected, "{changes}");
    }
}

#[test]
fn a_refused_delta_brings_its_exemplars_along_with_its_counts() {
    let mut proxy = proxy(config(json!({"temporality": "delta"})));
    export(&mut proxy, 200);
    for (ms, number) in [(5000, 1), (20, 2)] {
        proxy.request(traced(number).took(millis(ms))).respond(200).unwrap();
    }
    assert_eq!(points(&export(&mut proxy, 400), DURATION).len(), 1);
    for (ms, number) in [(4500, 3), (30, 4)] {
        proxy.request(traced(number).took(millis(ms))).respond(200).unwrap();
    }
    let point = points(&export(&mut proxy, 200), DURATION).remove(0);
    assert_eq!((point.count, exemplars(&point)), (4, vec![(5.0, 1), (0.03, 4)]));
}
