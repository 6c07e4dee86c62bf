//! `cargo xtask bench probes`: what a host call costs inside Envoy. One Envoy with one worker has a listener for each
//! variant, with a virtual machine of its own; turns are short and shuffled, and what a turn has cost is the worker's
//! processor time, less that of a listener without a logger in the same round. A second Envoy has the same probes with a
//! stopwatch in them: what the calls alone take, by the clock, call by call.

mod fields;
mod stand;
mod variant;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::{
    artefacts,
    bench::{
        probes::{
            stand::Stand,
            variant::{BASELINES, EMPTY, Variant},
        },
        statistics::Summary,
        table,
        traffic::{self, Load},
    },
    harness::cpu::Split,
    need::{self, Need},
    project::Project,
};

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    load: Load,
    /// How long a turn is
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60000))]
    turn_ms: u64,
    /// Only the variants with one of these in their names (and those without a logger)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Also write the rows to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    variant: String,
    /// Microseconds of the worker's time per request, over no logger.
    delta_us: Summary,
    /// Microseconds that the calls take by the clock, without that of two readings of the clock.
    calls_us: Option<Summary>,
}

/// What all rounds have told.
#[derive(Clone, Debug, Serialize)]
struct Report {
    rounds: u32,
    requests_per_turn: u64,
    requests_per_second: u32,
    /// Microseconds of the worker's time per request without a logger.
    baseline_us: Summary,
    /// The same without a logger, less the same without a logger: what is no difference at all.
    noise_us: Summary,
    rows: Vec<Row>,
}

/// Measures, and prints the table.
///
/// # Errors
/// When something is missing or does not start, or a probe's calls did not end as they should.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    need::tools(&[Need::Pip, Need::Setpriv, Need::Taskset, Need::H2load])?;
    artefacts::build_probes(project)?;
    let split = Split::of_this_machine()?;
    split.leave_measured()?;
    let variants: Vec<Variant> =
        variant::all().into_iter().filter(|variant| options.wants(variant)).collect();
    ensure!(
        variants.len() > BASELINES.len() + 1,
        "no variant has `{}` in its name",
        options.only.join("`, `")
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let measured = runtime.block_on(measure(project, options, &variants, &split))?;
    let report = Report::new(options, &variants, &measured)?;
    print!("{}", report.to_markdown());
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
        fs::write(file, json).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}

impl Options {
    fn wants(&self, variant: &Variant) -> bool {
        self.only.is_empty()
            || BASELINES.contains(&variant.name.as_str())
            || variant.name == EMPTY
            || self.only.iter().any(|part| variant.name.contains(part.as_str()))
    }

    fn turn(&self) -> Duration {
        Duration::from_millis(self.turn_ms)
    }
}

/// What is told by each variant, in their order.
struct Measured {
    /// Microseconds of the worker's time per request, by round.
    rounds: Vec<Vec<f64>>,
    /// Microseconds by the clock.
    by_clock: Vec<Option<Summary>>,
}

async fn measure(
    project: &Project,
    options: &Options,
    variants: &[Variant],
    split: &Split,
) -> anyhow::Result<Measured> {
    let mut plain = Stand::start(project, variants, split, false).await?;
    let mut clocked = Stand::start(project, variants, split, true).await?;
    let mut rounds = Vec::new();
    // The first round warms up: code is compiled, pages are touched.
    for round in 0..=options.load.rounds {
        eprint!("\rround {round} of {}", options.load.rounds);
        let mut of_round = vec![0.0; variants.len()];
        for index in traffic::order(variants.len(), round.into()) {
            let micros = plain.turn(index, options.load.rate, options.turn()).await?;
            clocked.turn(index, options.load.rate, options.turn() / 2).await?;
            if round == 0 {
                let name = variants.get(index).map(|variant| variant.name.clone());
                plain.check().await.with_context(|| name.unwrap_or_default())?;
            }
            if let Some(place) = of_round.get_mut(index) {
                *place = micros;
            }
        }
        if round > 0 {
            rounds.push(of_round);
        }
    }
    eprintln!();
    plain.end().await?;
    Ok(Measured { rounds, by_clock: clocked.end().await? })
}

