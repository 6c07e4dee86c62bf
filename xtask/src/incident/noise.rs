//! The noise: several copies of *no logging* run beside each other, and what one of them differs by from the others is noise.
//!
//! Each request has the same number, and so the same service time, in every lane: lanes are compared on the same requests.
//! To see how far chance moves a percentile, the requests are drawn anew, with replacement, a thousand times (a paired
//! bootstrap); each time every copy is compared with the mean of the other copies, and the form with the mean of all.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::{
    bench::statistics,
    incident::{
        figures::{Figures, QUANTILES},
        form::Form,
    },
};

const DRAWS: usize = 1000;
/// Of what chance does, so much is noise; the rest lies above and below in equal parts.
const COVERED: f64 = 0.95;
/// Mean, and all quantiles but the largest, which is one request.
const COUNT: usize = QUANTILES.len();

/// What one statistic says, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// `P95`, or `mean`.
    pub name: &'static str,
    /// The mean of the copies.
    pub copies_ms: f64,
    /// The form.
    pub form_ms: f64,
    /// By how much a copy differs from the others, in 95 of 100 cases: from.
    pub noise_from_ms: f64,
    /// And to.
    pub noise_to_ms: f64,
    /// By how much the form differs from the copies, in 95 of 100 cases: from.
    pub difference_from_ms: f64,
    /// And to.
    pub difference_to_ms: f64,
}

impl Noise {
    /// All copies of no logging with the form's service times.
    #[must_use]
    pub fn copies<'a>(figures: &'a [Figures], form: &Figures) -> Vec<&'a Figures> {
        let is_copy = |of: &&Figures| of.form == Form::NoLogging && of.service_times == form.service_times;
        figures.iter().filter(is_copy).collect()
    }

    /// The edge, if it is among a part's figures, compared with the copies there.
    #[must_use]
    pub fn of_edge(figures: &[Figures], seed: u64) -> Vec<Self> {
        let edge = figures.iter().find(|of| of.name == Form::Edge.name());
        edge.map_or_else(Vec::new, |edge| Self::all(&Self::copies(figures, edge), edge, seed))
    }

    /// For mean and quantiles. Nothing comes out with fewer than two copies, or when a lane has other requests.
    #[must_use]
    pub fn all(copies: &[&Figures], form: &Figures, seed: u64) -> Vec<Self> {
        let form = Lane::of(form);
        let copies: Vec<Lane> = copies.iter().copied().map(Lane::of).collect();
        let requests = form.took_ms.len();
        if copies.len() < 2 || requests == 0 || copies.iter().any(|copy| copy.took_ms.len() != requests) {
            return Vec::new();
        }
        let Spread { noise, difference } = Spread::of(&copies, &form, seed);
        let once = vec![1; requests];
        let usual = mean(&copies.iter().map(|copy| copy.statistics(&once)).collect::<Vec<_>>());
        let names = ["mean"].into_iter().chain(QUANTILES.iter().map(|(name, _)| *name));
        names
            .zip(form.statistics(&once).into_iter().zip(usual))
            .zip(noise.into_iter().map(covered).zip(difference.into_iter().map(covered)))
            .map(|((name, (form_ms, copies_ms)), (noise, difference))| Self {
                name,
                copies_ms,
                form_ms,
                noise_from_ms: *noise.start(),
                noise_to_ms: *noise.end(),
                difference_from_ms: *difference.start(),
                difference_to_ms: *difference.end(),
            })
            .collect()
    }

    /// How much slower the form is than the copies.
    #[must_use]
    pub fn difference_ms(&self) -> f64 {
        self.form_ms - self.copies_ms
    }

    /// Whether the form differs from the copies by no more than a copy does.
    #[must_use]
    pub fn is_within(&self) -> bool {
        (self.noise_from_ms..=self.noise_to_ms).contains(&self.difference_ms())
    }
}

/// What the draws say, by statistic: each copy less the mean of the others, and the form less the mean of all copies.
struct Spread {
    noise: [Vec<f64>; COUNT],
    difference: [Vec<f64>; COUNT],
}

impl Spread {
    fn of(copies: &[Lane], form: &Lane, seed: u64) -> Self {
        let empty = || [const { Vec::new() }; COUNT];
        let mut spread = Self { noise: empty(), difference: empty() };
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..DRAWS {
            let drawn = draw(&mut random, form.took_ms.len());
            let of_copies: Vec<[f64; COUNT]> = copies.iter().map(|copy| copy.statistics(&drawn)).collect();
            collect(&mut spread.difference, &form.statistics(&drawn), &mean(&of_copies));
            for (index, copy) in of_copies.iter().enumerate() {
                let (before, rest) = of_copies.split_at(index);
                let others = [before, rest.get(1..).unwrap_or_default()].concat();
                collect(&mut spread.noise, copy, &mean(&others));
            }
        }
        spread
    }
}

/// A lane's latencies by request, and which is the how manyth, so that a draw need not be sorted.
struct Lane {
    took_ms: Vec<f64>,
    sorted: Vec<usize>,
}

