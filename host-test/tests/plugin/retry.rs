//! Tries: what is sent again, when, how often at once, and until when.

use std::time::Duration;

use offpath_host_test::{Answer, Call, Proxy, get};
use serde_json::json;

use crate::support::{
    assert_accounted_for, batch_id, builder, config, dropped, millis, proxy, records, secs,
};

/// A tick comes this often: what is due is sent that late at most.
const TICK: Duration = Duration::from_millis(10);

/// A batch of three records under way; ticks of [`TICK`], no metrics.
fn under_way(retry: serde_json::Value) -> Proxy {
    under_way_with_seed(retry, 0)
}

fn under_way_with_seed(retry: serde_json::Value, seed: u64) -> Proxy {
    let config = json!({
        "batch": {"max_records": 3, "max_delay": "40ms"},
        "metrics": {"enabled": false},
        "retry": retry,
    });
    let mut proxy = builder(config).seed(seed).start().unwrap();
    for path in ["/1", "/2", "/3"] {
        proxy.request(get(path)).respond(200).unwrap();
    }
    assert_eq!(proxy.cluster("otlp").pending().len(), 1);
    proxy
}

/// Lets time pass until a call is under way, and returns how long that took.
fn until_called(proxy: &mut Proxy) -> Duration {
    for ticks in 0..100_000 {
        if !proxy.cluster("otlp").pending().is_empty() {
            return TICK * ticks;
        }
        proxy.advance(TICK).unwrap();
    }
    panic!("no call is made any more");
}

fn answer(proxy: &mut Proxy, answer: impl Into<Answer>) -> Call {
    let call = proxy.cluster("otlp").answer(answer).unwrap();
    assert_accounted_for(proxy);
    call
}

