//! New configurations and the end: nothing is lost without being counted.

use offpath_host_test::{Answer, Mode, Proxy, get};
use serde_json::json;

use crate::support::{assert_accounted_for, builder, config, dropped, millis, points, proxy, records, secs};

#[test]
fn reconfiguration_loses_no_record_and_no_measurement() {
    for mode in [Mode::AccessLogger, Mode::HttpFilter] {
        let mut proxy = builder(
            json!({"batch": {"max_delay": "1m"}, "metrics": {"interval": "10m", "temporality": "delta"}}),
        )
        .mode(mode)
        .workers(2)
        .start()
        .unwrap();
        for number in 0..10 {
            proxy.request(get(format!("/old/{number}"))).on_worker(number % 2).respond(200).unwrap();
        }
        proxy
            .reconfigure(config(json!({"batch": {"max_records": 5}, "metrics": {"temporality": "delta"}})))
            .unwrap();
        assert_accounted_for(&proxy);
        for number in 0..10 {
            proxy.request(get(format!("/new/{number}"))).on_worker(number % 2).respond(200).unwrap();
            assert_accounted_for(&proxy);
        }
        let mut calls = proxy.cluster("otlp").answer_all(200).unwrap();
        for _ in 0..20 {
            proxy.advance(secs(1)).unwrap();
            calls.extend(proxy.cluster("otlp").answer_all(200).unwrap());
        }
        assert_eq!(records(&calls).len(), 20, "{mode:?}");
        let counted: u64 =
            points(&calls, "http.server.request.duration").iter().map(|point| point.count).sum();
        assert_eq!(counted, 20, "{mode:?}");
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 20, "{mode:?}");
        assert_eq!((proxy.draining(), proxy.gauge("offpath_records_pending")), (0, 0), "{mode:?}");
    }
}

#[test]
fn a_context_without_data_is_done_at_once() {
    let mut proxy = proxy(json!({}));
    proxy.reconfigure(config(json!({"batch": {"max_records": 7}}))).unwrap();
    assert_eq!(proxy.draining(), 0);
    // One that has data waits for the answer.
    proxy.request(get("/")).respond(200).unwrap();
    proxy.reconfigure(config(json!({"batch": {"max_records": 8}}))).unwrap();
    assert_eq!(proxy.draining(), 1);
    proxy.cluster("otlp").answer_all(200).unwrap();
    assert_eq!(proxy.draining(), 0);
    assert_accounted_for(&proxy);
    assert_eq!(proxy.counter("offpath_records_delivered_total"), 1);
}

#[test]
fn a_draining_context_ends_also_where_the_collector_does_not_answer() {
    let mut proxy = proxy(json!({"collector": {"timeout": "2s"}, "retry": {"max_elapsed": "20s"}}));
    proxy.request(get("/")).respond(200).unwrap();
    proxy.reconfigure(config(json!({"batch": {"max_records": 7}}))).unwrap();
    proxy.advance(secs(15)).unwrap();
    assert_eq!((proxy.draining(), proxy.gauge("offpath_records_pending")), (1, 1));
    proxy.advance(secs(60)).unwrap();
    assert_accounted_for(&proxy);
    assert_eq!((proxy.draining(), dropped(&proxy, "expired")), (0, 1));
}

#[test]
fn reconfigurations_under_a_failing_collector_lose_nothing() {
    for (mode, temporality) in [(Mode::AccessLogger, "delta"), (Mode::HttpFilter, "cumulative")] {
        let changes = |round: u64| {
            json!({
                "batch": {"max_records": 5 + round, "max_delay": "200ms"},
                "metrics": {"interval": "1s", "temporality": temporality},
            })
        };
        let mut proxy = builder(changes(0)).mode(mode).workers(2).start().unwrap();
        let failures = [Answer::status(503), Answer::Reset, Answer::timeout(), Answer::connection_refused()];
        for (round, failure) in (1..).zip(failures) {
            proxy.cluster("otlp").serve(failure, millis(20));
            for number in 0..30 {
                proxy.request(get(format!("/{round}/{number}"))).on_worker(number % 2).respond(200).unwrap();
                proxy.advance(millis(50)).unwrap();
                assert_accounted_for(&proxy);
            }
            proxy.reconfigure(config(changes(round))).unwrap();
            assert_accounted_for(&proxy);
        }
        assert!(proxy.draining() > 0);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 0);
        proxy.cluster("otlp").serve(200, millis(20));
        proxy.advance(secs(120)).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 120, "{mode:?}");
        assert_eq!((proxy.draining(), proxy.gauge("offpath_queue_bytes")), (0, 0), "{mode:?}");
    }
}

#[test]
fn many_reconfigurations_leave_nothing_behind() {
    let mut proxy = proxy(json!({}));
    let mut sizes = Vec::new();
    for round in 1..=30_usize {
        for _ in 0..20 {
            proxy.request(get("/")).respond(200).unwrap();
        }
        proxy.reconfigure(config(json!({"batch": {"max_records": round}}))).unwrap();
        proxy.cluster("otlp").answer_all(200).unwrap();
        proxy.advance(secs(3)).unwrap();
        proxy.cluster("otlp").answer_all(200).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.draining(), 0, "round {round}");
        sizes.push(proxy.memory_bytes(0));
    }
    assert_eq!(proxy.counter("offpath_records_delivered_total"), 600);
    assert_eq!(sizes.last(), sizes.get(10), "memory grows with each configuration: {sizes:?}");
}

#[test]
fn an_answer_after_a_reconfiguration_is_the_old_contexts() {
    let mut proxy = proxy(json!({"batch": {"max_records": 1}, "metrics": {"enabled": false}}));
    proxy.request(get("/old")).respond(200).unwrap();
    proxy
        .reconfigure(config(
            json!({"batch": {"max_records": 1}, "metrics": {"enabled": false}, "resource": {"a": "b"}}),
        ))
        .unwrap();
    proxy.request(get("/new")).respond(200).unwrap();
    let [old, new] = &proxy.cluster("otlp").pending()[..] else { panic!() };
    let (old, new) = (old.number, new.number);
    proxy.cluster("otlp").answer_call(new, 400).unwrap();
    proxy.cluster("otlp").answer_call(old, 200).unwrap();
    assert_accounted_for(&proxy);
    assert_eq!((proxy.counter("offpath_records_delivered_total"), dropped(&proxy, "rejected")), (1, 1));
}

#[test]
fn what_a_proxy_still_held_at_its_end_is_counted_or_pending() {
    let held = |proxy: &mut Proxy| {
        for _ in 0..5 {
            proxy.request(get("/")).respond(200).unwrap();
        }
        proxy.shut_down().unwrap();
        assert_accounted_for(proxy);
        proxy.gauge("offpath_records_pending") + dropped(proxy, "shutdown")
    };
    assert_eq!(held(&mut proxy(json!({}))), 5);
}
