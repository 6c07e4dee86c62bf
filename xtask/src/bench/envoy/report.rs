//! What a run tells: a row for each variant, as tables and as JSON.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use super::{
    Options,
    logger::Logger,
    subject::PacedTurn,
    variant::{BASELINES, REFERENCE, Variant},
};
use crate::{
    bench::{
        statistics::{Ratio, Summary},
        table,
    },
    harness::{cpu::ThreadTimes, sink::Arrived},
};

/// Microseconds of processor time, by kind of thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    pub(super) workers: f64,
    pub(super) main: f64,
    pub(super) others: f64,
}

impl From<ThreadTimes> for Usage {
    fn from(nanoseconds: ThreadTimes) -> Self {
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        Self {
            workers: micros(nanoseconds.workers),
            main: micros(nanoseconds.main),
            others: micros(nanoseconds.others),
        }
    }
}

impl Usage {
    pub(super) fn scaled(self, by: f64) -> Self {
        Self { workers: self.workers * by, main: self.main * by, others: self.others * by }
    }

    pub(super) fn less(self, other: Self) -> Self {
        Self {
            workers: self.workers - other.workers,
            main: self.main - other.main,
            others: self.others - other.others,
        }
    }

    fn total(self) -> f64 {
        self.workers + self.main + self.others
    }
}

/// All that was measured; everything by variant is in the order of `variants`.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) variants: Vec<Variant>,
    /// By round and variant: microseconds per request.
    pub(super) rounds: Vec<Vec<Usage>>,
    /// By variant: of all rounds at once, with what came after the last.
    pub(super) whole: Vec<Usage>,
    /// Requests per second.
    pub(super) latency_rate: u32,
    /// By round and variant.
    pub(super) latencies: Vec<Vec<PacedTurn>>,
    pub(super) resident_bytes: Vec<u64>,
    pub(super) arrived: Vec<Arrived>,
}

impl Measured {
    /// What a variant costs to what another one does.
    fn ratio(&self, index: usize, other: &str) -> Option<Ratio> {
        let other = self.variants.iter().position(|variant| variant.name == other)?;
        let cost = |round: &Vec<Usage>, index| over_baseline(round, index, |usage| Some(usage.total()));
        let pairs = self.rounds.iter().map(|round| Some((cost(round, index)?, cost(round, other)?)));
        Ratio::of_medians(&pairs.collect::<Option<Vec<_>>>()?)
    }
}

/// One variant. Costs are per request, over no logger.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) variant: String,
    pub(super) delta_us: Summary,
    pub(super) workers_us: Summary,
    pub(super) main_us: Summary,
    pub(super) others_us: Summary,
    /// Of all rounds at once.
    pub(super) whole_us: f64,
    /// To Envoy's OTLP logger over gRPC.
    pub(super) ratio: Option<Ratio>,
    /// offpath's, to what captures as it does and drops it.
    pub(super) to_capture: Option<Ratio>,
    pub(super) p50_added_us: Option<Summary>,
    pub(super) p99_added_us: Option<Summary>,
    /// Less Envoy's OTLP logger's over gRPC.
    pub(super) p99_over_reference_us: Option<Summary>,
    /// Of one processor, in the turns for latencies.
    pub(super) busy: Option<Summary>,
    /// As `delta_us`, of requests at random moments.
    pub(super) paced_delta_us: Option<Summary>,
    pub(super) resident_added_mib: f64,
    pub(super) records: u64,
    pub(super) calls: u64,
    pub(super) record_bytes: Option<f64>,
    pub(super) record_gzip_bytes: Option<f64>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) rounds: u32,
    pub(super) requests_per_turn: u64,
    pub(super) requests_per_second: u32,
    pub(super) answered_by: &'static str,
    pub(super) latency_requests_per_second: u32,
    /// Without a logger.
    pub(super) baseline_us: Summary,
    /// Without a logger, less the same: what is no difference.
    pub(super) noise_us: Summary,
    pub(super) p50_us: Option<Summary>,
    pub(super) p99_us: Option<Summary>,
    pub(super) p50_noise_us: Option<Summary>,
    pub(super) p99_noise_us: Option<Summary>,
    pub(super) baseline_resident_mib: f64,
    pub(super) module_bytes: u64,
    pub(super) rows: Vec<Row>,
}

/// A value of a round's variant less the mean of the variants without a logger.
fn over_baseline<T>(round: &[T], index: usize, value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    let baseline: Vec<f64> = round.get(..BASELINES)?.iter().map(&value).collect::<Option<_>>()?;
    Some(value(round.get(index)?)? - baseline.iter().sum::<f64>() / baseline.len() as f64)
}

fn noise<T>(rounds: &[Vec<T>], value: impl Fn(&T) -> Option<f64>) -> Option<Summary> {
    Summary::of(rounds.iter().filter_map(|round| Some(value(round.get(1)?)? - value(round.first()?)?)))
}

