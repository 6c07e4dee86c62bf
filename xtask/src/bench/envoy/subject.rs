//! One Envoy that is measured, with its own receiver: what it was sent, what it has used, and whether its records arrived.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    logger::{self, Answers, Kept, Logger},
    variant::Variant,
};
use crate::{
    bench::statistics::{Summary, quantile},
    fetch::{self, ENVOY_1_40},
    harness::{
        cpu::{Split, ThreadTimes},
        envoy::{Envoy, Launch},
        h2load::H2load,
        paced::{Answered, Paced},
        sink::{Arrived, Sink},
        wait,
    },
    project::Project,
};

/// A running Envoy, on the processor of what is measured, with one worker.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) variant: Variant,
    envoy: Envoy,
    sink: Sink,
    requests: u64,
    _folder: TempDir,
}

/// What a turn of requests at random moments has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct PacedTurn {
    /// How long requests took, in microseconds: by the [`SLICE`] in which they were due, each sorted.
    slices: Vec<Vec<f64>>,
    /// Processor time of all of Envoy's threads.
    used_us: f64,
    lasted_us: f64,
}

impl PacedTurn {
    /// How many requests there were.
    fn requests(&self) -> usize {
        self.slices.iter().map(Vec::len).sum()
    }

    /// Of one processor's time, the share that Envoy took.
    pub(super) fn busy(&self) -> f64 {
        self.used_us / self.lasted_us
    }

    /// Processor time of a request, in microseconds.
    pub(super) fn us_per_request(&self) -> f64 {
        self.used_us / self.requests().max(1) as f64
    }

    /// Of each slice's quantiles the one in the middle, in microseconds. What happens in fewer than half of the slices is not seen in it.
    pub(super) fn quantile_us(&self, part: f64) -> Option<f64> {
        Some(Summary::of(self.slices.iter().filter_map(|slice| quantile(slice, part)))?.median)
    }
}

/// A machine that is shared stands still for milliseconds several times a second, and a hundredth of all requests are then those that
/// this has hit, whatever they came through. Of most slices none are.
const SLICE: Duration = Duration::from_millis(100);

fn slices(answered: &[Answered]) -> Vec<Vec<f64>> {
    let mut slices: BTreeMap<u128, Vec<f64>> = BTreeMap::new();
    for Answered { due, took } in answered {
        slices.entry(due.as_nanos() / SLICE.as_nanos()).or_default().push(took.as_secs_f64() * 1e6);
    }
    let mut slices: Vec<Vec<f64>> = slices.into_values().collect();
    slices.iter_mut().for_each(|slice| slice.sort_by(f64::total_cmp));
    slices
}

/// Processor time at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) used: ThreadTimes,
}

impl Subject {
    pub(super) async fn start(
        project: &Project,
        variant: &Variant,
        answers: Answers<'_>,
        split: &Split,
    ) -> anyhow::Result<Self> {
        let folder = project.temporary_folder()?;
        let sink = Sink::start().await?;
        let bootstrap = logger::bootstrap(project, variant.logger, answers, sink.address())?;
        let binary = fetch::envoy(project, ENVOY_1_40)?;
        let launch = Launch { workers: 1, processor: Some(split.measured) };
        let envoy = Envoy::launch(&binary, &bootstrap, folder.path(), launch).await?;
        Ok(Self { variant: variant.clone(), envoy, sink, requests: 0, _folder: folder })
    }

    pub(super) async fn turn(
        &mut self,
        load: &H2load,
        per_second: u32,
        duration: Duration,
    ) -> anyhow::Result<()> {
        self.requests += load.turn(self.envoy.address(), per_second, duration).await?;
        self.sink.read();
        Ok(())
    }

    /// A turn of requests at random moments.
    pub(super) async fn paced_turn(
        &mut self,
        load: &Paced,
        per_second: u32,
        duration: Duration,
        seed: u64,
    ) -> anyhow::Result<PacedTurn> {
        let before = self.read()?;
        let (load, address) = (load.clone(), self.envoy.address());
        let turn = tokio::task::spawn_blocking(move || load.turn(address, per_second, duration, seed));
        let answered = turn.await.context("the load generator was aborted")??;
        let after = self.read()?;
        self.requests += answered.len() as u64;
        self.sink.read();
        let used_us = (after.used - before.used).total() as f64 / 1000.0;
        let lasted_us = duration.as_secs_f64() * 1e6;
        Ok(PacedTurn { slices: slices(&answered), used_us, lasted_us })
    }

