//! Keeps the records of a second below a bound without spoiling their weights.
//!
//! What share of its requests a second can keep is said before the request that asks is looked at, from how many there
//! were in the last second and how many records this one has already. So the weight 1 / share is right for each request by
//! itself, and every sum of weights is right, whatever it is grouped by. Three quarters of the bound, or half of a small one,
//! are for what the last second lets foresee, the rest for what it does not: the fuller the second, the smaller the share.
//! Only what a full second refuses is missing from the sums.

use super::Kind;

const SECOND_NANO: u64 = 1_000_000_000;

/// How often the share is halved while what is not foreseen fills up.
const HALVINGS: f64 = 12.0;

/// Counts seconds.
#[derive(Debug, Clone)]
pub(super) struct Limiter {
    max_per_second: f64,
    /// How many of these are for what the last second lets foresee.
    foreseen: f64,
    /// Since the epoch.
    second: u64,
    admitted: f64,
    /// How many records this second's requests would have become by their own ratios.
    always: f64,
    ordinary: f64,
    /// By what their ratios are lowered, going by the last second.
    always_scale: f64,
    ordinary_scale: f64,
}

impl Limiter {
    pub(super) fn new(max_per_second: usize) -> Self {
        let max_per_second = max_per_second as f64;
        // Of a few records chance alone makes some more or less, by the root of how many there are.
        let share = (1.0 - 2.2 / max_per_second.sqrt()).clamp(0.5, 0.75);
        Self {
            max_per_second,
            foreseen: max_per_second * share,
            second: 0,
            admitted: 0.0,
            always: 0.0,
            ordinary: 0.0,
            always_scale: 1.0,
            ordinary_scale: 1.0,
        }
    }

    /// By what `ratio`, that of a request which has ended, is lowered; `None` when the second is full.
    pub(super) fn scale(&mut self, kind: Kind, ratio: f64, now_unix_nano: u64) -> Option<f64> {
        let second = now_unix_nano / SECOND_NANO;
        if second != self.second {
            self.begin(second);
        }
        let scale = match kind {
            Kind::Always => {
                self.always += ratio;
                self.always_scale
            }
            Kind::Ordinary => {
                self.ordinary += ratio;
                self.ordinary_scale
            }
        };
        (self.admitted < self.max_per_second).then(|| scale * self.damping())
    }

    /// A request has become a record.
    pub(super) fn admit(&mut self) {
        self.admitted += 1.0;
    }

    /// Each tenfold of a sudden load takes as many records as the one before, and a second is full after some 120 times as
    /// many requests as it may have records.
    fn damping(&self) -> f64 {
        let unforeseen = (self.admitted - self.foreseen).max(0.0);
        (-HALVINGS * unforeseen / (self.max_per_second - self.foreseen)).exp2()
    }

    fn begin(&mut self, second: u64) {
        if self.second.saturating_add(1) < second {
            // After a second without any request there is nothing to go by.
            (self.always, self.ordinary) = (0.0, 0.0);
        }
        let room = self.foreseen;
        // Ordinary requests make room for the others first, but for a rest: a share of 0 would have no weight.
        let ordinary_room = (room - self.always).max(room / 8.0);
        self.always_scale = (room / self.always).min(1.0);
        self.ordinary_scale = (ordinary_room / self.ordinary).min(1.0);
        self.second = second;
        (self.admitted, self.always, self.ordinary) = (0.0, 0.0, 0.0);
    }
}