impl Report {
    pub(super) fn new(options: &Options, measured: &Measured, module_bytes: u64) -> anyhow::Result<Self> {
        let mut rows = Vec::new();
        for index in BASELINES..measured.variants.len() {
            rows.push(Row::new(measured, index).context("nothing was measured")?);
        }
        let total = |usage: &Usage| Some(usage.total());
        let at = |part: f64| move |turn: &PacedTurn| turn.quantile_us(part);
        let without_logger = |part: f64| {
            let rounds = measured.latencies.iter();
            Summary::of(rounds.filter_map(|round| round.first()?.quantile_us(part)))
        };
        Ok(Self {
            rounds: options.load.rounds,
            requests_per_turn: u64::from(options.load.rate) * options.turn_ms / 1000,
            requests_per_second: options.load.rate,
            answered_by: if options.upstream { "an application behind it" } else { "Envoy itself" },
            latency_requests_per_second: measured.latency_rate,
            baseline_us: Summary::of(measured.rounds.iter().filter_map(|round| total(round.first()?)))
                .context("nothing was measured")?,
            noise_us: noise(&measured.rounds, total).context("nothing was measured")?,
            p50_us: without_logger(0.5),
            p99_us: without_logger(0.99),
            p50_noise_us: noise(&measured.latencies, at(0.5)),
            p99_noise_us: noise(&measured.latencies, at(0.99)),
            baseline_resident_mib: measured.resident_bytes.first().map_or(0.0, |bytes| mebibytes(*bytes)),
            module_bytes,
            rows,
        })
    }

    /// What was measured in words, then the two tables.
    pub(super) fn to_markdown(&self) -> String {
        let cost = table::render(
            &[
                "variant",
                "Δ µs",
                "middle half",
                "worker",
                "main",
                "others",
                "all at once",
                "÷ OTLP gRPC",
                "÷ capture",
            ],
            self.rows.iter().map(Row::cost_cells),
        );
        let rest = table::render(
            &["variant", "RSS +MiB", "records", "calls", "bytes/record", "gzip"],
            self.rows.iter().map(Row::other_cells),
        );
        format!(
            "{} rounds of {} requests at {}/s, answered by {}. Without a logger Envoy takes {:.1} µs per request; the difference \
             between two Envoys without a logger is {:.2} µs ({:.2} to {:.2}).\n\n{cost}\nEnvoy without a logger occupies {:.0} \
             MiB; the wasm module has {} bytes. Calls go uncompressed, but for those named so; gzip is what others would be at level \
             1.\n\n{rest}{}",
            self.rounds,
            self.requests_per_turn,
            self.requests_per_second,
            self.answered_by,
            self.baseline_us.median,
            self.noise_us.median,
            self.noise_us.first_quartile,
            self.noise_us.third_quartile,
            self.baseline_resident_mib,
            self.module_bytes,
            self.latencies().unwrap_or_default(),
        )
    }

    /// `None` when they were not measured.
    fn latencies(&self) -> Option<String> {
        let table = table::render(
            &["variant", "p50 +µs", "p99 +µs", "p99 − OTLP gRPC's", "busy", "Δ µs"],
            self.rows.iter().map(Row::latency_cells),
        );
        Some(format!(
            "\nLatencies at {}/s, at which an Envoy without a logger is busy half of the time: its p50 is {} µs, its p99 {} µs, and \
             between two of them they differ by {} and {} µs. Each turn's is the one in the middle of those of its tenths of a \
             second.\n\n{table}",
            self.latency_requests_per_second,
            in_whole(&self.p50_us?),
            in_whole(&self.p99_us?),
            in_whole(&self.p50_noise_us?),
            in_whole(&self.p99_noise_us?),
        ))
    }
}

