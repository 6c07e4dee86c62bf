//! `cargo xtask soak`: one Envoy with the plugin under steady load for long, with faults chosen at random. At the end every
//! record is accounted for, and Envoy's memory is what it was near the beginning.

mod memory;

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    faults::{
        self,
        fault::{Fault, Treatment, common_keys},
        row::Row,
        stand::{Logger, Stand},
    },
    harness::{bootstrap::Mode, receiver::Behaviour},
    project::Project,
    soak::memory::{Memory, Sample},
};

/// How often a line is printed and memory is noted.
const INTERVAL: Duration = Duration::from_secs(10);

/// Enough for a fault of some seconds, so that the queue overflows only in long ones.
const QUEUE_BYTES: u64 = 512 << 10;

/// What to do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
    /// Chooses the faults; by default another one each time, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Requests per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { minutes: 10, seed: None, rate: 200 }
    }
}

/// Runs for as long as it is told.
///
/// # Errors
/// When something is missing or ends, a request is not answered, a record is not accounted for, or memory grows.
pub fn run(project: &Project, options: Options) -> anyhow::Result<()> {
    faults::prepare(project)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{} min at {} requests/s; the same faults again: --seed {seed}", options.minutes, options.rate);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let (row, memory) = runtime.block_on(soak(project, options, Rng::with_seed(seed)))?;

    let plot = project.target().join("soak-memory.svg");
    fs::write(&plot, memory.svg()).with_context(|| format!("cannot write `{}`", plot.display()))?;
    println!("\n{}\n{}", Row::header(), row.line());
    println!("{}; plotted in {}", memory.verdict()?, plot.display());
    ensure!(row.breaches.is_empty(), "not exact: {}", row.breaches.join("; "));
    println!("every record is accounted for");
    Ok(())
}

async fn soak(project: &Project, options: Options, mut random: Rng) -> anyhow::Result<(Row, Memory)> {
    let keys = [common_keys(), vec![("queue.max_bytes", json!(QUEUE_BYTES))]].concat();
    let logger = Logger::Plugin(Mode::AccessLogger, keys, project.trapping_plugin());
    let mut stand = Stand::start(project, &logger, options.rate).await?;
    let begin = Instant::now();
    let duration = Duration::from_secs(60) * options.minutes;
    let mut memory = Memory::default();
    stand.watch(Duration::from_secs(3)).await?;
    let resident_bytes = stand.resident_bytes()?;
    while begin.elapsed() < duration {
        let treatment = choose(&mut random);
        let bad = Duration::from_millis(random.u64(1000..6000));
        let good = Duration::from_millis(random.u64(500..4000));
        println!("{:>6.1} s  for {:.1} s: {treatment:?}", begin.elapsed().as_secs_f64(), bad.as_secs_f64());
        stand.treat(treatment, bad).await?;
        stand.watch(good).await?;
        if begin.elapsed() >= INTERVAL * (memory.len() + 1) {
            memory.note(sample(&stand, begin).await?);
        }
    }
    let ending = stand.end().await?;
    Ok((Row::new(&anything(), resident_bytes, &ending, None), memory))
}

/// Notes where things stand, and prints it.
async fn sample(stand: &Stand, begin: Instant) -> anyhow::Result<Sample> {
    let accounting = stand.accounting().await?;
    let sample = Sample { seconds: begin.elapsed().as_secs_f64(), resident_bytes: stand.resident_bytes()? };
    println!(
        "{:>6.1} s  requests {}, captured {}, delivered {}, dropped {} {:?}, pending {}, Envoy {:.1} MiB",
        sample.seconds,
        stand.sent(),
        accounting.captured,
        accounting.delivered,
        accounting.dropped_total(),
        accounting.dropped,
        accounting.pending,
        sample.mebibytes(),
    );
    Ok(sample)
}

fn choose(random: &mut Rng) -> Treatment {
    use Behaviour::{Answer, AskForPause, Delay, Hang, Reset, ResetWithinAnswer, TakeInPart};
    use hyper::StatusCode;
    let treatments = [
        Treatment::Down,
        Treatment::UpdateListener(Behaviour::HEALTHY),
        Treatment::Trap,
        Treatment::Receiver(Behaviour::HEALTHY),
        Treatment::Receiver(AskForPause(StatusCode::SERVICE_UNAVAILABLE, 1)),
        Treatment::Receiver(Answer(StatusCode::SERVICE_UNAVAILABLE)),
        Treatment::Receiver(Answer(StatusCode::TOO_MANY_REQUESTS)),
        Treatment::Receiver(Answer(StatusCode::BAD_REQUEST)),
        Treatment::Receiver(Answer(StatusCode::INTERNAL_SERVER_ERROR)),
        Treatment::Receiver(TakeInPart),
        Treatment::Receiver(Delay(Duration::from_millis(500))),
        Treatment::Receiver(Hang),
        Treatment::Receiver(Reset),
        Treatment::Receiver(ResetWithinAnswer),
    ];
    random.choice(treatments).unwrap_or(Treatment::Down)
}

/// What all of them together may do.
fn anything() -> Fault {
    Fault {
        mode: Mode::AccessLogger,
        name: "soak",
        treatment: Treatment::Trap,
        times_longer: 1,
        keys: Vec::new(),
        may_drop: &["rejected", "queue_full", "vm_lost"],
    }
}
