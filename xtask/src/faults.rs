//! `cargo xtask faults`: what becomes of records when the collector, the network or the proxy fails, in real Envoy under
//! steady load. For each fault, one Envoy has the plugin and another one Envoy's own OTLP/HTTP logger; a row says what was
//! captured, and where each record went.

pub mod fault;
pub mod row;
pub mod stand;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    artefacts,
    faults::{
        fault::{Fault, Treatment, common_keys},
        row::{Native, Row},
        stand::{Ending, Logger, Stand},
    },
    fetch,
    harness::bootstrap::Mode,
    need::{self, Need},
    project::Project,
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long each fault lasts (the collector is down for three times as long)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Requests per second, to each Envoy
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Only the faults with this in their name
    #[arg(long, default_value = "")]
    only: String,
    /// Also write the rows to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 10, rate: 200, only: String::new(), json: None }
    }
}

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Nothing is wrong yet.
    pub before: Duration,
    /// The fault.
    pub during: Duration,
    /// Nothing is wrong any more, and the load goes on.
    pub after: Duration,
    /// Requests per second.
    pub rate: u32,
}

/// Runs the faults one after the other.
///
/// # Errors
/// When something is missing, does not start, or a row is not exact.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    prepare(project)?;
    let timing = Timing {
        before: Duration::from_secs(3),
        during: Duration::from_secs(options.seconds.into()),
        after: Duration::from_secs(5),
        rate: options.rate,
    };
    let chosen: Vec<Fault> =
        fault::all().into_iter().filter(|fault| fault.name.contains(&options.only)).collect();
    ensure!(!chosen.is_empty(), "no fault has `{}` in its name", options.only);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let rows = runtime.block_on(async {
        let mut rows = Vec::new();
        for (number, fault) in chosen.iter().enumerate() {
            eprintln!("{} of {}: {}", number + 1, chosen.len(), fault.name);
            let row = show(project, fault, timing, true).await.with_context(|| fault.name.to_owned())?;
            eprintln!("{}\n{}", Row::header(), row.line());
            rows.push(row);
        }
        anyhow::Ok(rows)
    })?;

    println!("\n{}", Row::header());
    for row in &rows {
        println!("{}", row.line());
    }
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&rows).context("cannot write JSON")?;
        fs::write(file, json).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    let broken: Vec<&str> = rows.iter().filter(|row| !row.breaches.is_empty()).map(|row| row.fault).collect();
    ensure!(broken.is_empty(), "not exact: {}", broken.join(", "));
    println!("every record is accounted for in each of the {} rows", rows.len());
    Ok(())
}

/// Builds and fetches what the faults are shown with.
///
/// # Errors
/// When something is missing, or a build fails.
pub fn prepare(project: &Project) -> anyhow::Result<()> {
    need::tools(&[Need::Pip, Need::Setpriv])?;
    need::wasm_target()?;
    fetch::envoy(project, fetch::ENVOY_1_40)?;
    eprintln!("building the plugin and the dynamic module, and both once more with a trap in them");
    artefacts::build_plugin(project)?;
    artefacts::build_trapping_plugin(project)?;
    artefacts::build_dynamic_module(project)?;
    artefacts::build_panicking_dynamic_module(project)
}

/// One fault, with the plugin and, if wanted, at the same time with Envoy's own logger. What it needs is [prepared](prepare).
///
/// # Errors
/// When something does not start, or Envoy ends.
pub async fn show(
    project: &Project,
    fault: &Fault,
    timing: Timing,
    with_native: bool,
) -> anyhow::Result<Row> {
    let traps = fault.treatment == Treatment::Trap;
    let module = match (fault.mode, traps) {
        (Mode::DynamicModule, true) => project.panicking_dynamic_module(),
        (Mode::DynamicModule, false) => project.dynamic_module(),
        (_, true) => project.trapping_plugin(),
        (_, false) => project.plugin(),
    };
    let plugin = Logger::Plugin(fault.mode, [common_keys(), fault.keys.clone()].concat(), module);
    let plugin = play(project, &plugin, fault, timing);
    // A native logger has nothing that could trap.
    let ((resident_bytes, ending), native) = if with_native && !traps {
        let native = play(project, &Logger::Native, fault, timing);
        let (plugin, (_, native)) = tokio::try_join!(plugin, native)?;
        (plugin, Some(Native::new(&native)))
    } else {
        (plugin.await?, None)
    };
    Ok(Row::new(fault, resident_bytes, &ending, native))
}

async fn play(
    project: &Project,
    logger: &Logger,
    fault: &Fault,
    timing: Timing,
) -> anyhow::Result<(u64, Ending)> {
    let mut stand = Stand::start(project, logger, timing.rate).await?;
    stand.watch(timing.before).await?;
    let resident_bytes = stand.resident_bytes()?;
    stand.treat(fault.treatment, timing.during * fault.times_longer).await?;
    stand.watch(timing.after).await?;
    Ok((resident_bytes, stand.end().await?))
}
