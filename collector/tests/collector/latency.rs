//! `/api/latency`: counts, rates, errors and quantiles, from histograms as senders send them.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, ExponentialHistogramDataPoint, exemplar};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::*;

const RANGE: &str = "from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z";

fn series(route: &str, status: i64) -> Vec<KeyValue> {
    vec![
        attribute("http.request.method", string("GET")),
        attribute("http.route", string(route)),
        attribute("http.response.status_code", int(status)),
    ]
}

/// Waits until so many points are stored.
fn stored(collector: &Collector, points: usize) {
    let line = format!("offpath_collector_stored_records_total{{signal=\"metrics\"}} {points}\n");
    eventually("stored points", || collector.get("/metrics").text().contains(&line).then_some(()));
}

fn close(value: &Value, exact: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - exact).abs() / exact < 0.05, "{value} for {exact}");
}

#[test]
fn cumulative_points_of_several_streams_merge_by_step_and_key() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let (fast, slow) = (vec![0.010; 90], [vec![0.010; 90], vec![1.0; 10]].concat());
    let at = |seconds: u64| T0 + seconds * SECOND;
    for points in [
        vec![point(T0, at(30), series("/a", 200), &fast), point(T0, at(30), series("/a", 500), &[3.0])],
        vec![point(T0, at(60), series("/a", 200), &slow), point(T0, at(60), series("/b", 200), &[0.5; 4])],
        // The end of an interval belongs to it: 60 s was the first minute's, 61 s is the second's.
        vec![point(T0, at(61), series("/a", 200), &[slow.clone(), vec![0.1; 6]].concat())],
    ] {
        assert_eq!(collector.metrics(&metrics_of(CUMULATIVE, points), None).status, 200);
    }
    stored(&collector, 5);

    let all = collector.json(&format!("/api/latency?{RANGE}&q=0.5,0.99"));
    assert_eq!(all["series"].as_array().unwrap().len(), 1);
    let points = &all["series"][0]["points"];
    assert_eq!(all["series"][0]["key"], "");
    assert_eq!(
        (&points[0]["time"], &points[0]["count"]),
        (&"2026-01-01T00:00:00.000000000Z".into(), &105.into())
    );
    assert_eq!((&points[0]["errors"], &points[0]["rate"]), (&1.into(), &json!(1.75)));
    assert_eq!(
        (&points[1]["time"], &points[1]["count"]),
        (&"2026-01-01T00:01:00.000000000Z".into(), &6.into())
    );
    close(&points[0]["quantiles"]["0.5"], 0.010);
    close(&points[0]["quantiles"]["0.99"], 1.0);
    close(&points[1]["quantiles"]["0.5"], 0.1);

    let by_route = collector.json(&format!("/api/latency?{RANGE}&by=route&step=3600&q=0.5"));
    let keys: Vec<_> = by_route["series"].as_array().unwrap().iter().map(|series| &series["key"]).collect();
    assert_eq!(keys, ["/a", "/b"]);
    assert_eq!(by_route["series"][0]["points"][0]["count"], 107);
    close(&by_route["series"][1]["points"][0]["quantiles"]["0.5"], 0.5);
    for (by, expected) in [("status", vec!["200", "500"]), ("method", vec!["GET"]), ("service", vec!["api"])]
    {
        let answer = collector.json(&format!("/api/latency?{RANGE}&by={by}&step=3600"));
        let keys: Vec<_> = answer["series"].as_array().unwrap().iter().map(|series| &series["key"]).collect();
        assert_eq!(keys, expected, "{by}");
    }
}

#[test]
fn quantiles_over_any_range_are_within_5_percent_of_the_exact_ones() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut random = fastrand::Rng::with_seed(5);
    let mut all = Vec::new();
    for interval in 0..30 {
        // 1 ms to 60 s.
        let values: Vec<f64> = (0..200).map(|_| 10_f64.powf(random.f64() * 4.778 - 3.0)).collect();
        let start = T0 + interval * 10 * SECOND;
        let points = vec![point(start, start + 10 * SECOND, series("/a", 200), &values)];
        assert_eq!(collector.metrics(&metrics_of(DELTA, points), None).status, 200);
        all.push(values);
    }
    stored(&collector, 30);
    for (from, to) in [(0, 30), (3, 4), (7, 29)] {
        let mut values: Vec<f64> = all[from..to].concat();
        values.sort_by(f64::total_cmp);
        let time =
            |interval: usize| format!("2026-01-01T00:{:02}:{:02}Z", interval * 10 / 60, interval * 10 % 60);
        let range = format!("from={}&to={}", time(from), time(to));
        let answer = collector.json(&format!("/api/latency?{range}&step=86400&q=0.5,0.9,0.95,0.99,0.999"));
        let point = &answer["series"][0]["points"][0];
        assert_eq!(point["count"], values.len());
        for (text, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.95", 0.95), ("0.99", 0.99), ("0.999", 0.999)]
        {
            let rank = (quantile * values.len() as f64 - 1e-9).ceil() as usize;
            close(&point["quantiles"][text], values[rank - 1]);
        }
    }
}

