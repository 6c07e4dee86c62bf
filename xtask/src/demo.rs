//! `cargo xtask demo`: everything on this machine, from a request to the page that shows it. With `--once` it is also the
//! shortest proof that nothing is lost: it ends with success only if each request is in the database, once.

mod live;
mod once;
mod stage;
mod traffic;

use std::{io, io::IsTerminal as _};

use anyhow::{Context as _, bail};

use crate::{
    artefacts,
    demo::stage::Stage,
    fetch,
    harness::interrupt,
    need::{self, Need},
    project::Project,
};

/// What to do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// End by itself, with status 0 only if every request is in the database
    #[arg(long)]
    once: bool,
    /// How many requests to send with --once
    #[arg(long, default_value_t = 1000, requires = "once", value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
}

/// Builds and fetches what is missing, and runs until it is interrupted or done.
///
/// # Errors
/// When something is missing, does not start, or (`--once`) a request is not in the database.
pub fn run(project: &Project, options: Options) -> anyhow::Result<()> {
    // What can be missing comes before what takes long.
    need::tools(&[Need::Pip, Need::CCompiler, Need::Setpriv])?;
    need::wasm_target()?;
    let envoy = fetch::envoy(project, fetch::ENVOY_1_40)?;
    eprintln!("building the plugin and the collector");
    artefacts::build(project)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let stopped = interrupt::signal()?;
        let stage = Stage::set(project, &envoy).await?;
        let played = tokio::select! {
            played = play(&stage, options) => played,
            () = stopped => interrupted(options),
        };
        if played.is_err() {
            stage.explain();
        }
        let cleared = stage.clear().await;
        played.and(cleared)
    })
}

/// Nothing is amiss when the demo is ended that way, but `--once` has not shown what it is for.
fn interrupted(options: Options) -> anyhow::Result<()> {
    if options.once {
        bail!("interrupted before all {} requests were stored", options.requests);
    }
    Ok(())
}

async fn play(stage: &Stage, options: Options) -> anyhow::Result<()> {
    println!("{}", stage.where_to_look());
    if options.once {
        once::run(stage, options.requests).await
    } else {
        live::run(stage, io::stdout().is_terminal()).await
    }
}
