//! Keeps the records of a second below a bound without spoiling their weights.
//!
//! The share of ordinary requests is lowered to what the last second would have needed. What exceeds the bound all the
//! same, in a second that is busier than the last, is refused, and the next record of its kind takes over the weight.

use super::Kind;

const SECOND_NANO: u64 = 1_000_000_000;

/// Counts seconds.
#[derive(Debug)]
pub(super) struct Limiter {
    max_per_second: u64,
    began_unix_nano: u64,
    admitted: u64,
    /// Requests of this second that are always kept.
    always: u64,
    /// How many ordinary requests of this second their own ratios would keep.
    ordinary: f64,
    scale: f64,
    /// Weights of refused records, by [`Kind`].
    owed: [f64; 2],
}

impl Limiter {
    pub(super) fn new(max_per_second: usize) -> Self {
        Self {
            max_per_second: max_per_second as u64,
            began_unix_nano: 0,
            admitted: 0,
            always: 0,
            ordinary: 0.0,
            scale: 1.0,
            owed: [0.0; 2],
        }
    }

    /// A request has ended, whose ratio is `ratio` if it is an ordinary one.
    pub(super) fn observe(&mut self, kind: Kind, ratio: f64, now_unix_nano: u64) {
        match now_unix_nano.checked_sub(self.began_unix_nano) {
            Some(0..SECOND_NANO) => {}
            Some(elapsed) => {
                let seconds = elapsed / SECOND_NANO;
                // After a second without any request there is nothing to go by.
                let scale = if seconds == 1 { self.needed_scale() } else { 1.0 };
                self.begin(self.began_unix_nano + seconds * SECOND_NANO, scale);
            }
            // The clock was set back.
            None => self.begin(now_unix_nano, self.needed_scale()),
        }
        match kind {
            Kind::Always => self.always += 1,
            Kind::Ordinary => self.ordinary += ratio,
        }
    }

    /// By what the ratios of ordinary requests are lowered in this second.
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// Takes a record of that weight, which has grown by what is owed; `None` when the second has enough of them.
    pub(super) fn admit(&mut self, kind: Kind, weight: f64) -> Option<f64> {
        let [ordinary, always] = &mut self.owed;
        let owed = match kind {
            Kind::Ordinary => ordinary,
            Kind::Always => always,
        };
        if self.admitted >= self.max_per_second {
            *owed += weight;
            return None;
        }
        self.admitted += 1;
        Some(weight + std::mem::take(owed))
    }

    /// What would have been right for the second that is over. One ordinary record is always allowed for: a share of 0
    /// would have no weight.
    fn needed_scale(&self) -> f64 {
        let left = self.max_per_second.saturating_sub(self.always).max(1) as f64;
        if self.ordinary > left { left / self.ordinary } else { 1.0 }
    }

    fn begin(&mut self, at_unix_nano: u64, scale: f64) {
        self.began_unix_nano = at_unix_nano;
        self.scale = scale;
        (self.admitted, self.always, self.ordinary) = (0, 0, 0.0);
    }
}