impl Row {
    /// `None` when there are no rounds.
    fn new(measured: &Measured, index: usize) -> Option<Self> {
        let cost = |part: fn(&Usage) -> f64| {
            let rounds = measured.rounds.iter();
            Summary::of(rounds.filter_map(|round| over_baseline(round, index, |usage| Some(part(usage)))))
        };
        let paced = |value: &dyn Fn(&[PacedTurn]) -> Option<f64>| {
            Summary::of(measured.latencies.iter().filter_map(|round| value(round)))
        };
        let paced_over =
            |value: &dyn Fn(&PacedTurn) -> Option<f64>| paced(&|round| over_baseline(round, index, value));
        let reference = measured.variants.iter().position(|variant| variant.name == REFERENCE);
        let arrived = measured.arrived.get(index)?;
        let resident = |bytes: &u64| Some(mebibytes(*bytes));
        let (record_bytes, record_gzip_bytes) = bytes_per_record(arrived).unzip();
        let Variant { name: variant, logger } = measured.variants.get(index)?;
        let is_compressed = matches!(logger, Logger::Compressed(_));
        Some(Self {
            variant: variant.clone(),
            delta_us: cost(|usage| usage.total())?,
            workers_us: cost(|usage| usage.workers)?,
            main_us: cost(|usage| usage.main)?,
            others_us: cost(|usage| usage.others)?,
            whole_us: over_baseline(&measured.whole, index, |usage| Some(usage.total()))?,
            ratio: measured.ratio(index, REFERENCE),
            to_capture: variant
                .split_once(": offpath ")
                .and_then(|(load, what)| measured.ratio(index, &format!("{load}: capture only {what}"))),
            p50_added_us: paced_over(&|turn| turn.quantile_us(0.5)),
            p99_added_us: paced_over(&|turn| turn.quantile_us(0.99)),
            p99_over_reference_us: paced(&|round| {
                let p99 = |index: usize| round.get(index)?.quantile_us(0.99);
                Some(p99(index)? - p99(reference?)?)
            }),
            busy: paced(&|round| Some(round.get(index)?.busy())),
            paced_delta_us: paced_over(&|turn| Some(turn.us_per_request())),
            resident_added_mib: over_baseline(&measured.resident_bytes, index, resident)?,
            records: arrived.records,
            calls: arrived.calls,
            record_bytes,
            record_gzip_bytes: record_gzip_bytes.filter(|_| !is_compressed),
        })
    }

    fn cost_cells(&self) -> Vec<String> {
        let ratio = |ratio: Option<Ratio>| {
            ratio
                .map(|Ratio { value, low, high }| format!("{value:.2} ({low:.2} to {high:.2})"))
                .unwrap_or_default()
        };
        let Summary { first_quartile, median, third_quartile } = self.delta_us;
        vec![
            self.variant.clone(),
            table::number(median),
            format!("{first_quartile:.2} to {third_quartile:.2}"),
            table::number(self.workers_us.median),
            table::number(self.main_us.median),
            table::number(self.others_us.median),
            table::number(self.whole_us),
            ratio(self.ratio),
            ratio(self.to_capture),
        ]
    }

    fn other_cells(&self) -> Vec<String> {
        let whole = |value: f64| format!("{value:.0}");
        let count = |count: u64| if count == 0 { String::new() } else { count.to_string() };
        vec![
            self.variant.clone(),
            table::number(self.resident_added_mib),
            count(self.records),
            count(self.calls),
            self.record_bytes.map(whole).unwrap_or_default(),
            self.record_gzip_bytes.map(whole).unwrap_or_default(),
        ]
    }

    fn latency_cells(&self) -> Vec<String> {
        let latency =
            |summary: Option<Summary>| summary.map(|summary| in_whole(&summary)).unwrap_or_default();
        let busy = self.busy.map(|busy| format!("{:.0} %", busy.median * 100.0)).unwrap_or_default();
        vec![
            self.variant.clone(),
            latency(self.p50_added_us),
            latency(self.p99_added_us),
            latency(self.p99_over_reference_us),
            busy,
            latency(self.paced_delta_us),
        ]
    }
}

/// The median, and the middle half.
fn in_whole(Summary { first_quartile, median, third_quartile }: &Summary) -> String {
    format!("{median:.0} ({first_quartile:.0} to {third_quartile:.0})")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Of the calls that were kept, as they came and after gzip at its fastest.
fn bytes_per_record(arrived: &Arrived) -> Option<(f64, f64)> {
    let records: u64 = arrived.samples.iter().map(|sample| sample.records).sum();
    let plain: usize = arrived.samples.iter().map(|sample| sample.body.len()).sum();
    let gzip: Option<usize> = arrived.samples.iter().map(|sample| gzip_len(&sample.body)).sum();
    (records > 0).then(|| (plain as f64 / records as f64, gzip.unwrap_or(0) as f64 / records as f64))
}

fn gzip_len(bytes: &[u8]) -> Option<usize> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).ok()?;
    Some(encoder.finish().ok()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(workers: f64) -> Usage {
        Usage { workers, main: 1.0, others: 0.0 }
    }

    #[test]
    fn a_difference_is_to_the_mean_of_the_variants_without_a_logger() {
        let round = [usage(10.0), usage(20.0), usage(35.0)];
        assert_eq!(over_baseline(&round, 2, |usage| Some(usage.workers)), Some(20.0));
        assert_eq!(noise(&[round.to_vec()], |usage| Some(usage.workers)).unwrap().median, 10.0);
    }

    #[test]
    fn what_is_used_without_traffic_is_taken_off_by_kind() {
        let net = usage(30.0).less(usage(10.0).scaled(2.0));
        assert_eq!(net, Usage { workers: 10.0, main: -1.0, others: 0.0 });
        assert_eq!(net.total(), 9.0);
    }
}
