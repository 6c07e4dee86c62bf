//! What becomes of batches, by the answers they get and the room they find.

use super::*;

const SECOND: u64 = 1_000_000_000;

struct Fixture {
    delivery: Delivery,
    ledger: Ledger,
    now: u64,
}

impl Fixture {
    /// With a queue of 100 bytes and calls that may be retried for a minute.
    fn new(max_in_flight: usize, when_full: WhenFull) -> Self {
        let mut config = crate::testing::config(
            r#""retry":{"initial_backoff":"1s","max_backoff":"8s","max_elapsed":"1m"}"#,
        );
        config.queue = crate::config::Queue { max_bytes: 100, when_full };
        config.collector.max_in_flight = max_in_flight;
        Self { delivery: Delivery::new(&config, 7), ledger: Ledger::default(), now: 1000 * SECOND }
    }

    fn offer(&mut self, signal: Signal, len: usize, items: u64) {
        if matches!(signal, Signal::Logs) {
            (0..items).for_each(|_| self.ledger.captured());
        }
        self.delivery.offer(signal, vec![0; len], items, self.now, &mut self.ledger);
    }

    fn logs(&mut self, len: usize, records: u64) {
        self.offer(Signal::Logs, len, records);
    }

    /// Sends the next batch under `token`; returns its sequence.
    fn send(&mut self, token: u32) -> Option<u64> {
        let batch = self.delivery.take_next(self.now, &mut self.ledger)?;
        let sequence = batch.sequence;
        self.delivery.dispatched(batch, token, self.now, &mut self.ledger);
        sequence
    }

    /// Lets time pass until a batch may be sent, at most ten seconds.
    fn send_later(&mut self, token: u32) -> Option<u64> {
        (0..100).find_map(|_| {
            self.now += SECOND / 10;
            self.send(token)
        })
    }

    fn answer(&mut self, token: u32, status: impl Into<Option<u16>>) -> Option<u64> {
        self.answer_with(token, status, b"", b"")
    }

    fn answer_with(
        &mut self,
        token: u32,
        status: impl Into<Option<u16>>,
        retry_after: &[u8],
        body: &[u8],
    ) -> Option<u64> {
        let answer = Answer { status: status.into(), retry_after, body };
        self.delivery.answered(token, answer, self.now, &mut self.ledger)
    }

    fn counts(&self, stats: &[Stat]) -> Vec<i64> {
        stats.iter().map(|stat| self.ledger.get(*stat)).collect()
    }

    fn dropped(&self, reason: Reason) -> i64 {
        self.ledger.get(Stat::RecordsDropped(reason))
    }
}

fn delta() -> Signal {
    let config = crate::testing::config(r#""metrics":{"temporality":"delta"}"#);
    let plan = crate::capture::Plan::new(&config);
    let captured = crate::testing::Told::ordinary().captured(&plan);
    let mut measurements = crate::measure::Measurements::new(&config.metrics, 0);
    measurements.record(&crate::request::FinishedRequest::read(&plan, &captured, 0));
    let envelope = crate::otlp::envelope::Envelope::new(std::iter::empty(), "offpath", "0");
    let mut points = None;
    measurements.export(&envelope, 10_000, 1, |request| points = request.delta);
    Signal::DeltaMetrics(points.unwrap())
}

#[test]
fn an_accepted_batch_is_delivered_and_frees_its_bytes() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(40, 3);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [3, 40]);
    assert_eq!(fixture.send(9), Some(1));
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes, Stat::BatchesSent]), [3, 40, 1]);
    fixture.now += 7;
    assert_eq!(fixture.answer(9, 200), Some(7));
    assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending, Stat::QueueBytes]), [3, 0, 0]);
    assert_eq!(fixture.answer(9, 200), None, "a second answer means nothing");
    assert_eq!(fixture.counts(&[Stat::RecordsDelivered]), [3]);
}

#[test]
fn a_final_refusal_is_counted_and_never_retried() {
    for status in [400, 401, 404, 408, 413, 500, 501, 302] {
        let mut fixture = Fixture::new(1, WhenFull::DropOldest);
        fixture.logs(40, 3);
        fixture.send(1);
        fixture.answer(1, status);
        assert_eq!(fixture.dropped(Reason::Rejected), 3, "{status}");
        assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [0, 0], "{status}");
        assert_eq!(fixture.send_later(2), None, "{status}");
    }
}