    pub(super) fn read(&self) -> anyhow::Result<Reading> {
        Ok(Reading { at: Instant::now(), used: self.envoy.thread_times()? })
    }

    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.envoy.resident_bytes()
    }

    pub(super) fn arrived(&self) -> Arrived {
        self.sink.arrived()
    }

    /// Waits until everything has arrived that must, as far as the receiver can tell. Envoy is not asked: its answers would
    /// be counted as what logging costs.
    ///
    /// # Errors
    /// When it does not; the error says what is missing.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        let mut missing = None;
        let settled = wait::until("all records have arrived", async || {
            missing = self.missing()?;
            Ok(missing.is_none().then_some(()))
        });
        settled.await.with_context(|| format!("{}: {}", self.variant.name, missing.unwrap_or_default()))
    }

    /// What has not arrived yet; `None` when all has that must.
    fn missing(&self) -> anyhow::Result<Option<String>> {
        let arrived = self.sink.arrived();
        ensure!(arrived.malformed.is_empty(), "not understood: {:?}", arrived.malformed.first());
        let short = |what: &str, count: u64| {
            (count != self.requests).then(|| format!("{count} {what} of {}", self.requests))
        };
        let records = || short("records", arrived.records);
        let measured = || short("requests in histograms", arrived.measured());
        Ok(match (self.variant.logger, self.variant.logger.kept()) {
            (_, Some(Kept::Metrics | Kept::FivePercent)) => measured(),
            (_, Some(Kept::All)) => records().or_else(measured),
            (Logger::OtlpGrpc(_) | Logger::OtlpHttp | Logger::AccessLogService, None) => records(),
            (_, None) => None,
        })
    }

    /// Asks Envoy whether it agrees with the receiver.
    ///
    /// # Errors
    /// When records were dropped or are missing, or a probe's host calls failed: nothing that was measured counts then.
    pub(super) async fn audit(&self) -> anyhow::Result<()> {
        let name = &self.variant.name;
        let failed: u64 = self.envoy.stats(r"^wasmcustom\.probe_unexpected$").await?.values().sum();
        ensure!(failed == 0, "{name}: {failed} host calls failed");
        let Some(kept) = self.variant.logger.kept() else { return Ok(()) };
        // The last few records may be sent after the histograms of the same requests.
        let mut accounting = self.envoy.accounting().await?;
        let drained = wait::until("nothing is pending", async || {
            accounting = self.envoy.accounting().await?;
            Ok((accounting.pending == 0).then_some(()))
        });
        drained.await.with_context(|| format!("{name}: the plugin says {accounting:?}"))?;
        let captured = if kept == Kept::Metrics { 0 } else { self.requests };
        ensure!(
            accounting.captured == captured
                && accounting.dropped_total() == 0
                && accounting.balances()
                && accounting.delivered == self.sink.arrived().records,
            "{name}: of {captured} records {} arrived, and the plugin says {accounting:?}",
            self.sink.arrived().records,
        );
        // One in twenty of the ordinary ones, and one in a hundred that fails: so many that chance moves it little.
        let kept_percent = accounting.delivered as f64 * 100.0 / self.requests.max(1) as f64;
        ensure!(
            kept != Kept::FivePercent || (5.0..7.0).contains(&kept_percent),
            "{name}: {kept_percent:.1} % of the requests were kept, expected are about 6"
        );
        Ok(())
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.envoy.stop().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_in_which_the_machine_stood_still_moves_no_quantile() {
        let answered: Vec<Answered> = (0..3000_u32)
            .map(|number| {
                let stood_still = (1000..2000).contains(&number);
                let took = Duration::from_micros(if stood_still { 9000 } else { u64::from(number % 100) });
                Answered { due: Duration::from_micros(100) * number, took }
            })
            .collect();
        let turn = PacedTurn { slices: slices(&answered), ..PacedTurn::default() };
        assert_eq!((turn.slices.len(), turn.requests()), (3, 3000));
        assert_eq!(turn.quantile_us(1.0), Some(99.0));
    }
}
