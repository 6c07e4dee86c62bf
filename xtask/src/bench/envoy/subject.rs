//! One Envoy that is measured, with its own receiver: what it was sent, what it has used, and whether its records arrived.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    logger::{self, Answers, Kept, Logger},
    variant::Variant,
};
use crate::{
    fetch::{self, ENVOY_1_40},
    harness::{
        cpu::{Split, ThreadTimes},
        envoy::{Envoy, Launch},
        h2load::{H2load, Turn},
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
        latencies: Option<&Path>,
    ) -> anyhow::Result<Turn> {
        let turn = load.turn(self.envoy.address(), per_second, duration, latencies).await?;
        self.requests += turn.requests;
        self.sink.read();
        Ok(turn)
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
        Ok(match self.variant.logger {
            Logger::Nobody | Logger::File | Logger::Empty(_) | Logger::Capture(..) => None,
            Logger::OtlpGrpc | Logger::OtlpHttp | Logger::AccessLogService => {
                short("records", arrived.records)
            }
            // Histograms are sent less often than records, so these are there by then.
            Logger::Offpath(_, Kept::Metrics | Kept::FivePercent) => {
                short("requests in histograms", arrived.measured())
            }
            Logger::Offpath(_, Kept::All) => short("records", arrived.records)
                .or_else(|| short("requests in histograms", arrived.measured())),
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
        let Logger::Offpath(_, kept) = self.variant.logger else {
            return Ok(());
        };
        let accounting = self.envoy.accounting().await?;
        let captured = if kept == Kept::Metrics { 0 } else { self.requests };
        ensure!(
            accounting.captured == captured
                && accounting.pending == 0
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