impl Lane {
    fn of(figures: &Figures) -> Self {
        let mut samples: Vec<(u64, f64)> =
            figures.samples.iter().map(|sample| (sample.number, sample.took_us as f64 / 1000.0)).collect();
        samples.sort_unstable_by_key(|(number, _)| *number);
        let took_ms: Vec<f64> = samples.into_iter().map(|(_, took)| took).collect();
        let mut sorted: Vec<usize> = (0..took_ms.len()).collect();
        sorted.sort_by(|left, right| {
            let took = |index: &usize| took_ms.get(*index).copied().unwrap_or_default();
            took(left).total_cmp(&took(right))
        });
        Self { took_ms, sorted }
    }

    /// Of each request as often as it was drawn: the mean, and the quantiles.
    fn statistics(&self, drawn: &[u32]) -> [f64; COUNT] {
        let count: u32 = drawn.iter().sum();
        let mut sum = 0.0;
        let mut seen = 0;
        let mut quantiles = QUANTILES.iter().map(|(_, quantile)| quantile * f64::from(count)).peekable();
        let mut statistics = [0.0; COUNT];
        let mut next = 1;
        for index in &self.sorted {
            let took = self.took_ms.get(*index).copied().unwrap_or_default();
            let times = drawn.get(*index).copied().unwrap_or_default();
            seen += times;
            sum += took * f64::from(times);
            while quantiles.next_if(|rank| f64::from(seen) >= *rank).is_some() {
                if let Some(statistic) = statistics.get_mut(next) {
                    *statistic = took;
                }
                next += 1;
            }
        }
        if let Some(mean) = statistics.first_mut() {
            *mean = sum / f64::from(count.max(1));
        }
        statistics
    }
}

/// How often each request was drawn.
fn draw(random: &mut fastrand::Rng, requests: usize) -> Vec<u32> {
    let mut drawn = vec![0; requests];
    for _ in 0..requests {
        if let Some(count) = drawn.get_mut(random.usize(..requests)) {
            *count += 1;
        }
    }
    drawn
}

fn mean(of: &[[f64; COUNT]]) -> [f64; COUNT] {
    std::array::from_fn(|index| {
        of.iter().filter_map(|statistics| statistics.get(index)).sum::<f64>() / of.len().max(1) as f64
    })
}

fn collect(into: &mut [Vec<f64>; COUNT], statistics: &[f64; COUNT], less: &[f64; COUNT]) {
    for ((values, value), less) in into.iter_mut().zip(statistics).zip(less) {
        values.push(value - less);
    }
}

fn covered(mut values: Vec<f64>) -> RangeInclusive<f64> {
    values.sort_by(f64::total_cmp);
    let at = |share| statistics::quantile(&values, share).unwrap_or_default();
    at((1.0 - COVERED) / 2.0)..=at((1.0 + COVERED) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{
        form::{ServiceTimes, Setup},
        load::{End, Sample},
    };

    /// Requests of 100 ms and more, each with up to 1 ms of chance, and `slower_ms`.
    fn lane(seed: u64, slower_ms: f64) -> Figures {
        let mut random = fastrand::Rng::with_seed(seed);
        let samples = (0..1000)
            .rev()
            .map(|number| {
                let took_ms = 100.0 + number as f64 + random.f64() + slower_ms;
                let took_us = (took_ms * 1000.0) as u64;
                Sample { number, due_us: 0, sent_us: 0, took_us, end: End::Answered(200) }
            })
            .collect();
        let service_times = ServiceTimes { median_ms: 120.0, mean_ms: 166.0, seed: 1 };
        Figures::of_samples(&Setup::of(Form::NoLogging, service_times), samples)
    }

    fn compared(slower_ms: f64) -> Vec<Noise> {
        let copies = [lane(1, 0.0), lane(2, 0.0), lane(3, 0.0)];
        Noise::all(&copies.each_ref(), &lane(4, slower_ms), 1)
    }

    #[test]
    fn another_copy_is_within_the_noise() {
        let noise = compared(0.0);
        let names: Vec<&str> = noise.iter().map(|noise| noise.name).collect();
        assert_eq!(names, ["mean", "P50", "P90", "P95", "P99", "P99.9"]);
        assert!(noise.iter().all(Noise::is_within), "{noise:?}");
        assert!(noise.iter().all(|noise| noise.noise_from_ms < 0.0 && noise.noise_to_ms > 0.0), "{noise:?}");
    }

    #[test]
    fn a_small_difference_is_seen_although_requests_differ_far_more() {
        for noise in compared(3.0) {
            assert!(!noise.is_within(), "{noise:?}");
            assert!((noise.difference_ms() - 3.0).abs() < 1.0, "{noise:?}");
            assert!(noise.difference_from_ms > 0.0, "{noise:?}");
        }
    }

    #[test]
    fn quantiles_of_all_once_are_those_of_the_tables() {
        let figures = lane(5, 0.0);
        let statistics = Lane::of(&figures).statistics(&[1; 1000]);
        let named = figures.latency.named();
        for ((name, expected), found) in named.iter().zip(statistics) {
            assert!((expected - found).abs() < 1e-6, "{name}: {expected} and {found}");
        }
        assert_eq!(Lane::of(&figures).took_ms.len(), 1000);
    }

    #[test]
    fn with_one_copy_there_is_no_noise_to_compare_with() {
        let only = lane(1, 0.0);
        assert_eq!(Noise::all(&[&only], &lane(2, 0.0), 1), []);
    }
}