#[test]
fn errors_are_those_of_status_500_on_and_those_with_an_error_type() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let failed = vec![attribute("error.type", string("reset"))];
    let at = T0 + SECOND;
    let points = [(series("/a", 499), 1), (series("/a", 500), 2), (failed, 4), (series("/a", 200), 8)];
    let points = points.map(|(attributes, count)| point(T0, at, attributes, &vec![0.1; count])).to_vec();
    assert_eq!(collector.metrics(&metrics_of(DELTA, points), None).status, 200);
    stored(&collector, 4);
    let answer = collector.json(&format!("/api/latency?{RANGE}"));
    let point = &answer["series"][0]["points"][0];
    assert_eq!((&point["count"], &point["errors"]), (&15.into(), &6.into()));
    let answer = collector.json(&format!("/api/latency?{RANGE}&metric=other"));
    assert_eq!(answer, json!({"series": []}));
}

#[test]
fn a_resent_delta_counts_once_and_an_old_cumulative_point_not_at_all() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let delta = metrics_of(DELTA, vec![point(T0, T0 + SECOND, series("/delta", 200), &[0.1; 5])]);
    for _ in 0..3 {
        assert_eq!(collector.metrics(&delta, Some(&format!("{UUID}-1"))).status, 200);
    }
    for (seconds, count) in [(20, 9), (10, 4), (30, 10)] {
        let point = point(T0, T0 + seconds * SECOND, series("/cumulative", 200), &vec![0.1; count]);
        assert_eq!(collector.metrics(&metrics_of(CUMULATIVE, vec![point]), None).status, 200);
    }
    stored(&collector, 3);
    let answer = collector.json(&format!("/api/latency?{RANGE}&by=route"));
    assert_eq!(answer["series"][0]["key"], "/cumulative");
    assert_eq!(answer["series"][0]["points"][0]["count"], 10);
    assert_eq!(answer["series"][1]["points"][0]["count"], 5);
    let metrics = collector.get("/metrics").text();
    assert!(metrics.contains("offpath_collector_superseded_points_total 1\n"), "{metrics}");
}

#[test]
fn cumulative_streams_continue_over_a_restart() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    let send = |collector: &Collector, seconds: u64, count: usize| {
        let point = point(T0, T0 + seconds * SECOND, series("/a", 200), &vec![0.1; count]);
        assert_eq!(collector.metrics(&metrics_of(CUMULATIVE, vec![point]), None).status, 200);
    };
    send(&collector, 10, 7);
    collector.kill();
    collector = Collector::start(data.path(), &[]);
    send(&collector, 20, 9);
    let count = |answer: &Value| answer["series"][0]["points"][0]["count"].clone();
    eventually("both intervals", || {
        (count(&collector.json(&format!("/api/latency?{RANGE}"))) == 9).then_some(())
    });
}

/// An exemplar of a request that took so long and ended at a second; `number` is in all bytes of its ids.
fn exemplar(second: u64, value: f64, number: u8) -> Exemplar {
    Exemplar {
        time_unix_nano: T0 + second * SECOND,
        trace_id: vec![number; 16],
        span_id: vec![number; 8],
        value: Some(exemplar::Value::AsDouble(value)),
        ..Exemplar::default()
    }
}

/// What each point of the first series has for exemplars: value and first byte of the ids.
fn exemplars(answer: &Value) -> Vec<Vec<(f64, u8)>> {
    let points = answer["series"][0]["points"].as_array().unwrap();
    let of_point = |point: &Value| {
        let exemplars = point["exemplars"].as_array().unwrap().iter().map(|exemplar| {
            let id = exemplar["trace_id"].as_str().unwrap();
            let number = u8::from_str_radix(&id[..2], 16).unwrap();
            assert_eq!(
                (id, exemplar["span_id"].as_str().unwrap()),
                (&*id[..2].repeat(16), &*id[..2].repeat(8))
            );
            (exemplar["value"].as_f64().unwrap(), number)
        });
        exemplars.collect()
    };
    points.iter().map(of_point).collect()
}

