//! `cargo xtask test`: what is missing first, then every check and test, the quick ones early. CI runs nothing else.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{
    artefacts::{self, cargo, command},
    bench, faults, fetch,
    need::{self, Need, WASM_TARGET},
    project::Project,
    rules, soak,
};

/// What to run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Also what takes long: the faults in full, beside Envoy's own logger, and a soak of ten minutes
    #[arg(long)]
    long: bool,
}

type Step = (&'static str, fn(&Project) -> anyhow::Result<()>);

/// `--workspace` everywhere: with the same packages chosen, nothing is compiled twice for other features.
const STEPS: [Step; 10] = [
    ("what is missing", |project| {
        need::tools(&Need::OF_TESTS)?;
        need::wasm_target()?;
        for release in fetch::ENVOY_RELEASES {
            fetch::envoy(project, release)?;
        }
        fetch::otlp_decoder(project).map(drop)
    }),
    ("format", |project| cargo(project, &["fmt", "--all", "--check"])),
    ("architecture rules", rules::check),
    ("lints", |project| cargo(project, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("lints of the plugin's target", |project| {
        cargo(project, &["clippy", "-p", "offpath-filter", "--target", WASM_TARGET, "--", "-D", "warnings"])
    }),
    ("documentation", document),
    ("plugin and collector", |project| {
        artefacts::build(project)?;
        artefacts::build_trapping_plugin(project)
    }),
    ("instructions of the hot path", |project| {
        bench::instructions::run(project, bench::instructions::Options::default())
    }),
    ("compile the tests", |project| cargo(project, &["test", "--workspace", "--no-run"])),
    ("tests", test),
];

/// What a change need not wait for.
const LONG_STEPS: [Step; 2] = [
    ("faults", |project| faults::run(project, &faults::Options::default())),
    ("soak", |project| soak::run(project, soak::Options::default())),
];

/// Runs all steps.
///
/// # Errors
/// At the first step that fails.
pub fn run(project: &Project, options: Options) -> anyhow::Result<()> {
    let mut durations = Vec::new();
    let long = if options.long { LONG_STEPS.as_slice() } else { &[] };
    for (name, step) in STEPS.iter().chain(long) {
        eprintln!("\n==> {name}");
        let begin = Instant::now();
        step(project).with_context(|| format!("step `{name}` failed"))?;
        durations.push((name, begin.elapsed()));
    }
    eprintln!("\nall passed");
    for (name, duration) in &durations {
        eprintln!("{:>8.1} s  {name}", duration.as_secs_f64());
    }
    let total: Duration = durations.iter().map(|(_, duration)| *duration).sum();
    eprintln!("{:>8.1} s  together", total.as_secs_f64());
    Ok(())
}

/// Private items too: what the modules say about each other is the map of the code, and has to lead somewhere.
fn document(project: &Project) -> anyhow::Result<()> {
    artefacts::run(
        command(project, &["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// On the modules that the step before has built, wherever `CARGO_TARGET_DIR` has put them.
fn test(project: &Project) -> anyhow::Result<()> {
    artefacts::run(
        command(project, &["test", "--workspace"])
            .env("OFFPATH_WASM", project.plugin())
            .env("OFFPATH_TRAP_WASM", project.trapping_plugin()),
    )
}
