//! `cargo xtask bench envoy`: the plugin beside Envoy's own loggers. Each variant is an Envoy of its own with one worker;
//! all are up at once, on a processor that nothing else of this is on, and get short turns at a fixed rate, in another
//! order in each round.
//!
//! What a variant has used is read at the end of each round, of all its threads, so that what it does between its turns
//! counts: records are sent then. What it uses without any traffic is measured before, and taken off for the time that was
//! not its turn. The difference to the same reading of the two variants without a logger is what logging costs.

mod logger;
mod plot;
mod report;
mod subject;
mod variant;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use tokio::time::sleep;

use crate::{
    artefacts,
    bench::{
        envoy::{
            logger::Answers,
            report::{Measured, Report, Usage},
            subject::{PacedTurn, Reading, Subject},
            variant::{BASELINES, Variant},
        },
        traffic::{self, Load},
    },
    fetch,
    harness::{cpu::Split, h2load::H2load, paced::Paced, upstream::Upstream},
    need::{self, Need},
    project::Project,
};

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    load: Load,
    /// How long a turn is
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60000))]
    turn_ms: u64,
    /// How long all stand idle before, to see what they use without traffic
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
    /// How many rounds follow at half load, for latencies
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=1000))]
    latency_rounds: u32,
    /// How long their turns are; batches are sealed after a second
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(20..=60000))]
    latency_turn_ms: u64,
    /// Let an application behind Envoy answer, instead of Envoy itself
    #[arg(long)]
    upstream: bool,
    /// Only the variants with one of these in their names (and those without a logger)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Also write everything to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also draw the costs
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// Measures, and prints the tables.
///
/// # Errors
/// When something is missing or does not start, or records of a variant did not arrive, which makes all of it void.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    need::tools(&[Need::Pip, Need::Setpriv, Need::Taskset, Need::H2load])?;
    fetch::envoy(project, fetch::ENVOY_1_40)?;
    artefacts::build_plugin(project)?;
    artefacts::build_dynamic_module(project)?;
    artefacts::build_capturing_dynamic_module(project)?;
    artefacts::build_probes(project)?;
    let split = Split::of_this_machine()?;
    split.leave_measured()?;
    let variants: Vec<Variant> = variant::all()
        .into_iter()
        .enumerate()
        .filter(|(index, variant)| *index < BASELINES || options.wants(variant))
        .map(|(_, variant)| variant)
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let measured = runtime.block_on(measure(project, options, &variants, &split))?;
    let module_bytes = fs::metadata(project.plugin()).context("cannot read the plugin")?.len();
    let report = Report::new(options, &measured, module_bytes)?;
    print!("{}", report.to_markdown());
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
        fs::write(file, json).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    if let Some(file) = &options.svg {
        fs::write(file, plot::svg(&report)?).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}

impl Options {
    fn wants(&self, variant: &Variant) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| variant.name.contains(part.as_str()))
    }

    fn turn(&self) -> Duration {
        Duration::from_millis(self.turn_ms)
    }
}

async fn measure(
    project: &Project,
    options: &Options,
    variants: &[Variant],
    split: &Split,
) -> anyhow::Result<Measured> {
    let upstream = Upstream::start().await?;
    let answers = if options.upstream { Answers::Upstream(&upstream) } else { Answers::Directly };
    let mut bench = Bench { subjects: Vec::new(), load: None, options, idle: Vec::new() };
    for variant in variants {
        eprintln!("starting {}", variant.name);
        let subject = Subject::start(project, variant, answers, split).await;
        bench.subjects.push(subject.with_context(|| variant.name.clone())?);
    }
    let folder = project.temporary_folder()?;
    bench.load = Some(traffic::generator(folder.path())?);

    bench.round(0, options.load.rate).await?;
    bench.settle().await?;
    bench.watch_idle().await?;
    let (rounds, whole) = bench.rounds().await?;
    let (latency_rate, latencies) = bench.latencies().await?;
    bench.settle().await?;
    for subject in &bench.subjects {
        subject.audit().await?;
    }
    let resident_bytes: Vec<u64> =
        bench.subjects.iter().map(Subject::resident_bytes).collect::<Result<_, _>>()?;
    let arrived = bench.subjects.iter().map(Subject::arrived).collect();
    for subject in bench.subjects {
        subject.stop().await?;
    }
    let variants = variants.to_vec();
    Ok(Measured { variants, rounds, whole, latency_rate, latencies, resident_bytes, arrived })
}

/// All Envoys, up at once.
struct Bench<'o> {
    subjects: Vec<Subject>,
    load: Option<H2load>,
    options: &'o Options,
    /// By variant: what it uses without traffic, per second.
    idle: Vec<Usage>,
}

