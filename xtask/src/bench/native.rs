//! `cargo xtask bench native`: the criterion benchmarks, and how each part compares with its peer on the same work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::artefacts::{self, command};
use crate::project::Project;

/// What is benchmarked is called so; all else in a group is a peer.
const OURS: &str = "offpath";

/// By group: ours divided by the peer must be at most the first, and is meant to be at most the second.
const TARGETS: [(&str, f64, f64); 2] =
    [("series of five attributes and record", 0.2, 0.1), ("record encoding", 0.4, 0.25)];

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often everything is measured; what is told are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Only benchmarks whose names contain this
    filter: Option<String>,
}

/// Nanoseconds of each round, by group and by who did the work.
type Times = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Measures and prints a table.
///
/// # Errors
/// When the benchmarks cannot be built or run.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    artefacts::build_plugin(project)?;
    let mut times = Times::new();
    for _ in 0..options.rounds {
        let folder = project.temporary_folder()?;
        let criterion = ["--noplot", "--warm-up-time", "0.5", "--measurement-time", "1"];
        let mut arguments =
            vec!["bench", "--package", "offpath-benches", "--bench", "plugin", "--bench", "collector", "--"];
        arguments.extend(criterion);
        arguments.extend(options.filter.as_deref());
        artefacts::run(
            command(project, &arguments)
                .env("CRITERION_HOME", folder.path())
                .env("OFFPATH_WASM", project.plugin()),
        )?;
        read(folder.path(), &mut times)?;
    }
    ensure!(!times.is_empty(), "no benchmark has a name like that");
    print!("{}", table(&times));
    Ok(())
}

/// Measures the plugin's linear memory.
///
/// # Errors
/// When it cannot be built or run, or the memory grows or is too much.
pub(super) fn memory(project: &Project) -> anyhow::Result<()> {
    artefacts::build_plugin(project)?;
    let arguments = ["bench", "--package", "offpath-benches", "--bench", "memory"];
    artefacts::run(command(project, &arguments).env("OFFPATH_WASM", project.plugin()))
}

/// Adds what criterion wrote to `folder`: `<group>/<who>/new/benchmark.json` and `estimates.json`.
fn read(folder: &Path, times: &mut Times) -> anyhow::Result<()> {
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.context("cannot read what criterion wrote")?;
        if entry.file_name() != "estimates.json"
            || !entry.path().parent().is_some_and(|at| at.ends_with("new"))
        {
            continue;
        }
        let benchmark = json(&entry.path().with_file_name("benchmark.json"))?;
        let estimates = json(entry.path())?;
        let name = benchmark
            .pointer("/full_id")
            .and_then(Value::as_str)
            .context("criterion does not name a benchmark")?;
        let (group, who) = name.split_once('/').unwrap_or((name, OURS));
        let nanos = estimates
            .pointer("/median/point_estimate")
            .and_then(Value::as_f64)
            .context("criterion tells no median")?;
        times.entry(group.to_owned()).or_default().entry(who.to_owned()).or_default().push(nanos);
    }
    Ok(())
}

fn json(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("`{}` is not JSON", path.display()))
}

fn table(times: &Times) -> String {
    let mut lines = format!("\n{:<42}{:>12}{:>12}  {}\n", "", "ours", "peer", "ours ÷ peer");
    for (group, by_who) in times {
        let Some(ours) = by_who.get(OURS) else { continue };
        let peers: Vec<_> = by_who.iter().filter(|(who, _)| *who != OURS).collect();
        if peers.is_empty() {
            lines += &format!("{group:<42}{:>12}\n", nanos(median(ours)));
        }
        for (who, theirs) in peers {
            // Round by round, so that what slowed a whole round slows neither.
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            let target = TARGETS.iter().find(|(name, ..)| name == group);
            let target = target.map_or(String::new(), |(_, must, aim)| format!(", must {must}, aim {aim}"));
            let (ours, theirs) = (nanos(median(ours)), nanos(median(theirs)));
            lines += &format!("{group:<42}{ours:>12}{theirs:>12}  {:.2} of {who}{target}\n", median(&ratios));
        }
    }
    lines
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn nanos(nanos: f64) -> String {
    match nanos {
        ..1e3 => format!("{nanos:.1} ns"),
        1e3..1e6 => format!("{:.2} µs", nanos / 1e3),
        _ => format!("{:.2} ms", nanos / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_the_medians_of_the_rounds_beside_their_targets() {
        let by_who =
            [(OURS.to_owned(), vec![10.0, 30.0, 20.0]), ("prost".to_owned(), vec![100.0, 100.0, 100.0])];
        let times = Times::from([("record encoding".to_owned(), by_who.into())]);
        let table = table(&times);
        assert!(table.contains("20.0 ns") && table.contains("0.20 of prost, must 0.4, aim 0.25"), "{table}");
    }
}
