//! The queue: what gives way when it is full, that its bound is one, and how metric exports share it.

use offpath_host_test::{Answer, LogLevel, Proxy, get, post};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::support::{assert_accounted_for, batch_id, dropped, millis, paths, points, proxy, secs};

const DURATION: &str = "http.server.request.duration";

/// Each request is a batch of its own, one call at a time, nobody answers yet.
fn one_record_batches(when_full: &str, max_bytes: usize) -> Proxy {
    proxy(json!({
        "collector": {"max_in_flight": 1, "timeout": "5m"},
        "logs": {"max_record_bytes": 512},
        "batch": {"max_bytes": 1024, "max_records": 1},
        "queue": {"max_bytes": max_bytes, "when_full": when_full},
        "metrics": {"enabled": false},
    }))
}

/// Requests that make batches of equal length: their paths are `/0000` and so on.
fn send(proxy: &mut Proxy, numbers: std::ops::Range<usize>) {
    for number in numbers {
        proxy.request(get(format!("/{number:04}"))).respond(200).unwrap();
        assert_accounted_for(proxy);
    }
}

/// How many bytes one such batch has.
fn batch_bytes() -> usize {
    let mut proxy = one_record_batches("drop_newest", 1_000_000);
    send(&mut proxy, 0..1);
    let bytes = proxy.cluster("otlp").pending()[0].body.len();
    assert_eq!(proxy.gauge("offpath_queue_bytes"), bytes as u64);
    bytes
}

fn delivered_paths(proxy: &mut Proxy) -> Vec<String> {
    paths(&proxy.cluster("otlp").answer_all(200).unwrap())
}

/// The records in the proxy's log.
fn spilled(proxy: &Proxy) -> Vec<Value> {
    let warnings = proxy.log_lines().iter().filter(|line| line.level == LogLevel::Warn);
    warnings.map(|line| serde_json::from_str(&line.message).unwrap()).collect()
}

#[test]
fn the_queues_bound_is_kept_to_the_byte() {
    let batch = batch_bytes();
    for when_full in ["drop_oldest", "drop_newest", "spill"] {
        for (max_bytes, held) in [(5 * batch - 1, 4), (5 * batch, 5), (5 * batch + 1, 5)] {
            let mut proxy = one_record_batches(when_full, max_bytes);
            for number in 0..20 {
                send(&mut proxy, number..number + 1);
                assert!(proxy.gauge("offpath_queue_bytes") <= max_bytes as u64);
            }
            assert_eq!(proxy.gauge("offpath_queue_bytes"), (held * batch) as u64, "{when_full} {max_bytes}");
            assert_eq!(proxy.gauge("offpath_records_pending"), held as u64, "{when_full} {max_bytes}");
            assert_eq!(dropped(&proxy, "queue_full") + dropped(&proxy, "spilled"), 20 - held as u64);
            assert_eq!(delivered_paths(&mut proxy).len(), held);
            assert_accounted_for(&proxy);
            assert_eq!(proxy.gauge("offpath_queue_bytes"), 0);
        }
    }
}

#[test]
fn drop_oldest_drops_the_oldest_that_waits_and_never_one_under_way() {
    let mut proxy = one_record_batches("drop_oldest", 5 * batch_bytes());
    send(&mut proxy, 0..20);
    assert_eq!(dropped(&proxy, "queue_full"), 15);
    assert_eq!(delivered_paths(&mut proxy), ["/0000", "/0016", "/0017", "/0018", "/0019"]);
    assert_accounted_for(&proxy);
}

#[test]
fn drop_oldest_gives_up_the_newest_when_all_others_are_under_way() {
    let mut proxy = proxy(json!({
        "collector": {"max_in_flight": 64, "timeout": "5m"},
        "logs": {"max_record_bytes": 512},
        "batch": {"max_bytes": 1024, "max_records": 1},
        "queue": {"max_bytes": 5 * batch_bytes()},
        "metrics": {"enabled": false},
    }));
    send(&mut proxy, 0..8);
    assert_eq!(dropped(&proxy, "queue_full"), 3);
    assert_eq!(delivered_paths(&mut proxy), ["/0000", "/0001", "/0002", "/0003", "/0004"]);
    assert_accounted_for(&proxy);
}

#[test]
fn drop_newest_keeps_what_waits() {
    let mut proxy = one_record_batches("drop_newest", 5 * batch_bytes());
    send(&mut proxy, 0..20);
    assert_eq!(dropped(&proxy, "queue_full"), 15);
    assert_eq!(delivered_paths(&mut proxy), ["/0000", "/0001", "/0002", "/0003", "/0004"]);
    assert_accounted_for(&proxy);
}

