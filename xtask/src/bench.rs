//! `cargo xtask bench`: what the parts cost, measured.

pub mod instructions;
mod native;

use crate::project::Project;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// The plugin's parts and the collector's, natively, each beside what a user would otherwise pick (criterion)
    Native(native::Options),
    /// Instructions of the plugin's hot path (callgrind), compared with the committed figures
    Instructions(instructions::Options),
}

/// Runs one of them.
///
/// # Errors
/// When it cannot be run, or when it finds what must not be.
pub fn run(project: &Project, bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Native(options) => native::run(project, options),
        Bench::Instructions(options) => instructions::run(project, *options),
    }
}