impl Report {
    fn new(options: &Options, variants: &[Variant], measured: &Measured) -> anyhow::Result<Self> {
        let of = |value: &dyn Fn(&[f64]) -> Option<f64>| {
            Summary::of(measured.rounds.iter().filter_map(|round| value(round)))
                .context("nothing was measured")
        };
        let empty = variants.iter().position(|variant| variant.name == EMPTY);
        let clock_us = empty.and_then(|empty| measured.by_clock.get(empty).copied().flatten());
        let mut rows = Vec::new();
        for (index, variant) in variants.iter().enumerate().skip(BASELINES.len()) {
            let delta_us = of(&|round| Some(round.get(index)? - baseline(round)?))?;
            let by_clock = measured.by_clock.get(index).copied().flatten();
            let calls_us = by_clock.zip(clock_us).map(|(calls, clock)| calls.less(clock.median));
            rows.push(Row { variant: variant.name.clone(), delta_us, calls_us });
        }
        Ok(Self {
            rounds: options.load.rounds,
            requests_per_turn: u64::from(options.load.rate) * options.turn_ms / 1000,
            requests_per_second: options.load.rate,
            baseline_us: of(&baseline)?,
            noise_us: of(&|round| Some(round.get(1)? - round.first()?))?,
            rows,
        })
    }

    fn to_markdown(&self) -> String {
        let cells = |summary: &Summary| {
            let Summary { first_quartile, median, third_quartile } = summary;
            [table::number(*median), format!("{first_quartile:.2} to {third_quartile:.2}")]
        };
        let rows = self.rows.iter().map(|row| {
            let calls = row.calls_us.as_ref().map(cells).unwrap_or_default();
            [vec![row.variant.clone()], calls.into(), cells(&row.delta_us).into()].concat()
        });
        format!(
            "{} rounds of {} requests at {}/s. Without a logger the worker takes {:.1} µs per request; the difference between \
             two listeners without a logger is {:.2} µs ({:.2} to {:.2}).\n\n{}",
            self.rounds,
            self.requests_per_turn,
            self.requests_per_second,
            self.baseline_us.median,
            self.noise_us.median,
            self.noise_us.first_quartile,
            self.noise_us.third_quartile,
            table::render(
                &["host calls for each request", "calls µs", "middle half", "request Δ µs", "middle half"],
                rows
            ),
        )
    }
}

/// The mean of the two variants without a logger, which come first.
fn baseline(round: &[f64]) -> Option<f64> {
    let pair = round.get(..BASELINES.len())?;
    Some(pair.iter().sum::<f64>() / pair.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_what_rounds_differ_from_their_own_baseline() {
        let options =
            Options { load: Load { rounds: 3, rate: 1000 }, turn_ms: 100, only: Vec::new(), json: None };
        let variants: Vec<Variant> = variant::all().into_iter().take(4).collect();
        // The machine is slower in each round, and the variant costs 5 more in all of them.
        let rounds =
            [[10.0, 12.0, 11.5, 16.0], [20.0, 22.0, 21.5, 26.0], [30.0, 32.0, 31.5, 36.0]].map(Vec::from);
        let clock = |median| Summary { first_quartile: 1.0, median, third_quartile: 9.0 };
        let measured = Measured {
            rounds: rounds.into(),
            by_clock: vec![None, None, Some(clock(3.0)), Some(clock(7.0))],
        };
        let report = Report::new(&options, &variants, &measured).unwrap();
        assert_eq!(report.rows.len(), 2);
        assert_eq!(report.rows[1].delta_us.median, 5.0);
        assert_eq!(report.rows[1].calls_us.unwrap().median, 4.0);
        assert_eq!(report.noise_us.median, 2.0);
        assert_eq!(report.baseline_us.median, 21.0);
        assert_eq!(report.requests_per_turn, 100);
    }
}