#[test]
fn a_batch_that_waits_for_its_next_try_can_give_way_too() {
    let mut proxy = one_record_batches("drop_oldest", 5 * batch_bytes());
    send(&mut proxy, 0..5);
    proxy.cluster("otlp").answer(Answer::status(503).header("retry-after", "60")).unwrap();
    send(&mut proxy, 5..6);
    assert_eq!(dropped(&proxy, "queue_full"), 1);
    proxy.advance(secs(61)).unwrap();
    assert_eq!(delivered_paths(&mut proxy), ["/0001", "/0002", "/0003", "/0004", "/0005"]);
    assert_accounted_for(&proxy);
}

#[test]
fn spill_writes_the_newest_into_the_proxys_log_as_json() {
    let mut proxy = one_record_batches("spill", 5 * batch_bytes());
    send(&mut proxy, 0..20);
    assert_eq!((dropped(&proxy, "spilled"), dropped(&proxy, "queue_full")), (15, 0));
    let spilled = spilled(&proxy);
    let expected: Vec<String> = (5..20).map(|number| format!("/{number:04}")).collect();
    let paths: Vec<&str> =
        spilled.iter().map(|record| record["attributes"]["url.path"].as_str().unwrap()).collect();
    assert_eq!(paths, expected);
    for record in &spilled {
        assert_eq!(record["attributes"]["http.response.status_code"], 200);
        assert_eq!(record["severity"], "INFO");
        assert!(record["time_unix_nano"].as_u64().is_some_and(|time| time < proxy.now_unix_nanos()));
    }
    assert_eq!(delivered_paths(&mut proxy), ["/0000", "/0001", "/0002", "/0003", "/0004"]);
    assert_accounted_for(&proxy);
}

#[test]
fn spilled_lines_are_json_and_one_line_whatever_was_requested() {
    let mut proxy = one_record_batches("spill", 2048);
    send(&mut proxy, 0..20);
    let before = spilled(&proxy).len();
    let strange: [&[u8]; 5] =
        [b"/\n\r\t\0", b"/\"\\\"", b"/\xff\xfe\x80", "/\u{2028}é".as_bytes(), b"/\x1b[31m"];
    for path in strange {
        proxy.request(get(path).header("user-agent", path)).respond(200).unwrap();
        assert_accounted_for(&proxy);
    }
    assert_eq!(spilled(&proxy).len() - before, strange.len());
    let line_breaks =
        proxy.log_lines().iter().filter(|line| line.message.contains(|char: char| char.is_control()));
    assert_eq!(line_breaks.count(), 0);
}

#[test]
fn what_is_spilled_in_a_second_is_bounded_and_the_excess_is_counted() {
    let mut proxy = one_record_batches("spill", 5 * batch_bytes());
    let held = 5;
    for second in 1..=3 {
        send(&mut proxy, 0..2500);
        let lines = spilled(&proxy).len() as u64;
        assert_eq!(lines, 1000 * second);
        assert_eq!(dropped(&proxy, "spilled"), lines);
        assert_eq!(dropped(&proxy, "queue_full"), 2500 * second - held - lines);
        proxy.advance(secs(1)).unwrap();
    }
}

#[test]
fn a_newer_cumulative_export_replaces_one_that_waits() {
    let mut proxy = proxy(json!({
        "collector": {"max_in_flight": 1, "timeout": "5m"},
        "batch": {"max_records": 1},
        "metrics": {"interval": "1s"},
    }));
    // The one call under way stays there.
    proxy.request(get("/")).respond(200).unwrap();
    for _ in 0..9 {
        proxy.advance(secs(1)).unwrap();
        proxy.request(get("/")).respond(200).unwrap();
    }
    proxy.advance(secs(1)).unwrap();
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    let metrics: Vec<_> = calls.iter().filter(|call| call.path() == "/v1/metrics").collect();
    assert_eq!(metrics.len(), 1, "nine were replaced");
    assert_eq!(points(metrics, DURATION).iter().map(|point| point.count).sum::<u64>(), 10);
    assert_eq!(points_dropped(&proxy), []);
    // What was replaced leaves no gap in the sequence.
    let mut sequence: Vec<u64> =
        calls.iter().map(|call| batch_id(call).rsplit('-').next().unwrap().parse().unwrap()).collect();
    sequence.sort_unstable();
    assert_eq!(sequence, (1..=11).collect::<Vec<_>>());
    assert_accounted_for(&proxy);
}

/// The data points dropped, by reason, as far as there are any.
fn points_dropped(proxy: &Proxy) -> Vec<(String, u64)> {
    let prefix = "offpath_metric_points_dropped_total.reason.";
    let by_reason = proxy.counters(prefix).into_iter().filter(|(_, count)| *count > 0);
    by_reason.map(|(name, count)| (name.trim_start_matches(prefix).to_owned(), count)).collect()
}

fn deltas() -> Proxy {
    proxy(json!({
        "collector": {"timeout": "1m"},
        "logs": {"enabled": false},
        "metrics": {"interval": "10s", "temporality": "delta"},
        "retry": {"initial_backoff": "10ms", "max_backoff": "100ms", "max_elapsed": "3s"},
    }))
}