#[test]
fn what_is_not_taken_now_is_sent_again_as_it_is_under_the_same_name() {
    for status in [Some(429), Some(502), Some(503), Some(504), None] {
        let mut fixture = Fixture::new(1, WhenFull::DropOldest);
        fixture.logs(40, 3);
        fixture.logs(40, 3);
        fixture.send(1);
        fixture.answer(1, status);
        assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [6, 80], "{status:?}");
        assert_eq!(fixture.send_later(2), Some(1), "{status:?}: the oldest first");
        assert_eq!(fixture.counts(&[Stat::BatchesSent, Stat::BatchesRetried]), [1, 1], "{status:?}");
        fixture.answer(2, 200);
        assert_eq!(fixture.send(3), Some(2));
        fixture.answer(3, 200);
        assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [6, 0], "{status:?}");
    }
}

#[test]
fn a_call_that_the_proxy_refuses_is_tried_again() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(10, 1);
    let batch = fixture.delivery.take_next(fixture.now, &mut fixture.ledger).unwrap();
    fixture.delivery.refused(batch, fixture.now, &mut fixture.ledger);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes, Stat::BatchesSent]), [1, 10, 0]);
    assert_eq!(fixture.send_later(1), Some(1));
    assert_eq!(fixture.counts(&[Stat::BatchesSent, Stat::BatchesRetried]), [1, 0]);
}

#[test]
fn retry_after_wins_over_the_backoff() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(10, 1);
    fixture.send(1);
    fixture.answer_with(1, 503, b"30", b"");
    fixture.now += 30 * SECOND - 1;
    assert_eq!(fixture.send(2), None);
    fixture.now += 1;
    assert_eq!(fixture.send(2), Some(1));
}

#[test]
fn a_batch_expires_when_its_next_try_would_come_too_late() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(10, 4);
    fixture.logs(10, 2);
    fixture.send(1);
    fixture.answer_with(1, 503, b"60", b"");
    assert_eq!(fixture.dropped(Reason::Expired), 0, "exactly as long as allowed");
    fixture.now += 60 * SECOND;
    fixture.send(2);
    fixture.now += 1;
    fixture.answer(2, 503);
    assert_eq!((fixture.dropped(Reason::Expired), fixture.counts(&[Stat::RecordsPending])), (4, vec![2]));
    assert_eq!(fixture.send_later(3), Some(2), "the next one's time begins with its own first try");
}

#[test]
fn a_pause_that_is_longer_than_any_try_ends_and_what_was_tried_expires_in_it() {
    let mut fixture = Fixture::new(2, WhenFull::DropOldest);
    (0..3).for_each(|_| fixture.logs(10, 1));
    fixture.send(1);
    fixture.send(2);
    fixture.answer(1, 503);
    fixture.answer_with(2, 503, b"99999999999", b"");
    assert_eq!(fixture.dropped(Reason::Expired), 1, "it could only be tried too late");
    fixture.now += 61 * SECOND;
    assert_eq!(fixture.send(3), None);
    assert_eq!(fixture.dropped(Reason::Expired), 2, "no longer than it may be tried");
    fixture.now += 3600 * SECOND;
    assert_eq!(fixture.send(3), Some(3), "what was never tried waits until the pause is over");
}

#[test]
fn an_older_calls_success_does_not_end_a_pause_that_was_asked_for() {
    let mut fixture = Fixture::new(2, WhenFull::DropOldest);
    (0..3).for_each(|_| fixture.logs(10, 1));
    fixture.send(1);
    fixture.send(2);
    fixture.answer_with(1, 429, b"30", b"");
    fixture.answer(2, 200);
    assert_eq!(fixture.send(3), None);
    fixture.now += 30 * SECOND;
    assert_eq!(fixture.send(3), Some(1));
}

#[test]
fn while_failing_there_is_one_probe_and_recovery_grows_by_one() {
    let mut fixture = Fixture::new(3, WhenFull::DropOldest);
    (0..9).for_each(|_| fixture.logs(10, 1));
    assert_eq!([1, 2, 3, 4].map(|token| fixture.send(token)), [Some(1), Some(2), Some(3), None]);
    for token in [2, 3, 1] {
        fixture.answer(token, 503);
    }
    assert_eq!(fixture.send_later(4), Some(1), "the oldest first");
    assert_eq!(fixture.send(5), None, "one probe");
    fixture.answer(4, 200);
    assert_eq!((fixture.send(5).is_some(), fixture.send(6)), (true, None), "one call");
    fixture.answer(5, 200);
    assert_eq!([6, 7, 8].map(|token| fixture.send(token).is_some()), [true, true, false], "two calls");
}

#[test]
fn of_a_partial_success_the_rest_is_delivered_and_nothing_is_retried() {
    // ExportLogsPartialSuccess { rejected_log_records: 2 }, and one that refuses more than it was sent.
    for (body, delivered, rejected) in [([0x0a, 2, 8, 2], 1, 2), ([0x0a, 2, 8, 9], 0, 3)] {
        let mut fixture = Fixture::new(1, WhenFull::DropOldest);
        fixture.logs(40, 3);
        fixture.send(1);
        fixture.answer_with(1, 200, b"", &body);
        assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [delivered, 0]);
        assert_eq!(fixture.dropped(Reason::Rejected), rejected);
        assert_eq!(fixture.send_later(2), None);
    }
}

