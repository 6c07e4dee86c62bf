//! `cargo xtask bench`: what things cost inside a real Envoy. `probes` prices single host calls with a module that makes
//! nothing else; `envoy` sets the plugin beside Envoy's own loggers. Both tell processor time per request, less that of
//! the same Envoy without a logger, from short shuffled turns, so that a busy machine disturbs all variants alike.

pub mod envoy;
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
}

/// Measures it.
///
/// # Errors
/// When something is missing or does not start, or a measurement is void.
pub fn run(project: &Project, bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Envoy(options) => envoy::run(project, options),
        Bench::Probes(options) => probes::run(project, options),
    }
}
