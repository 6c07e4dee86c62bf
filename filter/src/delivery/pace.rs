//! When the next call may be made: how the collector is doing, and how carefully it is asked again.
//!
//! Verdicts come in, permissions go out. While the collector fails there is one probe at a time, after exponentially
//! longer pauses drawn at random ("full jitter"), or after exactly the pause that the collector asked for. When it is
//! back, calls under way grow by one with each that is accepted, so that what has piled up does not knock it over.

use std::time::Duration;

use crate::config::Retry;

/// The longest pause that a collector can ask for, in nanoseconds: an hour, as long as any batch is tried.
const MAX_ASKED_NANO: u64 = 3_600_000_000_000;

/// The collector's health, as seen from here.
#[derive(Debug)]
pub(super) struct Pace {
    initial_nano: u64,
    max_nano: u64,
    max_in_flight: usize,
    /// How many calls may be under way.
    window: usize,
    failing: Option<Failing>,
    random: fastrand::Rng,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    failures: u32,
    since_unix_nano: u64,
    not_before_unix_nano: u64,
}

impl Pace {
    pub(super) fn new(config: &Retry, max_in_flight: usize, seed: u64) -> Self {
        let initial_nano = nano(config.initial_backoff);
        Self {
            initial_nano,
            max_nano: nano(config.max_backoff).max(initial_nano),
            max_in_flight,
            window: max_in_flight,
            failing: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether another call may be made while `in_flight` are under way.
    pub(super) fn allows(&self, in_flight: usize, now_unix_nano: u64) -> bool {
        match self.failing {
            Some(failing) => {
                // After a clock was set back, nobody knows how long the pause still is.
                let is_over = now_unix_nano >= failing.not_before_unix_nano;
                in_flight == 0 && (is_over || now_unix_nano < failing.since_unix_nano)
            }
            None => in_flight < self.window,
        }
    }

    /// Whether a call that is made now is a probe.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// The collector has answered a call, whatever it said of the batch.
    pub(super) fn succeeded(&mut self, was_probe: bool) {
        if self.is_old_news(was_probe) {
            return;
        }
        let recovering = self.failing.take().is_some();
        self.window = if recovering { 1 } else { (self.window + 1).min(self.max_in_flight) };
    }

    /// A call has failed, and the collector has asked for a pause or not; returns the time before which there will be no
    /// other.
    pub(super) fn failed(&mut self, was_probe: bool, now_unix_nano: u64, asked_nano: Option<u64>) -> u64 {
        // A pause of nothing, or until a time that is over, would have us ask as fast as it can refuse.
        let asked = asked_nano
            .filter(|&asked| asked > 0)
            .map(|asked| now_unix_nano.saturating_add(asked.min(MAX_ASKED_NANO)));
        let failing = match self.failing {
            // All that an older call can add is the pause that it was told.
            Some(failing) if self.is_old_news(was_probe) => Failing {
                not_before_unix_nano: failing.not_before_unix_nano.max(asked.unwrap_or(0)),
                ..failing
            },
            before => {
                let failures = before.map_or(0, |failing| failing.failures).saturating_add(1);
                Failing {
                    failures,
                    since_unix_nano: now_unix_nano,
                    not_before_unix_nano: asked
                        .unwrap_or_else(|| now_unix_nano.saturating_add(self.backoff_nano(failures))),
                }
            }
        };
        self.failing = Some(failing);
        failing.not_before_unix_nano
    }

    /// Whether a call was under way already when the failing began.
    fn is_old_news(&self, was_probe: bool) -> bool {
        self.is_failing() && !was_probe
    }

    fn backoff_nano(&mut self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(40);
        let bound = self.initial_nano.saturating_mul(1 << doublings).min(self.max_nano);
        self.random.u64(0..=bound)
    }
}

fn nano(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pace(max_in_flight: usize) -> Pace {
        let config = Retry {
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(1000),
            max_elapsed: Duration::from_secs(60),
        };
        Pace::new(&config, max_in_flight, 7)
    }

    #[test]
    fn pauses_are_drawn_below_bounds_that_double_up_to_the_greatest() {
        for (failures, bound_ms) in
            [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (60, 1000), (u32::MAX, 1000)]
        {
            let mut pace = pace(1);
            let pauses: Vec<u64> = (0..1000).map(|_| pace.backoff_nano(failures)).collect();
            let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            assert!(*most <= bound_ms * MS && *most > bound_ms * MS * 9 / 10, "{failures} failures: {most}");
            assert!(*least < bound_ms * MS / 10, "{failures} failures: {least}");
        }
    }

    #[test]
    fn while_failing_there_is_one_probe_at_a_time() {
        let mut pace = pace(4);
        assert!(pace.allows(3, 0) && !pace.allows(4, 0));
        let not_before = pace.failed(true, 5 * MS, None);
        assert!(!pace.allows(0, not_before - 1) || not_before == 5 * MS);
        assert!(pace.allows(0, not_before));
        assert!(!pace.allows(1, not_before), "another one is under way");
    }

    #[test]
    fn recovery_grows_by_one_call_with_each_success() {
        let mut pace = pace(3);
        pace.failed(true, 0, None);
        for window in [1, 2, 3, 3] {
            pace.succeeded(true);
            assert!(pace.allows(window - 1, 0) && !pace.allows(window, 0), "window {window}");
        }
    }

    #[test]
    fn the_pause_that_was_asked_for_wins() {
        let mut pace = pace(2);
        assert_eq!(pace.failed(true, 10 * MS, Some(5000 * MS)), 5010 * MS);
        // A probe later is told to come earlier than most backoffs.
        assert_eq!(pace.failed(true, 5020 * MS, Some(MS)), 5021 * MS);
        let hour = Duration::from_secs(3600).as_nanos() as u64;
        assert_eq!(pace.failed(true, 0, Some(u64::MAX)), hour, "nobody is left alone for ever");
    }

    #[test]
    fn a_pause_of_nothing_is_no_leave_to_hammer() {
        let mut pace = pace(1);
        let pauses: u64 = (0..100).map(|_| pace.failed(true, 0, Some(0))).sum();
        assert!(pauses > 100 * 100 * MS, "{pauses} ns in a hundred failures");
    }

    #[test]
    fn a_success_of_a_call_from_before_the_failing_does_not_end_the_pause() {
        let mut pace = pace(2);
        pace.failed(false, 0, Some(30_000 * MS));
        pace.succeeded(false);
        assert!(!pace.allows(0, 29_999 * MS));
        pace.succeeded(true);
        assert!(pace.allows(0, 0), "but a probe's does");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stall_delivery() {
        let mut pace = pace(1);
        pace.failed(true, 5000 * MS, Some(1000 * MS));
        assert!(!pace.allows(0, 5000 * MS) && pace.allows(0, 4999 * MS));
        let not_before = pace.failed(true, 4999 * MS, None);
        assert!((4999 * MS..=5199 * MS).contains(&not_before), "the next failure counts by the new time");
        assert!(!pace.allows(0, 4999 * MS), "and not at once, over and over");
    }

    #[test]
    fn calls_from_before_the_failing_do_not_lengthen_it() {
        let mut pace = pace(2);
        let not_before = pace.failed(false, 10 * MS, None);
        assert_eq!(pace.failed(false, 20 * MS, None), not_before);
        assert_eq!(pace.failing.unwrap().failures, 1);
        pace.failed(true, not_before, None);
        assert_eq!(pace.failing.unwrap().failures, 2);
        assert!(
            pace.failed(false, not_before, Some(9000 * MS)) >= 9000 * MS,
            "but what they are told counts"
        );
    }
}