#[test]
fn a_batch_that_was_not_taken_is_resent_unchanged_after_a_backoff() {
    let not_now = [
        Answer::status(429),
        Answer::status(502),
        Answer::status(503),
        Answer::status(504),
        Answer::timeout(),
        Answer::connection_refused(),
        Answer::Reset,
    ];
    for first_answer in not_now {
        let mut proxy = under_way(json!({"initial_backoff": "1s"}));
        let first = answer(&mut proxy, first_answer.clone());
        assert!(proxy.cluster("otlp").pending().is_empty(), "{first_answer:?}: no pause");
        let pause = until_called(&mut proxy);
        assert!(pause <= secs(1) + TICK, "{first_answer:?}: {pause:?}");
        let second = answer(&mut proxy, 200);
        assert_eq!(second.body, first.body);
        assert_eq!(second.headers, first.headers);
        assert_eq!(batch_id(&second), batch_id(&first));
        let counts = ["batches_sent", "batches_retried", "records_delivered"]
            .map(|name| proxy.counter(&format!("offpath_{name}_total")));
        assert_eq!(counts, [1, 1, 3], "{first_answer:?}");
        assert_eq!((proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes")), (0, 0));
    }
}

#[test]
fn what_is_final_is_never_sent_again() {
    for status in [200, 204, 301, 400, 401, 404, 408, 413, 500, 501, 505] {
        let mut proxy = under_way(json!({"initial_backoff": "10ms"}));
        answer(&mut proxy, status);
        proxy.advance(secs(60)).unwrap();
        assert!(proxy.cluster("otlp").pending().is_empty(), "{status}");
        assert_eq!(proxy.counter("offpath_batches_retried_total"), 0, "{status}");
    }
}

#[test]
fn pauses_are_drawn_at_random_below_a_bound_that_doubles() {
    let mut longest = [Duration::ZERO; 5];
    let mut shortest = [Duration::MAX; 5];
    for seed in 0..40 {
        let mut proxy =
            under_way_with_seed(json!({"initial_backoff": "400ms", "max_backoff": "1600ms"}), seed);
        for (failures, (longest, shortest)) in longest.iter_mut().zip(&mut shortest).enumerate() {
            answer(&mut proxy, 503);
            let bound = millis(1600).min(millis(400) * (1 << failures));
            let pause = until_called(&mut proxy);
            assert!(pause <= bound + TICK, "{pause:?} after {failures} failures");
            *longest = pause.max(*longest);
            *shortest = pause.min(*shortest);
        }
    }
    for (failures, bound) in [400, 800, 1600, 1600, 1600].map(millis).into_iter().enumerate() {
        assert!(longest[failures] > bound * 3 / 4, "{failures}: at most {:?}", longest[failures]);
        assert!(shortest[failures] < bound / 4, "{failures}: at least {:?}", shortest[failures]);
    }
}

#[test]
fn retry_after_wins_in_seconds_and_as_a_date() {
    // Virtual time begins at 2025-06-01T12:00:00Z, a Sunday.
    let cases = [
        ("7", secs(7)),
        ("90", secs(90)),
        ("Sun, 01 Jun 2025 12:01:30 GMT", secs(90)),
        ("Sunday, 01-Jun-25 12:00:20 GMT", secs(20)),
        ("Sun Jun  1 12:00:05 2025", secs(5)),
    ];
    for (value, pause) in cases {
        // Neither below the backoff nor above it.
        for initial_backoff in ["10ms", "1m"] {
            for status in [429, 503] {
                let mut proxy = under_way(
                    json!({"initial_backoff": initial_backoff, "max_backoff": "10m", "max_elapsed": "1h"}),
                );
                answer(&mut proxy, Answer::status(status).header("Retry-After", value));
                proxy.advance(pause.saturating_sub(TICK)).unwrap();
                assert!(proxy.cluster("otlp").pending().is_empty(), "{value}");
                assert!(until_called(&mut proxy) <= 2 * TICK, "{value} with {initial_backoff}");
            }
        }
    }
}

#[test]
fn a_retry_after_that_says_nothing_leaves_the_backoff() {
    let past = "Sun, 01 Jun 2025 11:00:00 GMT";
    for value in ["", "0", past, "soon", "-1", "1.5", "\u{fe}", "Sun, 99 Jun 2025 12:00:00 GMT"] {
        let mut proxy = under_way(json!({"initial_backoff": "100ms"}));
        answer(&mut proxy, Answer::status(503).header("retry-after", value));
        assert!(until_called(&mut proxy) <= millis(100) + TICK, "{value}");
    }
}

#[test]
fn a_batch_expires_when_it_was_tried_for_too_long() {
    let retry = json!({"initial_backoff": "100ms", "max_backoff": "1s", "max_elapsed": "5s"});
    let mut proxy = under_way(retry);
    let begin = proxy.now_unix_nanos();
    let mut last = begin;
    while proxy.gauge("offpath_records_pending") > 0 {
        until_called(&mut proxy);
        last = answer(&mut proxy, 503).sent_unix_nanos;
    }
    let tried = Duration::from_nanos(last - begin);
    assert!(tried > secs(3) && tried <= secs(5) + TICK, "{tried:?}");
    assert_eq!(dropped(&proxy, "expired"), 3);
    assert_eq!(proxy.gauge("offpath_queue_bytes"), 0);
    proxy.advance(secs(60)).unwrap();
    assert!(proxy.cluster("otlp").pending().is_empty());
}

#[test]
fn a_try_that_would_come_too_late_is_not_waited_for() {
    for (max_elapsed, retry_after, expired) in [("0s", "1", 3), ("5s", "6", 3), ("5s", "5", 0)] {
        let mut proxy = under_way(json!({"max_elapsed": max_elapsed}));
        answer(&mut proxy, Answer::status(503).header("retry-after", retry_after));
        assert_eq!(dropped(&proxy, "expired"), expired, "{max_elapsed} {retry_after}");
    }
}

#[test]
fn an_unknown_cluster_and_one_without_endpoints_are_tried_again_until_they_are_back() {
    type Change = fn(&mut Proxy);
    let refusals: [(Change, Change); 2] = [
        (|proxy| proxy.cluster("otlp").remove(), |proxy| proxy.cluster("otlp").add()),
        (|proxy| proxy.cluster("otlp").remove_endpoints(), |proxy| proxy.cluster("otlp").restore_endpoints()),
    ];
    for (refuse, restore) in refusals {
        let retry = json!({"initial_backoff": "100ms", "max_backoff": "1s"});
        let mut proxy = proxy(json!({"metrics": {"enabled": false}, "retry": retry}));
        refuse(&mut proxy);
        for number in 0..50 {
            proxy.request(get(format!("/{number}"))).respond(200).unwrap();
            proxy.advance(millis(200)).unwrap();
            assert_accounted_for(&proxy);
        }
        assert_eq!(proxy.gauge("offpath_records_pending"), 50);
        restore(&mut proxy);
        proxy.cluster("otlp").serve(200, millis(5));
        proxy.advance(secs(5)).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 50);
        assert_eq!(proxy.gauge("offpath_queue_bytes"), 0);
    }
}

#[test]
fn a_cluster_that_stays_away_expires_its_batches() {
    let retry = json!({"initial_backoff": "100ms", "max_elapsed": "5s"});
    let mut proxy = proxy(json!({"metrics": {"enabled": false}, "retry": retry}));
    proxy.cluster("otlp").remove();
    proxy.request(get("/")).respond(200).unwrap();
    proxy.advance(secs(60)).unwrap();
    assert_accounted_for(&proxy);
    assert_eq!((dropped(&proxy, "expired"), proxy.gauge("offpath_queue_bytes")), (1, 0));
}

/// One batch for each request, up to four calls under way, and twelve batches.
fn twelve_batches() -> Proxy {
    let config = json!({
        "collector": {"max_in_flight": 4, "timeout": "5m"},
        "batch": {"max_records": 1, "max_delay": "40ms"},
        "metrics": {"enabled": false},
        "retry": {"initial_backoff": "100ms", "max_backoff": "100ms"},
    });
    let mut proxy = proxy(config);
    for number in 0..12 {
        proxy.request(get(format!("/{number}"))).respond(200).unwrap();
    }
    assert_eq!(proxy.cluster("otlp").pending().len(), 4);
    proxy
}

#[test]
fn while_the_collector_fails_there_is_one_probe_at_a_time() {
    let mut proxy = twelve_batches();
    for left in (0..4).rev() {
        answer(&mut proxy, 503);
        proxy.advance(secs(1)).unwrap();
        // Nothing new as long as a call from before is under way.
        assert_eq!(proxy.cluster("otlp").pending().len(), left.max(1));
    }
    for _ in 0..20 {
        until_called(&mut proxy);
        proxy.advance(millis(200)).unwrap();
        assert_eq!(proxy.cluster("otlp").pending().len(), 1);
        answer(&mut proxy, 503);
        // Neither do new requests bring about another one.
        proxy.request(get("/more")).respond(200).unwrap();
        assert!(proxy.cluster("otlp").pending().len() <= 1);
    }
}

#[test]
fn recovery_begins_with_one_call_and_grows_by_one_with_each_that_is_taken() {
    let mut proxy = twelve_batches();
    for _ in 0..4 {
        answer(&mut proxy, 503);
    }
    until_called(&mut proxy);
    let mut under_way = Vec::new();
    let mut calls = Vec::new();
    while !proxy.cluster("otlp").pending().is_empty() {
        under_way.push(proxy.cluster("otlp").pending().len());
        calls.push(answer(&mut proxy, 200));
    }
    assert_eq!(under_way, [1, 1, 2, 3, 4, 4, 4, 4, 4, 3, 2, 1]);
    assert_eq!(proxy.counter("offpath_records_delivered_total"), 12);
    // The oldest first, those that had been tried before all others.
    let sequence: Vec<u64> =
        calls.iter().map(|call| batch_id(call).rsplit('-').next().unwrap().parse().unwrap()).collect();
    assert_eq!(sequence, (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_batch_has_one_name_and_one_body_however_often_it_is_tried() {
    let config = json!({
        "batch": {"max_records": 2, "max_delay": "40ms"},
        "metrics": {"interval": "1s"},
        "retry": {"initial_backoff": "20ms", "max_backoff": "50ms"},
    });
    let mut proxy = builder(config).workers(2).start().unwrap();
    let answers = [Answer::status(503), Answer::Reset, Answer::status(429), Answer::timeout()];
    let mut bodies = std::collections::BTreeMap::new();
    for step in 0..400_usize {
        proxy.request(get(format!("/{step}"))).on_worker(step % 2).respond(200).unwrap();
        proxy.advance(millis(20)).unwrap();
        if !proxy.cluster("otlp").pending().is_empty() {
            let last = if step % 7 == 0 { Answer::status(200) } else { answers[step % 4].clone() };
            let call = answer(&mut proxy, last);
            let first = bodies.entry(batch_id(&call)).or_insert_with(|| call.body.clone());
            assert_eq!(first, &call.body);
        }
    }
    proxy.cluster("otlp").serve(200, millis(1));
    proxy.cluster("otlp").answer_all(200).unwrap();
    proxy.advance(secs(60)).unwrap();
    assert_accounted_for(&proxy);
    assert_eq!(proxy.counter("offpath_records_delivered_total"), 400);
    assert!(proxy.counter("offpath_batches_retried_total") > 100);
}

#[test]
fn a_tick_that_comes_an_hour_late_loses_nothing() {
    for answer in [Answer::status(200), Answer::status(503), Answer::Reset] {
        let mut proxy = builder(json!({"metrics": {"interval": "1s"}, "retry": {"max_elapsed": "1h"}}))
            .workers(2)
            .start()
            .unwrap();
        for number in 0..40 {
            proxy.request(get(format!("/{number}"))).on_worker(number % 2).respond(200).unwrap();
        }
        proxy.cluster("otlp").serve(answer, millis(5));
        proxy.advance(millis(900)).unwrap();
        proxy.freeze(secs(3600));
        proxy.request(get("/late")).respond(200).unwrap();
        proxy.cluster("otlp").serve(200, millis(5));
        proxy.advance(secs(90)).unwrap();
        // An export of metrics may be under way at any moment.
        proxy.cluster("otlp").answer_all(200).unwrap();
        assert_accounted_for(&proxy);
        let delivered = proxy.counter("offpath_records_delivered_total");
        assert_eq!(delivered + dropped(&proxy, "expired"), 41);
        assert_eq!((proxy.gauge("offpath_records_pending"), proxy.gauge("offpath_queue_bytes")), (0, 0));
        assert_eq!(dropped(&proxy, "vm_lost"), 0);
    }
}

#[test]
fn an_answer_of_four_mebibytes_is_an_answer() {
    let huge = vec![0xff; 4 * 1024 * 1024];
    for (status, delivered) in [(200, 3), (400, 0), (503, 0)] {
        let mut proxy = under_way(json!({}));
        let before = proxy.memory_bytes(0);
        answer(&mut proxy, Answer::status(status).with_body(&huge));
        assert_eq!(proxy.counter("offpath_records_delivered_total"), delivered);
        let grown = proxy.memory_bytes(0) - before;
        assert!(grown <= 256 * 1024, "{grown} bytes for an answer that nobody reads");
    }
}

#[test]
fn an_answer_that_comes_late_and_after_a_reconfiguration_still_counts() {
    for (answer, delivered) in [(Answer::status(200), 3), (Answer::status(400), 0)] {
        let mut proxy = under_way(json!({}));
        proxy.reconfigure(config(json!({"batch": {"max_records": 5}}))).unwrap();
        proxy.advance(millis(4900)).unwrap();
        proxy.cluster("otlp").answer(answer).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), delivered);
        assert_eq!(proxy.draining(), 0);
    }
}

#[test]
fn a_draining_context_goes_on_trying() {
    let mut proxy = under_way(json!({"initial_backoff": "100ms"}));
    let first = answer(&mut proxy, 503);
    proxy.reconfigure(config(json!({}))).unwrap();
    until_called(&mut proxy);
    let second = answer(&mut proxy, 200);
    assert_eq!((batch_id(&second), records([&second]).len()), (batch_id(&first), 3));
    assert_eq!((proxy.draining(), proxy.counter("offpath_records_delivered_total")), (0, 3));
}
