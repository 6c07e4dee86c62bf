//! What becomes of batches, by the answers they get and the room they find.

use super::*;

const CUMULATIVE: Signal = Signal::Metrics { superseded_by_next: true };
const DELTA: Signal = Signal::Metrics { superseded_by_next: false };

struct Fixture {
    delivery: Delivery,
    ledger: Ledger,
}

impl Fixture {
    fn new(max_bytes: usize, max_in_flight: usize) -> Self {
        Self { delivery: Delivery::new(max_bytes, max_in_flight), ledger: Ledger::default() }
    }

    fn offer(&mut self, signal: Signal, len: usize, items: u64) {
        if signal == Signal::Logs {
            (0..items).for_each(|_| self.ledger.captured());
        }
        self.delivery.offer(signal, vec![0; len], items, &mut self.ledger);
    }

    /// Sends the next batch under `token`; returns its sequence.
    fn send(&mut self, token: u32) -> Option<u64> {
        let batch = self.delivery.take_next()?;
        let sequence = batch.sequence;
        self.delivery.dispatched(batch, token, 0, &mut self.ledger);
        sequence
    }

    fn answer(&mut self, token: u32, status: Option<u16>, body: &[u8]) -> Option<u64> {
        self.delivery.answered(token, status, body, 7, &mut self.ledger)
    }

    fn counts(&self, stats: &[Stat]) -> Vec<i64> {
        stats.iter().map(|stat| self.ledger.get(*stat)).collect()
    }

    fn dropped(&self, reason: Reason) -> i64 {
        self.ledger.get(Stat::RecordsDropped(reason))
    }
}

#[test]
fn an_accepted_batch_is_delivered_and_frees_its_bytes() {
    let mut fixture = Fixture::new(100, 1);
    fixture.offer(Signal::Logs, 40, 3);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [3, 40]);
    assert_eq!(fixture.send(9), Some(1));
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes, Stat::BatchesSent]), [3, 40, 1]);
    assert_eq!(fixture.answer(9, Some(200), b""), Some(7));
    assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending, Stat::QueueBytes]), [3, 0, 0]);
    assert_eq!(fixture.answer(9, Some(200), b""), None, "a second answer means nothing");
    assert_eq!(fixture.counts(&[Stat::RecordsDelivered]), [3]);
}

#[test]
fn what_is_not_accepted_is_counted_by_its_reason() {
    for (status, reason) in [
        (Some(400), Reason::Rejected),
        (Some(408), Reason::Rejected),
        (Some(500), Reason::Rejected),
        (Some(302), Reason::Rejected),
        (Some(429), Reason::Expired),
        (Some(503), Reason::Expired),
        (None, Reason::Expired),
    ] {
        let mut fixture = Fixture::new(100, 1);
        fixture.offer(Signal::Logs, 40, 3);
        fixture.send(1);
        fixture.answer(1, status, b"");
        assert_eq!(fixture.dropped(reason), 3, "{status:?}");
        assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [0, 0], "{status:?}");
    }
}

#[test]
fn of_a_partial_success_the_rest_is_delivered() {
    // ExportLogsPartialSuccess { rejected_log_records: 2 }, and one that refuses more than it was sent.
    for (body, delivered, rejected) in [([0x0a, 2, 8, 2], 1, 2), ([0x0a, 2, 8, 9], 0, 3)] {
        let mut fixture = Fixture::new(100, 1);
        fixture.offer(Signal::Logs, 40, 3);
        fixture.send(1);
        fixture.answer(1, Some(200), &body);
        assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [delivered, 0]);
        assert_eq!(fixture.dropped(Reason::Rejected), rejected);
    }
}

#[test]
fn no_more_calls_are_under_way_than_allowed() {
    let mut fixture = Fixture::new(100, 2);
    (0..3).for_each(|_| fixture.offer(Signal::Logs, 10, 1));
    assert_eq!((fixture.send(1), fixture.send(2), fixture.send(3)), (Some(1), Some(2), None));
    fixture.answer(2, Some(200), b"");
    assert_eq!(fixture.send(3), Some(3));
}

#[test]
fn the_bound_in_bytes_counts_what_is_under_way_and_the_oldest_waiting_gives_way() {
    let mut fixture = Fixture::new(100, 1);
    fixture.offer(Signal::Logs, 60, 1);
    fixture.send(1);
    fixture.offer(Signal::Logs, 40, 2);
    assert_eq!(
        (fixture.dropped(Reason::QueueFull), fixture.counts(&[Stat::QueueBytes])),
        (0, vec![100]),
        "exactly full"
    );
    fixture.offer(Signal::Logs, 1, 4);
    assert_eq!(
        (fixture.dropped(Reason::QueueFull), fixture.counts(&[Stat::QueueBytes])),
        (2, vec![61]),
        "one over"
    );
    fixture.offer(Signal::Logs, 50, 8);
    assert_eq!(fixture.dropped(Reason::QueueFull), 2 + 4 + 8, "what is under way is never dropped");
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [1, 60]);
}

#[test]
fn data_points_never_evict_records() {
    let mut fixture = Fixture::new(100, 1);
    fixture.offer(Signal::Logs, 60, 1);
    fixture.offer(DELTA, 41, 5);
    assert_eq!(fixture.counts(&[Stat::PointsDropped(Reason::QueueFull), Stat::RecordsPending]), [5, 1]);
    fixture.offer(DELTA, 40, 5);
    fixture.offer(Signal::Logs, 40, 1);
    assert_eq!(
        fixture.dropped(Reason::QueueFull),
        1,
        "the oldest waiting gives way to a record, whatever it is"
    );
    assert_eq!(fixture.counts(&[Stat::QueueBytes]), [80]);
}

#[test]
fn a_waiting_cumulative_export_is_superseded_without_a_gap_in_the_sequence() {
    let mut fixture = Fixture::new(100, 2);
    fixture.offer(CUMULATIVE, 30, 5);
    fixture.offer(Signal::Logs, 10, 1);
    fixture.delivery.supersede_waiting_metrics(&mut fixture.ledger);
    fixture.offer(CUMULATIVE, 31, 5);
    assert_eq!(fixture.counts(&[Stat::QueueBytes, Stat::PointsDropped(Reason::QueueFull)]), [41, 0]);
    assert_eq!((fixture.send(1), fixture.send(2)), (Some(1), Some(2)));
    assert_eq!(fixture.send(3), None);
}

#[test]
fn an_evicted_batch_leaves_a_gap_in_the_sequence() {
    let mut fixture = Fixture::new(10, 1);
    fixture.offer(Signal::Logs, 10, 1);
    fixture.offer(Signal::Logs, 10, 1);
    assert_eq!(fixture.send(1), Some(2));
}

#[test]
fn a_refused_call_expires_and_an_end_without_answers_is_a_shutdown() {
    let mut fixture = Fixture::new(100, 1);
    (0..3).for_each(|_| fixture.offer(Signal::Logs, 10, 1));
    let batch = fixture.delivery.take_next().unwrap();
    fixture.delivery.refused(batch, &mut fixture.ledger);
    assert_eq!(fixture.dropped(Reason::Expired), 1);
    fixture.send(1);
    fixture.delivery.abandon(&mut fixture.ledger);
    assert_eq!(fixture.dropped(Reason::Shutdown), 2);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [0, 0]);
    assert!(fixture.delivery.is_empty());
}