impl Bench<'_> {
    /// Each variant has a turn.
    async fn round(&mut self, round: u32, rate: u32) -> anyhow::Result<()> {
        let load = self.load.as_ref().context("there is no load generator")?;
        for index in traffic::order(self.subjects.len(), round.into()) {
            if let Some(subject) = self.subjects.get_mut(index) {
                subject
                    .turn(load, rate, self.options.turn())
                    .await
                    .with_context(|| subject.variant.name.clone())?;
            }
        }
        Ok(())
    }

    async fn settle(&self) -> anyhow::Result<()> {
        try_join_all(self.subjects.iter().map(Subject::settle)).await?;
        Ok(())
    }

    fn read(&self) -> anyhow::Result<Vec<Reading>> {
        self.subjects.iter().map(Subject::read).collect()
    }

    async fn watch_idle(&mut self) -> anyhow::Result<()> {
        eprintln!("idle for {} s", self.options.idle_seconds);
        let before = self.read()?;
        sleep(Duration::from_secs(self.options.idle_seconds)).await;
        let after = self.read()?;
        self.idle = before
            .iter()
            .zip(&after)
            .map(|(before, after)| {
                Usage::from(after.used - before.used).scaled(1.0 / (after.at - before.at).as_secs_f64())
            })
            .collect();
        Ok(())
    }

    /// By round and variant, and of all rounds with what was sent after the last one by variant: microseconds per request.
    async fn rounds(&mut self) -> anyhow::Result<(Vec<Vec<Usage>>, Vec<Usage>)> {
        let begin = self.read()?;
        let mut before = begin.clone();
        let mut rounds = Vec::new();
        for round in 1..=self.options.load.rounds {
            eprint!("\rround {round} of {}", self.options.load.rounds);
            self.round(round, self.options.load.rate).await?;
            let after = self.read()?;
            rounds.push(self.per_request(&before, &after, 1));
            before = after;
        }
        eprintln!();
        self.settle().await?;
        let whole = self.per_request(&begin, &self.read()?, self.options.load.rounds);
        Ok((rounds, whole))
    }

    /// What was used between two readings with so many turns in between, without what is used without traffic.
    fn per_request(&self, before: &[Reading], after: &[Reading], turns: u32) -> Vec<Usage> {
        let turn = self.options.turn() * turns;
        let requests = f64::from(self.options.load.rate) * turn.as_secs_f64();
        let between = before.iter().zip(after).zip(&self.idle);
        between
            .map(|((before, after), idle)| {
                let without_traffic = (after.at - before.at).saturating_sub(turn).as_secs_f64();
                let used = Usage::from(after.used - before.used);
                used.less(idle.scaled(without_traffic)).scaled(1.0 / requests)
            })
            .collect()
    }

    /// The rate; by round and variant: what was seen at it.
    async fn latencies(&mut self) -> anyhow::Result<(u32, Vec<Vec<PacedTurn>>)> {
        let load = traffic::paced();
        let turn = Duration::from_millis(self.options.latency_turn_ms);
        let rate = if self.options.latency_rounds > 0 { self.half_load(&load, turn).await? } else { 0 };
        let mut rounds = Vec::new();
        for round in 0..self.options.latency_rounds {
            eprint!("\rround {} of {} at {rate}/s", round + 1, self.options.latency_rounds);
            let mut of_round = vec![PacedTurn::default(); self.subjects.len()];
            for index in traffic::order(self.subjects.len(), round.into()) {
                if let (Some(subject), Some(place)) = (self.subjects.get_mut(index), of_round.get_mut(index))
                {
                    // All variants get the same moments in a round.
                    let measured = subject.paced_turn(&load, rate, turn, round.into()).await;
                    *place = measured.with_context(|| subject.variant.name.clone())?;
                }
            }
            rounds.push(of_round);
        }
        eprintln!();
        Ok((rate, rounds))
    }

    /// Requests per second at which an Envoy without a logger is busy half of the time. Those that come one by one take more of it
    /// than those that come in bunches.
    async fn half_load(&mut self, load: &Paced, turn: Duration) -> anyhow::Result<u32> {
        let plain = self.subjects.first_mut().context("there are no variants")?;
        // Twice, for the rate has a say in what a request takes.
        let mut rate = CALIBRATION_RATE;
        for _ in 0..2 {
            let seen = plain.paced_turn(load, rate, turn, 0).await?;
            rate = half_load(seen.us_per_request());
        }
        Ok(rate)
    }
}

/// For seeing what a request takes of a worker that is not busy with others.
const CALIBRATION_RATE: u32 = 2000;

/// The load generator has the other processor; beyond this it might be what is measured.
const MAX_LATENCY_RATE: f64 = 8000.0;

fn half_load(us_per_request: f64) -> u32 {
    let rate = (0.5e6 / us_per_request.max(1.0)).min(MAX_LATENCY_RATE);
    (rate / 100.0) as u32 * 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_load_keeps_a_worker_busy_half_of_the_time() {
        assert_eq!(half_load(100.0), 5000);
        assert_eq!(half_load(10.0), 8000);
    }
}
