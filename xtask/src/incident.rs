//! `cargo xtask incident`: the incident that offpath grew from, its original fix, and logging at the edge, side by side in
//! front of the same small application, under the same load, with the same stalls of the database. A report, pictures and
//! the open questions answered come out.

pub mod convoy;
pub mod figures;
pub mod form;
pub mod lane;
pub mod load;
pub mod noise;
pub mod plot;
pub mod postgres;
pub mod questions;
pub mod records;
pub mod report;
pub mod stall;
pub mod vigil;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use tokio::time::sleep;

use crate::{
    artefacts, fetch,
    harness::interrupt,
    incident::{
        figures::Figures,
        form::{Form, ServiceTimes, Setup},
        lane::{Lane, Stand},
        load::{Load, Sample},
        noise::Noise,
        postgres::Postgres,
        questions::Question,
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
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the records of the closed loop may take to arrive, in all forms alike: longer than any has to take.
const CLOSED_SETTLE: Duration = Duration::from_secs(900);
/// How long all others may, in all forms alike. In-request could go on for hours there.
const SETTLE: Duration = Duration::from_secs(45);
/// How long those of an outage may, in all forms alike: what has piled up is written through stalls.
const OUTAGE_SETTLE: Duration = Duration::from_secs(240);
/// How often it is said which lanes are not done yet.
const REMINDER: Duration = Duration::from_secs(60);

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
    /// How many copies of no logging run beside each other: what they differ by is the noise
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
    /// The quick form: a tenth of the requests, short stalls, an open loop of 5 s; `parts` of it.
    #[must_use]
    pub fn quick(parts: &[Part], out: PathBuf) -> Self {
        Self {
            stall: Duration::from_millis(200),
            stall_probability: 0.03,
            requests: 300,
            users: 3,
            rate: 40,
            duration: Some(Duration::from_secs(5)),
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

    /// Short, so that at a hundred times the load few requests are at work at once: what is shown is the log.
    fn light(&self) -> ServiceTimes {
        ServiceTimes { median_ms: 10.0, mean_ms: 14.0, seed: self.seed }
    }

    fn open(&self, requests_per_second: u32, lasts: Duration, patience: Duration) -> Load {
        let requests = (lasts.as_secs_f64() * f64::from(requests_per_second)) as u64;
        Load::Open { requests_per_second, requests, patience }
    }

    fn stalls(&self) -> Stalls {
        Stalls { duration: self.stall, probability: self.stall_probability, seed: self.seed }
    }
}

/// Runs what is wanted. The report is written after each part, so that an interrupted run keeps what it has.
///
/// # Errors
/// When something is missing or does not start, when a form has not kept what it promises of its records, or when it is
/// interrupted.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<Report> {
    need::tools(&[Need::Pip, Need::CCompiler, Need::Setpriv, Need::PostgreSql])?;
    need::wasm_target()?;
    fetch::envoy(project, fetch::ENVOY_1_40)?;
    eprintln!("building the plugin, the collector and the application");
    artefacts::build(project)?;
    artefacts::build_incident(project)?;
    allow_many_connections()?;
    let out = options.out.clone().unwrap_or_else(|| project.target().join("incident"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let report = runtime.block_on(async {
        let interrupted = interrupt::signal()?;
        let postgres = Postgres::start(project).await?;
        let played = tokio::select! {
            played = play(project, options, &postgres, &out) => played,
            () = interrupted => Err(anyhow::anyhow!("interrupted; the parts that were over are in `{}`", out.display())),
        };
        let stopped = postgres.stop().await;
        let report = played?;
        stopped.map(|()| report)
    })?;
    println!("{}", report.markdown());
    eprintln!("written to `{}`", out.display());
    let broken = report.broken_promises();
    ensure!(broken.is_empty(), "not every record is where it was promised to be: {}", broken.join("; "));
    ensure!(report.unanswered.is_empty(), "unanswered: {}", report.unanswered.join("; "));
    Ok(report)
}

async fn play(
    project: &Project,
    options: &Options,
    postgres: &Postgres,
    out: &Path,
) -> anyhow::Result<Report> {
    let vigil = Vigil::start();
    let stand = Stand { project, postgres, stalls: options.stalls(), settle: SETTLE, begin: Instant::now() };
    let mut report = Report::new(options);
    if options.wants(Part::Closed) {
        stand.say(&format!("closed loop: {} users, {} requests", options.users, options.requests));
        let patient = Stand { settle: CLOSED_SETTLE, ..stand };
        report.closed = closed(patient, options).await.context("closed loop")?;
        report.closed_noise = Noise::of_edge(&report.closed, options.seed);
        report.part_is_over("closed loop", vigil.longest_ms(), out)?;
    }
    if options.wants(Part::Open) {
        let seconds = options.open_loop().as_secs();
        stand.say(&format!("open loop: {} requests/s for {seconds} s", options.rate));
        report.open = open(stand, options).await.context("open loop")?;
        report.open_noise = Noise::of_edge(&report.open, options.seed);
        report.part_is_over("open loop", vigil.longest_ms(), out)?;
    }
    for question in Question::ALL.into_iter().filter(|_| options.wants(Part::Questions)) {
        stand.say(question.name());
        match question.answer(stand, options).await.context(question.name()) {
            Ok(answers) => report.questions.extend(answers),
            // The others are asked all the same: each takes minutes.
            Err(error) => {
                stand.say(&format!("  unanswered: {error:#}"));
                report.unanswered.push(format!("{error:#}"));
            }
        }
        report.part_is_over(question.name(), vigil.longest_ms(), out)?;
    }
    stand.say("done");
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
    let setups = copies(options).chain([
        setup(Form::InRequest),
        setup(Form::ApplicationQueue),
        setup(Form::Edge),
        setup(Form::ApplicationQueue).per_row(),
        setup(Form::Edge).per_row(),
    ]);
    let short_tailed = [Form::NoLogging, Form::InRequest, Form::Edge].map(|form| {
        Setup::of(form, options.short_tailed()).named(&format!("{}, shorter service times", form.name()))
    });
    let requests_per_user = options.requests.div_ceil(options.users);
    let load = Load::Closed { users: options.users, requests_per_user };
    // All at the same time, but what is compared with no logging is compared with the same service times.
    let cases = setups.chain(short_tailed).map(|setup| (setup, load));
    side_by_side(stand, cases, async |lane: &mut Lane, load| lane.load(load)?.samples().await).await
}

async fn open(stand: Stand<'_>, options: &Options) -> anyhow::Result<Vec<Figures>> {
    let logging = [Form::InRequest, Form::ApplicationQueue, Form::Edge]
        .map(|form| Setup::of(form, options.service_times()));
    let load = options.open(options.rate, options.open_loop(), PATIENCE);
    let cases = copies(options).chain(logging).map(|setup| (setup, load));
    side_by_side(stand, cases, async |lane: &mut Lane, load| lane.load(load)?.samples().await).await
}

/// Starts all lanes, lets `play` have each at the same time, waits for their records, and counts convoys.
pub(crate) async fn side_by_side<T>(
    stand: Stand<'_>,
    cases: impl IntoIterator<Item = (Setup, T)>,
    play: impl AsyncFn(&mut Lane, T) -> anyhow::Result<Vec<Sample>>,
) -> anyhow::Result<Vec<Figures>> {
    let start = async |(setup, case)| anyhow::Ok((Lane::start(stand, setup).await?, case));
    let lanes = try_join_all(cases.into_iter().map(start)).await?;
    let names = lanes.iter().map(|(lane, _)| lane.setup().name.clone());
    let at_it = RefCell::new(names.collect::<BTreeSet<String>>());
    let (play, at_it) = (&play, &at_it);
    let mut all = pin!(try_join_all(lanes.into_iter().map(|(mut lane, case)| async move {
        let name = lane.setup().name.clone();
        let played = async {
            let samples = play(&mut lane, case).await?;
            let figures = lane.finish(samples).await?;
            at_it.borrow_mut().remove(&name);
            let Figures { ends, settled_after_seconds, .. } = &figures;
            stand.say(&format!(
                "  {name}: {} requests in {:.0} s, settled after {settled_after_seconds:.0} s",
                ends.requests, ends.total_seconds
            ));
            anyhow::Ok(figures)
        };
        played.await.with_context(|| name.clone())
    })));
    let mut figures = loop {
        tokio::select! {
            figures = &mut all => break figures?,
            () = sleep(REMINDER) => {
                let names: Vec<String> = at_it.borrow().iter().cloned().collect();
                stand.say(&format!("  still at it: {}", names.join("; ")));
            }
        }
    };
    convoy::count(&mut figures, stand.stalls.duration);
    Ok(figures)
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
        assert_eq!((quick.open_loop(), quick.outage()), (Duration::from_secs(5), Duration::from_secs(12)));
        let given = Options { duration: None, outage: Some(Duration::from_secs(3)), ..quick };
        assert_eq!((given.open_loop(), given.outage()), (Duration::from_secs(12), Duration::from_secs(3)));
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
