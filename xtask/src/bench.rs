//! `cargo xtask bench`: what things cost. `probes` prices single host calls inside a real Envoy with a module that makes
//! nothing else; `envoy` sets the plugin beside Envoy's own loggers. Both tell processor time per request, less that of
//! the same Envoy without a logger, from short shuffled turns, so that a busy machine disturbs all variants alike.
//! `native`, `memory` and `instructions` measure the parts outside any proxy.

pub mod envoy;
pub mod instructions;
mod native;
pub mod probes;
pub mod statistics;
pub mod table;
pub mod traffic;

use crate::project::Project;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// What the plugin costs beside Envoy's own loggers
    Envoy(envoy::Options),
    /// What a host call costs inside Envoy
    Probes(probes::Options),
    /// The plugin's parts and the collector's, natively, each beside what a user would otherwise pick (criterion)
    Native(native::Options),
    /// The linear memory of the plugin over ten million requests
    Memory,
    /// Instructions of the plugin's hot path (callgrind), compared with the committed figures
    Instructions(instructions::Options),
}

/// Measures it.
///
/// # Errors
/// When something is missing or does not start, a measurement is void, or it finds what must not be.
pub fn run(project: &Project, bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Envoy(options) => envoy::run(project, options),
        Bench::Probes(options) => probes::run(project, options),
        Bench::Native(options) => native::run(project, options),
        Bench::Memory => native::memory(project),
        Bench::Instructions(options) => instructions::run(project, *options),
    }
}