/// One request, then time until its interval is over.
fn interval(proxy: &mut Proxy) {
    proxy.request(get("/")).respond(200).unwrap();
    proxy.request(post("/")).respond(200).unwrap();
    proxy.advance(secs(10)).unwrap();
}

#[test]
fn a_delta_that_was_refused_is_merged_into_the_next_interval() {
    for refusal in [Answer::status(400), Answer::status(500)] {
        let mut proxy = deltas();
        interval(&mut proxy);
        let refused = proxy.cluster("otlp").answer(refusal.clone()).unwrap();
        assert_eq!(proxy.gauge("offpath_queue_bytes"), 0);
        interval(&mut proxy);
        let told = proxy.cluster("otlp").answer(200).unwrap();
        let told_points = points([&told], DURATION);
        assert_eq!(told_points.iter().map(|point| point.count).collect::<Vec<_>>(), [2, 2], "{refusal:?}");
        let begin = points([&refused], DURATION)[0].start_time_unix_nano;
        assert!(told_points.iter().all(|point| point.start_time_unix_nano == begin), "{refusal:?}");
        assert_ne!(batch_id(&told), batch_id(&refused));
        assert_eq!(points_dropped(&proxy), []);
    }
}

/// Serves `answer` until a delta has expired, then takes the next one: how many requests that one counted of four.
fn told_after(answer: Answer) -> (u64, Vec<(String, u64)>) {
    let mut proxy = deltas();
    proxy.cluster("otlp").serve(answer, millis(1));
    interval(&mut proxy);
    proxy.advance(secs(5)).unwrap();
    assert_eq!(proxy.gauge("offpath_queue_bytes"), 0, "expired");
    proxy.cluster("otlp").stop_serving();
    interval(&mut proxy);
    let told = proxy.cluster("otlp").answer_all(200).unwrap();
    (points(&told, DURATION).iter().map(|point| point.count).sum(), points_dropped(&proxy))
}

#[test]
fn a_delta_that_the_collector_put_off_for_too_long_is_told_with_the_next() {
    for answer in [Answer::status(429), Answer::status(503).header("retry-after", "1")] {
        assert_eq!(told_after(answer.clone()), (4, Vec::new()), "{answer:?}");
    }
}

#[test]
fn a_delta_that_may_have_been_taken_is_not_told_twice() {
    let answers = [
        Answer::Reset,
        Answer::timeout(),
        Answer::connection_refused(),
        Answer::status(502),
        Answer::status(503),
        Answer::status(504),
    ];
    for answer in answers {
        assert_eq!(told_after(answer.clone()), (2, vec![("expired".to_owned(), 2)]), "{answer:?}");
    }
}

#[test]
fn points_that_a_partial_success_refuses_are_counted_and_not_told_again() {
    let response = ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: 1,
            error_message: "too old".into(),
        }),
    };
    let mut proxy = deltas();
    interval(&mut proxy);
    proxy.cluster("otlp").answer(Answer::status(200).with_body(response.encode_to_vec())).unwrap();
    assert_eq!(points_dropped(&proxy), [("rejected".to_owned(), 1)]);
    // What comes next tells that it was dropped, and of nothing else.
    proxy.advance(secs(10)).unwrap();
    let calls = proxy.cluster("otlp").answer_all(200).unwrap();
    assert_eq!((calls.len(), points(&calls, DURATION)), (1, Vec::new()));
    proxy.advance(secs(60)).unwrap();
    assert!(proxy.cluster("otlp").pending().is_empty());
}

#[test]
fn metric_exports_never_make_records_give_way() {
    for when_full in ["drop_oldest", "drop_newest", "spill"] {
        let mut proxy = proxy(json!({
            "collector": {"max_in_flight": 1, "timeout": "5m"},
            "logs": {"max_record_bytes": 512},
            "batch": {"max_bytes": 1024, "max_records": 1},
            "queue": {"max_bytes": 5 * batch_bytes(), "when_full": when_full},
            "metrics": {"interval": "1s", "temporality": "delta"},
        }));
        send(&mut proxy, 0..5);
        proxy.advance(secs(3)).unwrap();
        assert_eq!(dropped(&proxy, "queue_full"), 0, "{when_full}");
        let mut calls = proxy.cluster("otlp").answer_all(200).unwrap();
        assert_eq!(paths(&calls).len(), 5, "{when_full}");
        // The measurements found no room, and come with the next interval.
        proxy.advance(secs(2)).unwrap();
        calls.extend(proxy.cluster("otlp").answer_all(200).unwrap());
        assert_eq!(points(&calls, DURATION).iter().map(|point| point.count).sum::<u64>(), 5, "{when_full}");
        assert_eq!(points_dropped(&proxy), [], "{when_full}");
        assert_accounted_for(&proxy);
    }
}