#[test]
fn the_oldest_waiting_gives_way_and_what_is_under_way_never() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(60, 1);
    fixture.send(1);
    fixture.logs(40, 2);
    assert_eq!((fixture.dropped(Reason::QueueFull), fixture.counts(&[Stat::QueueBytes])), (0, vec![100]));
    fixture.logs(1, 4);
    assert_eq!((fixture.dropped(Reason::QueueFull), fixture.counts(&[Stat::QueueBytes])), (2, vec![61]));
    fixture.logs(50, 8);
    assert_eq!(fixture.dropped(Reason::QueueFull), 2 + 8, "nothing is evicted in vain");
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [5, 61]);
}

#[test]
fn the_newest_gives_way_when_that_is_configured() {
    let mut fixture = Fixture::new(1, WhenFull::DropNewest);
    fixture.logs(60, 1);
    fixture.logs(40, 2);
    fixture.logs(1, 4);
    assert_eq!(fixture.dropped(Reason::QueueFull), 4);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [3, 100]);
}

#[test]
fn the_newest_is_spilled_when_that_is_configured() {
    let mut fixture = Fixture::new(1, WhenFull::Spill);
    fixture.logs(100, 1);
    // A request with two empty records, said to hold three.
    let body = vec![0x0a, 6, 0x12, 4, 0x12, 0, 0x12, 0];
    (0..3).for_each(|_| fixture.ledger.captured());
    fixture.delivery.offer(Signal::Logs, body, 3, fixture.now, &mut fixture.ledger);
    assert_eq!(fixture.delivery.take_spilled(), [r#"{"attributes":{}}"#; 2]);
    assert_eq!(
        (fixture.dropped(Reason::Spilled), fixture.dropped(Reason::QueueFull)),
        (2, 1),
        "no line, no spill"
    );
    assert_eq!(fixture.counts(&[Stat::RecordsPending]), [1]);
}

#[test]
fn data_points_never_evict_records() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(60, 1);
    fixture.offer(Signal::CumulativeMetrics, 41, 5);
    assert_eq!(fixture.counts(&[Stat::PointsDropped(Reason::QueueFull), Stat::RecordsPending]), [5, 1]);
    fixture.offer(delta(), 41, 1);
    assert_eq!(fixture.delivery.take_handed_back().len(), 1, "told with the next export");
    assert_eq!(fixture.counts(&[Stat::PointsDropped(Reason::QueueFull)]), [5]);
}

#[test]
fn waiting_metrics_are_taken_back_unless_they_were_sent() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.offer(Signal::CumulativeMetrics, 10, 5);
    fixture.send(1);
    fixture.answer(1, 503);
    fixture.offer(Signal::CumulativeMetrics, 20, 5);
    fixture.offer(delta(), 30, 1);
    fixture.logs(10, 1);
    fixture.delivery.take_back_metrics(&mut fixture.ledger);
    assert_eq!(fixture.counts(&[Stat::QueueBytes, Stat::PointsDropped(Reason::QueueFull)]), [20, 0]);
    assert_eq!(fixture.delivery.take_handed_back().len(), 1);
    assert_eq!(fixture.send_later(2), Some(1), "what was sent keeps its number");
    fixture.answer(2, 200);
    assert_eq!(fixture.send(3), Some(2), "and what was taken back had none");
}

#[test]
fn a_refused_delta_is_handed_back_but_one_that_may_have_been_taken_is_lost() {
    let cases: [(_, &[u8], _); 6] = [
        (Some(400), b"", 1),
        (Some(429), b"", 1),
        (Some(503), b"9", 1),
        (Some(503), b"", 0),
        (Some(504), b"", 0),
        (None, b"", 0),
    ];
    for (status, retry_after, handed_back) in cases {
        let mut fixture = Fixture::new(1, WhenFull::DropOldest);
        fixture.offer(delta(), 10, 1);
        fixture.send(1);
        fixture.now += 61 * SECOND;
        fixture.answer_with(1, status, retry_after, b"");
        assert_eq!(fixture.delivery.take_handed_back().len(), handed_back, "{status:?}");
        let lost = fixture.counts(&[Stat::PointsDropped(Reason::Expired)]);
        assert_eq!(lost, [1 - handed_back as i64], "{status:?}");
    }
}

#[test]
fn an_evicted_batch_leaves_a_gap_in_the_sequence() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.logs(100, 1);
    fixture.logs(100, 1);
    assert_eq!(fixture.send(1), Some(2));
}

