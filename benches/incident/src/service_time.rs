//! How long the work of a request takes: a number goes in, the same duration comes out in every form and every run.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal};

/// Lognormal, as the durations of real endpoints mostly are: many ordinary ones, a long tail to the right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceTimes {
    seed: u64,
    milliseconds: LogNormal<f64>,
}

impl ServiceTimes {
    /// By median and mean: σ² is twice the logarithm of their ratio.
    ///
    /// # Errors
    /// When there is no such distribution.
    pub(crate) fn new(seed: u64, median_ms: f64, mean_ms: f64) -> anyhow::Result<Self> {
        ensure!(
            median_ms > 0.0 && mean_ms >= median_ms,
            "a median of {median_ms} ms and a mean of {mean_ms} ms: the median has to be above 0, the mean not below it"
        );
        let sigma = (2.0 * (mean_ms / median_ms).ln()).sqrt();
        let milliseconds = LogNormal::new(median_ms.ln(), sigma).context("no lognormal distribution")?;
        Ok(Self { seed, milliseconds })
    }

    /// Of the request with this number.
    pub(crate) fn of(&self, request: u64) -> Duration {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(request);
        Duration::from_secs_f64(self.milliseconds.sample(&mut random) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_mean_are_as_asked_for() {
        let times = ServiceTimes::new(1, 120.0, 166.0).unwrap();
        let mut milliseconds: Vec<f64> =
            (0..20_000).map(|request| times.of(request).as_secs_f64() * 1000.0).collect();
        milliseconds.sort_by(f64::total_cmp);
        let mean = milliseconds.iter().sum::<f64>() / milliseconds.len() as f64;
        assert!((milliseconds[10_000] - 120.0).abs() < 3.0, "{}", milliseconds[10_000]);
        assert!((mean - 166.0).abs() < 4.0, "{mean}");
    }

    #[test]
    fn a_request_takes_as_long_each_time() {
        let times = || ServiceTimes::new(7, 120.0, 166.0).unwrap();
        assert_eq!(times().of(42), times().of(42));
        assert_ne!(times().of(42), times().of(43));
    }

    #[test]
    fn a_mean_below_the_median_is_refused() {
        assert!(ServiceTimes::new(1, 120.0, 100.0).unwrap_err().to_string().contains("mean of 100 ms"));
    }
}
