//! What a run says in numbers: what the clients saw of a form, its convoys, and where its records went. Quantiles are exact,
//! of all requests: none is left out for having failed or waited too long.

use serde::Serialize;

use crate::incident::{
    convoy::Convoys,
    form::{Form, ServiceTimes, Setup},
    load::{End, Sample},
    records::Records,
};

/// The quantiles of all tables, and their names.
pub const QUANTILES: [(&str, f64); 6] =
    [("P50", 0.5), ("P90", 0.9), ("P95", 0.95), ("P99", 0.99), ("P99.9", 0.999), ("max", 1.0)];

/// Latencies, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Of all requests.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        Self::from_microseconds(samples.iter().map(|sample| sample.took_us))
    }

    fn from_microseconds(latencies: impl Iterator<Item = u64>) -> Self {
        let mut latencies: Vec<u64> = latencies.collect();
        latencies.sort_unstable();
        Self(latencies)
    }

    /// The smallest that at least this share of the requests did not exceed, in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).map_or(0.0, |took| milliseconds(*took))
    }

    /// On average, in milliseconds.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        milliseconds(self.0.iter().sum()) / self.0.len().max(1) as f64
    }

    /// All of them in milliseconds, sorted.
    pub fn all_ms(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied().map(milliseconds)
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// What requests took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Latency {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// In one view.
    #[must_use]
    pub fn of(latencies: &Latencies) -> Self {
        let [p50_ms, p90_ms, p95_ms, p99_ms, p999_ms, max_ms] =
            QUANTILES.map(|(_, quantile)| latencies.quantile_ms(quantile));
        Self { mean_ms: latencies.mean_ms(), p50_ms, p90_ms, p95_ms, p99_ms, p999_ms, max_ms }
    }

    /// Mean and quantiles, named, in the order of the tables.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("mean", self.mean_ms),
            ("P50", self.p50_ms),
            ("P90", self.p90_ms),
            ("P95", self.p95_ms),
            ("P99", self.p99_ms),
            ("P99.9", self.p999_ms),
            ("max", self.max_ms),
        ]
    }
}

/// How requests went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ends {
    /// All.
    pub requests: u64,
    /// Of these: answered 200.
    pub answered_200: u64,
    /// Of these: answered otherwise, or not to the end.
    pub failed: u64,
    /// Of these: their clients waited as long as they would, and left.
    pub gave_up: u64,
    /// The load generator began 99 of 100 no later than so long after they were due.
    pub sent_late_p99_ms: f64,
    /// From the load's begin to the last request's end.
    pub total_seconds: f64,
}

impl Ends {
    /// Counted.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        let late = samples.iter().map(|sample| sample.sent_us.saturating_sub(sample.due_us));
        let last = samples.iter().map(|sample| sample.due_us + sample.took_us).max();
        let mut ends = Self {
            requests: samples.len() as u64,
            sent_late_p99_ms: Latencies::from_microseconds(late).quantile_ms(0.99),
            total_seconds: milliseconds(last.unwrap_or(0)) / 1000.0,
            ..Self::default()
        };
        for sample in samples {
            match sample.end {
                End::Answered(200) => ends.answered_200 += 1,
                End::Answered(_) | End::Broken => ends.failed += 1,
                End::GaveUp => ends.gave_up += 1,
            }
        }
        ends
    }
}

/// What the application says about its logging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ApplicationStats {
    /// Requests whose work was done.
    pub worked: u64,
    /// Logs that are in the application's memory only.
    pub waiting: u64,
    /// What became of logs that were offered to the queue.
    pub offers: Offers,
}

/// What became of logs that were offered to the queue; all but the accepted ones were written by the request itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Offers {
    pub accepted: u64,
    pub full: u64,
    pub failed: u64,
    pub slow: u64,
}

impl Offers {
    /// Written by the request itself.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.full + self.failed + self.slow
    }
}

/// All of one form's run.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The setup's name.
    pub name: String,
    /// Who logs.
    pub form: Form,
    /// How long the work took.
    pub service_times: ServiceTimes,
    /// What the clients saw.
    pub latency: Latency,
    /// How the requests went.
    pub ends: Ends,
    /// Requests that waited for logs; `None` where no copy without logging ran to compare with.
    pub convoys: Option<Convoys>,
    /// What the application says.
    pub application: ApplicationStats,
    /// How often the database stalled.
    pub stalls: u64,
    /// Where the records went.
    pub records: Records,
    /// From the last request's end until every record was stored or none was on its way any more.
    pub settled_after_seconds: f64,
    /// Everything that the curves are drawn from.
    #[serde(skip)]
    pub latencies: Latencies,
    /// And where that is from.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl Figures {
    /// What the clients say; the rest is still empty.
    #[must_use]
    pub fn of_samples(setup: &Setup, samples: Vec<Sample>) -> Self {
        let latencies = Latencies::of(&samples);
        Self {
            name: setup.name.clone(),
            form: setup.form,
            service_times: setup.service_times,
            latency: Latency::of(&latencies),
            ends: Ends::of(&samples),
            convoys: None,
            application: ApplicationStats::default(),
            stalls: 0,
            records: Records::default(),
            settled_after_seconds: 0.0,
            latencies,
            samples,
        }
    }
}

/// By how much `after` is below `before`, in per cent.
#[must_use]
pub fn improvement(before: f64, after: f64) -> f64 {
    if before > 0.0 { (before - after) / before * 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact() {
        let latencies = Latencies::from_microseconds((1..=1000).rev().map(|ms| ms * 1000));
        let latency = Latency::of(&latencies);
        let expected = [500.5, 500.0, 900.0, 950.0, 990.0, 999.0, 1000.0];
        for ((name, value), expected) in latency.named().iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{name}: {value}");
        }
    }

    #[test]
    fn every_end_is_counted_and_the_generators_lateness_is_seen() {
        let sample = |number, end| Sample {
            number,
            due_us: number * 1000,
            sent_us: number * 1500,
            took_us: 2000,
            end,
        };
        let samples = [
            sample(0, End::Answered(200)),
            sample(1, End::Answered(503)),
            sample(2, End::Broken),
            sample(4, End::GaveUp),
        ];
        let expected = Ends {
            requests: 4,
            answered_200: 1,
            failed: 2,
            gave_up: 1,
            sent_late_p99_ms: 2.0,
            total_seconds: 0.006,
        };
        assert_eq!(Ends::of(&samples), expected);
    }

    #[test]
    fn the_incidents_improvement_is_computed_as_it_was_told() {
        assert_eq!(format!("{:.1}", improvement(3983.0, 231.0)), "94.2");
        assert_eq!(format!("{:.1}", improvement(428.0, 166.0)), "61.2");
    }
}