#[test]
fn a_drain_ends_although_nobody_answers() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    (0..5).for_each(|_| fixture.logs(10, 1));
    fixture.offer(delta(), 10, 1);
    fixture.delivery.begin_drain(fixture.now);
    let mut rounds = 0;
    while !fixture.delivery.is_empty() {
        if fixture.send_later(rounds).is_some() {
            fixture.answer(rounds, 503);
        }
        rounds += 1;
        assert!(rounds < 100, "the drain goes on after {} s", fixture.now / SECOND - 1000);
    }
    assert_eq!(fixture.dropped(Reason::Expired), 5);
    assert_eq!(fixture.counts(&[Stat::PointsDropped(Reason::Expired)]), [1], "there is no next export");
}

#[test]
fn a_drain_that_nobody_answers_ends_during_the_longest_pause() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    (0..5).for_each(|_| fixture.logs(10, 1));
    fixture.delivery.begin_drain(fixture.now);
    fixture.send(1);
    fixture.answer_with(1, 503, b"1000000", b"");
    fixture.now += 61 * SECOND;
    assert_eq!(fixture.send(2), None);
    assert_eq!((fixture.dropped(Reason::Expired), fixture.delivery.is_empty()), (5, true));
}

#[test]
fn a_drain_to_a_collector_that_takes_everything_gives_nothing_up() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    (0..5).for_each(|_| fixture.logs(10, 1));
    fixture.delivery.begin_drain(fixture.now);
    for token in 1..=5 {
        fixture.now += 61 * SECOND;
        assert_eq!(fixture.send(token), Some(u64::from(token)));
        fixture.answer(token, 200);
    }
    assert_eq!(fixture.counts(&[Stat::RecordsDelivered, Stat::RecordsPending]), [5, 0]);
}

#[test]
fn data_points_of_a_machine_that_was_taken_for_lost_are_told_later_or_counted() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    fixture.offer(delta(), 10, 1);
    fixture.send(1);
    fixture.offer(delta(), 10, 1);
    fixture.delivery.forget(&mut fixture.ledger);
    assert_eq!(fixture.delivery.take_handed_back().len(), 1);
    assert_eq!(
        fixture.counts(&[Stat::PointsDropped(Reason::VmLost)]),
        [1],
        "the one under way may have been taken"
    );
}

#[test]
fn what_is_forgotten_takes_no_room_any_more() {
    let mut fixture = Fixture::new(1, WhenFull::DropNewest);
    fixture.logs(60, 1);
    fixture.logs(40, 1);
    fixture.send(1);
    fixture.delivery.forget(&mut fixture.ledger);
    fixture.ledger.lost();
    fixture.logs(100, 1);
    assert_eq!(fixture.send(2), None, "the call itself is still under way");
    assert_eq!(fixture.answer(1, 200), None, "a late answer means nothing");
    assert_eq!(fixture.counts(&[Stat::QueueBytes, Stat::RecordsPending]), [100, 1]);
}

#[test]
fn an_end_without_answers_is_a_shutdown() {
    let mut fixture = Fixture::new(1, WhenFull::DropOldest);
    (0..3).for_each(|_| fixture.logs(10, 1));
    fixture.send(1);
    fixture.delivery.abandon(&mut fixture.ledger);
    assert_eq!(fixture.dropped(Reason::Shutdown), 3);
    assert_eq!(fixture.counts(&[Stat::RecordsPending, Stat::QueueBytes]), [0, 0]);
    assert!(fixture.delivery.is_empty());
}

#[test]
fn what_was_sealed_up_to_a_batch_is_sent_when_all_of_it_has_had_its_end_whatever_came_later() {
    let mut fixture = Fixture::new(2, WhenFull::DropOldest);
    let is_sent = |fixture: &Fixture, last| fixture.delivery.is_sent_up_to(last);
    assert!(is_sent(&fixture, 0), "nothing was ever sealed");
    fixture.logs(10, 1);
    fixture.logs(10, 1);
    let last = fixture.delivery.last_sequence();
    fixture.logs(10, 1);
    assert_eq!((last, fixture.delivery.last_sequence()), (2, 3));
    assert_eq!((fixture.send(1), fixture.send(2)), (Some(1), Some(2)));
    assert!(!is_sent(&fixture, last), "two are under way");
    fixture.answer(1, 200);
    assert!(!is_sent(&fixture, last), "one is under way");
    fixture.answer(2, 503);
    assert!(!is_sent(&fixture, last), "it waits again");
    assert_eq!(fixture.send_later(3), Some(2));
    fixture.answer(3, 400);
    assert!(is_sent(&fixture, last), "a newer one waits");
    assert!(!is_sent(&fixture, 3));

    fixture.offer(Signal::CumulativeMetrics, 10, 1);
    assert!(!is_sent(&fixture, last), "nobody can tell when points without a number were sealed");
}
