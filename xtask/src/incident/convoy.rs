//! Convoys: requests that wait behind one another's logs. All forms are measured alike, from outside: a request was held up
//! when it took much longer than the same request took without any logging. Those that were held up at the same time are a
//! convoy; its first one waits for its own log, all that come in behind it for another's.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::incident::{
    figures::Figures,
    form::{Form, ServiceTimes},
    load::Sample,
};

/// What is much longer: a tenth of a stall, for whoever comes in while another's log stalls waits for its rest; but no less
/// than what requests without any logging differ by among themselves.
const LEAST_US: u64 = 50_000;

/// Requests that were held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Convoys {
    /// Requests that took longer than without any logging by more than the threshold.
    pub held_up: u64,
    /// Of these: behind another one, so for another's log.
    pub waited_for_another: u64,
    /// Groups of at least two that were held up at the same time.
    pub convoys: u64,
    /// Requests in the largest.
    pub largest: u64,
}

/// What [`Convoys`] takes as much longer, in microseconds.
#[must_use]
pub fn threshold_us(stall: Duration) -> u64 {
    u64::try_from(stall.as_micros() / 10).unwrap_or(u64::MAX).max(LEAST_US)
}

/// Counts them in each form, against the copies of no logging with the same service times; nowhere where there are none.
pub fn count(figures: &mut [Figures], stall: Duration) {
    let usual_us: Vec<BTreeMap<u64, u64>> =
        figures.iter().map(|of| usual_us(figures, of.service_times)).collect();
    for (of, usual_us) in figures.iter_mut().zip(&usual_us) {
        if !usual_us.is_empty() {
            of.convoys = Some(Convoys::of(&of.samples, usual_us, threshold_us(stall)));
        }
    }
}

/// What each request takes without any logging: the median of the copies.
fn usual_us(figures: &[Figures], service_times: ServiceTimes) -> BTreeMap<u64, u64> {
    let mut all: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let is_copy = |of: &&Figures| of.form == Form::NoLogging && of.service_times == service_times;
    for copy in figures.iter().filter(is_copy) {
        for sample in &copy.samples {
            all.entry(sample.number).or_default().push(sample.took_us);
        }
    }
    all.into_iter().filter_map(|(number, took)| Some((number, median(took)?))).collect()
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Convoys {
    /// Of `samples`, with what each request usually takes.
    #[must_use]
    pub fn of(samples: &[Sample], usual_us: &BTreeMap<u64, u64>, threshold_us: u64) -> Self {
        // Each is held up from when it usually would have ended.
        let mut held_up: Vec<(u64, u64)> = samples
            .iter()
            .filter_map(|sample| {
                let usual = *usual_us.get(&sample.number)?;
                (sample.took_us > usual.saturating_add(threshold_us))
                    .then_some((sample.due_us + usual, sample.due_us + sample.took_us))
            })
            .collect();
        held_up.sort_unstable();
        let mut convoys = Self { held_up: held_up.len() as u64, ..Self::default() };
        let (mut size, mut over) = (0, 0);
        for (from, to) in held_up {
            if from >= over {
                convoys.add(size);
                size = 0;
            }
            size += 1;
            over = over.max(to);
        }
        convoys.add(size);
        convoys
    }

    fn add(&mut self, size: u64) {
        if size > 1 {
            self.waited_for_another += size - 1;
            self.convoys += 1;
            self.largest = self.largest.max(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::load::End;

    /// Each usually takes 100 µs.
    fn convoys(due_and_took_us: &[(u64, u64)]) -> Convoys {
        let samples: Vec<Sample> = (0..)
            .zip(due_and_took_us)
            .map(|(number, (due_us, took_us))| Sample {
                number,
                due_us: *due_us,
                sent_us: *due_us,
                took_us: *took_us,
                end: End::Answered(200),
            })
            .collect();
        let usual_us = samples.iter().map(|sample| (sample.number, 100)).collect();
        Convoys::of(&samples, &usual_us, 50)
    }

    #[test]
    fn a_little_longer_is_not_held_up() {
        assert_eq!(convoys(&[(0, 150), (0, 100), (0, 20)]), Convoys::default());
    }

    #[test]
    fn one_that_is_held_up_alone_waits_for_its_own_log() {
        let alone = Convoys { held_up: 2, ..Convoys::default() };
        assert_eq!(convoys(&[(0, 1000), (900, 300)]), alone);
    }

    #[test]
    fn all_behind_the_first_wait_for_anothers_log() {
        let convoy = Convoys { held_up: 4, waited_for_another: 2, convoys: 1, largest: 3 };
        assert_eq!(convoys(&[(0, 1000), (500, 500), (800, 600), (5000, 900)]), convoy);
    }

    #[test]
    fn a_stall_counts_from_a_tenth_of_it_on() {
        assert_eq!(threshold_us(Duration::from_secs(5)), 500_000);
        assert_eq!(threshold_us(Duration::from_millis(200)), LEAST_US);
    }
}
