//! `cargo xtask`: everything that a person or CI runs. Each command says what is missing, and how to get it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{artefacts, bench, check, demo, faults, incident, project::Project, soak};

/// Builds, shows and tests offpath.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what the parts cost
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the plugin (target/offpath.wasm) and the collector (target/release/offpath-collector)
    Build,
    /// Run it all on this machine: an application, Envoy with the plugin, the collector, and traffic
    Demo(demo::Options),
    /// Show what becomes of records under each fault, in real Envoy, beside Envoy's own OTLP logger
    Faults(faults::Options),
    /// Repeat the incident that offpath grew from, before and after its fix, and with offpath
    Incident(incident::Options),
    /// Run for long with faults chosen at random: everything accounted for, memory flat
    Soak(soak::Options),
    /// Run all checks and tests, as CI does
    Test(check::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let project = Project::locate()?;
    match command {
        Command::Bench(which) => bench::run(&project, &which),
        Command::Build => {
            artefacts::build(&project)?;
            println!("{}", artefacts::describe(&project)?);
            Ok(())
        }
        Command::Demo(options) => demo::run(&project, options),
        Command::Faults(options) => faults::run(&project, &options),
        Command::Incident(options) => incident::run(&project, &options).map(drop),
        Command::Soak(options) => soak::run(&project, options),
        Command::Test(options) => check::run(&project, options),
    }
}
