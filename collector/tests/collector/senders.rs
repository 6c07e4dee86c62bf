//! What never came: gaps in senders' sequences, in `/api/senders` and `/metrics`.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::*;

/// Sends batch `sequence`: odd ones are logs, even ones are metrics, for a sender numbers all signals alike.
fn send(collector: &Collector, sender: &str, sequence: u64) {
    let batch_id = format!("{sender}-{sequence}");
    let answer = if sequence.is_multiple_of(2) {
        let point = point(T0, T0 + sequence * SECOND, vec![], &[0.1]);
        collector.metrics(&metrics_of(DELTA, vec![point]), Some(&batch_id))
    } else {
        collector.logs(&numbered("a", 1), Some(&batch_id))
    };
    assert_eq!(answer.status, 200);
}

fn uuid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// The senders' gauges, and whether one has had gaps for some time: `senders`, `senders_with_gaps`, `missing_batches`.
fn gauges(collector: &Collector) -> ([f64; 3], bool) {
    let names = ["senders", "senders_with_gaps", "missing_batches"];
    let age = gauge(collector, "oldest_gap_age_seconds");
    (names.map(|name| gauge(collector, name)), age > 0.0)
}

fn gauge(collector: &Collector, name: &str) -> f64 {
    let metrics = collector.get("/metrics").text();
    let prefix = format!("offpath_collector_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {prefix}in {metrics}")).parse().unwrap()
}

fn eventually_gauges(collector: &Collector, expected: ([f64; 3], bool)) {
    eventually(&format!("{expected:?}"), || (gauges(collector) == expected).then_some(()));
}

#[test]
fn gaps_in_a_senders_sequence_are_shown_over_both_signals() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    for sequence in [1, 2, 3, 10, 6, 14] {
        send(&collector, UUID, sequence);
    }
    let sender = eventually("the last batch", || {
        collector.json("/api/senders").get(0).cloned().filter(|sender| sender["received_batches"] == 6)
    });
    assert_eq!((&sender["sender"], &sender["last_sequence"]), (&UUID.into(), &14.into()));
    assert_eq!((&sender["missing"], &sender["gaps"]), (&8.into(), &json!([[4, 5], [7, 9], [11, 13]])));
    assert!(sender["missing_since"].as_str().unwrap() <= sender["last_seen"].as_str().unwrap(), "{sender}");
}

#[test]
fn what_is_missing_is_in_the_metrics_until_it_comes() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(gauges(&collector), ([0.0; 3], false));
    for sequence in [1, 2, 5] {
        send(&collector, &uuid(1), sequence);
    }
    send(&collector, &uuid(2), 1);
    eventually_gauges(&collector, ([2.0, 1.0, 2.0], true));
    // Late, out of order, and once more.
    for sequence in [4, 4, 3] {
        send(&collector, &uuid(1), sequence);
    }
    eventually_gauges(&collector, ([2.0, 0.0, 0.0], false));
    assert_eq!(collector.json("/api/senders")[0]["missing_since"], Value::Null);
}

#[test]
fn what_is_missing_outlives_kills_and_is_there_from_the_first_scrape_on() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    for sequence in [1, 4, 9] {
        send(&collector, UUID, sequence);
    }
    let expected = ([1.0, 1.0, 6.0], true);
    eventually_gauges(&collector, expected);
    for _ in 0..5 {
        collector.kill();
        collector = Collector::start(data.path(), &[]);
        assert_eq!(gauges(&collector), expected);
    }
    send(&collector, UUID, 3);
    eventually_gauges(&collector, ([1.0, 1.0, 5.0], true));
}

#[test]
fn hostile_sequences_cost_a_bounded_number_of_rows_and_hide_nothing() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let last = u64::try_from(i64::MAX).unwrap();
    for sequence in [1, last, last - 2, 7] {
        send(&collector, &uuid(1), sequence);
    }
    // Too great for a number of 64 bits with a sign: a name like any other.
    send(&collector, &uuid(1), u64::MAX);
    // Every second one is missing.
    for sequence in 0..150 {
        send(&collector, &uuid(2), 2 * sequence + 1);
    }
    send(&collector, &uuid(3), 3);
    eventually_gauges(&collector, ([3.0, 3.0, 1_000_000.0 + 149.0 + 2.0], true));
    let senders = collector.json("/api/senders");
    let sender =
        |number| senders.as_array().unwrap().iter().find(|sender| sender["sender"] == uuid(number)).unwrap();
    assert_eq!(sender(1)["missing"], last - 4);
    assert_eq!(sender(1)["gaps"], json!([[2, 6], [8, last - 3], [last - 1, last - 1]]));
    assert_eq!(sender(2)["missing"], 149);
    let gaps = sender(2)["gaps"].as_array().unwrap();
    assert_eq!((gaps.len(), &gaps[99]), (100, &json!([298, 298])));
}
