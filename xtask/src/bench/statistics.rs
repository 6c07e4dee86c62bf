//! Numbers that a noisy machine's outliers do not move: medians and quartiles of paired differences.

use serde::Serialize;

/// A sample, as three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// A quarter lies below.
    pub first_quartile: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub third_quartile: f64,
}

impl Summary {
    /// `None` of nothing.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            first_quartile: quantile(&values, 0.25)?,
            median: quantile(&values, 0.5)?,
            third_quartile: quantile(&values, 0.75)?,
        })
    }

    /// All three less `constant`.
    #[must_use]
    pub fn less(&self, constant: f64) -> Self {
        Self {
            first_quartile: self.first_quartile - constant,
            median: self.median - constant,
            third_quartile: self.third_quartile - constant,
        }
    }

    /// The width of the middle half.
    #[must_use]
    pub fn interquartile_range(&self) -> f64 {
        self.third_quartile - self.first_quartile
    }
}

/// How much larger one median is than another, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the medians.
    pub value: f64,
    /// One in twenty would lie below, by chance.
    pub low: f64,
    /// One in twenty would lie above, by chance.
    pub high: f64,
}

/// How often rounds are drawn anew.
const RESAMPLES: usize = 1000;

impl Ratio {
    /// Of the medians of pairs' first and second values. Its bounds are a bootstrap's, which takes pairs to be independent: what comes
    /// out when as many are drawn from these, again and again. `None` of nothing, and of a second median that may as well be zero.
    #[must_use]
    pub fn of_medians(pairs: &[(f64, f64)]) -> Option<Self> {
        let ratio = |pairs: &[(f64, f64)]| {
            let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
            let second = Summary::of(second)?.median;
            (second > 0.0).then_some(Summary::of(first)?.median / second)
        };
        // The same in each run over the same figures.
        let mut chance = fastrand::Rng::with_seed(0);
        let mut ratios = (0..RESAMPLES)
            .map(|_| {
                let drawn: Vec<_> = pairs.iter().filter_map(|_| chance.choice(pairs).copied()).collect();
                ratio(&drawn)
            })
            .collect::<Option<Vec<f64>>>()?;
        ratios.sort_by(f64::total_cmp);
        Some(Self { value: ratio(pairs)?, low: quantile(&ratios, 0.05)?, high: quantile(&ratios, 0.95)? })
    }
}

/// Between the two values on either side, in proportion. `sorted` rises.
#[must_use]
pub fn quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let place = quantile.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let below = sorted.get(place.floor() as usize)?;
    let above = sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { first_quartile: 1.75, median: 2.5, third_quartile: 3.25 });
        assert_eq!(summary.interquartile_range(), 1.5);
    }

    #[test]
    fn one_value_is_all_three() {
        let summary = Summary { first_quartile: 7.0, median: 7.0, third_quartile: 7.0 };
        assert_eq!(Summary::of([7.0]), Some(summary));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_ratio_is_as_sure_as_its_pairs_agree() {
        let agreed = [(1.0, 2.0); 9];
        assert_eq!(Ratio::of_medians(&agreed), Some(Ratio { value: 0.5, low: 0.5, high: 0.5 }));
        let scattered: Vec<(f64, f64)> = (1..10).map(|round| (f64::from(round), 5.0)).collect();
        let ratio = Ratio::of_medians(&scattered).unwrap();
        assert_eq!(ratio.value, 1.0);
        assert!(ratio.low < 0.8 && 1.2 < ratio.high, "{ratio:?}");
        assert_eq!(Ratio::of_medians(&[]), None);
        let around_zero: Vec<(f64, f64)> = (-4..5).map(|round| (1.0, f64::from(round) + 0.5)).collect();
        assert_eq!(Ratio::of_medians(&around_zero), None);
    }

    #[test]
    fn an_outlier_does_not_move_the_median() {
        let quiet = Summary::of([1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let loud = Summary::of([1.0, 2.0, 3.0, 4.0, 5000.0]).unwrap();
        assert_eq!(quiet.median, loud.median);
    }
}