#[test]
fn the_slowest_requests_of_each_point_lead_to_their_traces() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let at = |seconds: u64| T0 + seconds * SECOND;
    let with = |mut point: ExponentialHistogramDataPoint, exemplars: &[Exemplar]| {
        point.exemplars = exemplars.to_vec();
        point
    };
    let many: Vec<_> = (0..200).map(|n| exemplar(35, 0.010 + f64::from(n) * 1e-6, 9)).collect();
    for points in [
        vec![
            with(
                point(T0, at(30), series("/a", 200), &[0.01, 2.0]),
                &[exemplar(1, 0.01, 1), exemplar(2, 2.0, 2)],
            ),
            with(point(T0, at(30), series("/b", 200), &[3.0]), &[exemplar(3, 3.0, 3)]),
        ],
        // Told late, it says nothing of what the later one has not told.
        vec![with(point(T0, at(20), series("/b", 200), &[3.0]), &[exemplar(3, 3.5, 4)])],
        vec![with(point(T0, at(60), series("/a", 200), &[0.01, 2.0, 0.012]), &many)],
        vec![with(point(T0, at(61), series("/a", 200), &[0.01, 2.0, 0.012, 0.5]), &[exemplar(61, 0.5, 5)])],
    ] {
        assert_eq!(collector.metrics(&metrics_of(CUMULATIVE, points), None).status, 200);
    }
    stored(&collector, 4);

    let all = collector.json(&format!("/api/latency?{RANGE}"));
    // By the ends of the intervals that count them, as everything is.
    assert_eq!(exemplars(&all), [vec![(3.0, 3), (0.010_199, 9)], vec![(0.5, 5)]]);
    assert_eq!(
        all["series"][0]["points"][0]["exemplars"][0],
        json!({"time": "2026-01-01T00:00:03.000000000Z", "value": 3.0, "trace_id": "03".repeat(16), "span_id": "03".repeat(8)})
    );
    let of_a = collector.json(&format!("/api/latency?{RANGE}&by=route&step=3600"));
    assert_eq!(exemplars(&of_a), [[(2.0, 2), (0.5, 5), (0.010_199, 9)]]);
    let from = "from=2026-01-01T00:00:30Z&to=2026-01-01T00:01:00Z";
    assert_eq!(exemplars(&collector.json(&format!("/api/latency?{from}"))), [[(0.010_199, 9)]]);
    let other = collector.json(&format!("/api/latency?{RANGE}&metric=other"));
    assert_eq!(other, json!({"series": []}));
}

#[test]
fn what_a_cumulative_point_repeats_of_the_ones_before_it_is_not_of_its_interval() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let (first, slower) = (exemplar(30, 0.4, 1), exemplar(20, 0.9, 2));
    for (second, values, exemplars) in [
        (30, &[0.4, 0.9][..], vec![first.clone(), slower.clone()]),
        (90, &[0.4, 0.9, 0.5], vec![exemplar(70, 0.5, 3), first.clone(), slower.clone()]),
        // Nothing was measured.
        (150, &[0.4, 0.9, 0.5], vec![exemplar(70, 0.5, 3), first, slower]),
    ] {
        let mut point = point(T0, T0 + second * SECOND, series("/a", 200), values);
        point.exemplars = exemplars;
        assert_eq!(collector.metrics(&metrics_of(CUMULATIVE, vec![point]), None).status, 200);
    }
    stored(&collector, 3);
    let all = collector.json(&format!("/api/latency?{RANGE}"));
    assert_eq!(exemplars(&all), [[(0.9, 2)], [(0.5, 3)]]);
}

#[test]
fn mistakes_are_named_and_answers_are_bounded() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let cases = [
        ("by=path", "by"),
        ("step=0", "step"),
        ("step=1.5", "step"),
        ("q=1.1", "q"),
        ("q=", "q"),
        ("q=0.5,x", "q"),
        ("q=0.500000000000000", "q"),
        ("q=0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0", "q"),
        ("from=now", "from"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("limit=1", "limit"),
    ];
    for (query, parameter) in cases {
        let answer = collector.get(&format!("/api/latency?{query}"));
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &error["error"]["parameter"]),
            (400, &parameter.into()),
            "{query}: {error}"
        );
    }
    let points = (1..=20_001).map(|second| point(T0, T0 + second * SECOND, vec![], &[0.1])).collect();
    assert_eq!(collector.metrics(&metrics_of(DELTA, points), None).status, 200);
    stored(&collector, 20_001);
    let day = "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z&step=1";
    let answer = collector.get(&format!("/api/latency?{day}"));
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("more than 20000 points"), "{}", answer.text());
    let fewer = collector.json("/api/latency?from=2026-01-01T00:00:01Z&to=2026-01-02T00:00:00Z&step=1");
    assert_eq!(fewer["series"][0]["points"].as_array().unwrap().len(), 20_000);
}
