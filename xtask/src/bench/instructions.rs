//! `cargo xtask bench instructions`: how many instructions each piece of the plugin's hot path takes, under callgrind.
//!
//! Time on a shared machine hides a regression of a tenth; instructions are the same on every run of one build. They are
//! compared with those in `benches/instructions.json`, by architecture, and more than `TOLERANCE_PERCENT` apart is an error in
//! either direction: what became cheaper is to be committed too, or the next regression hides behind it.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::artefacts::cargo;
use crate::need::{self, Need};
use crate::project::Project;

/// How far from the committed figure is still the same.
const TOLERANCE_PERCENT: u64 = 5;

/// Two runs of these lengths tell what one time costs, without start and end.
const TIMES: [u32; 2] = [2_000, 6_000];

/// How to measure.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Options {
    /// Write the measured figures to benches/instructions.json instead of comparing
    #[arg(long)]
    accept: bool,
}

/// Instructions by piece.
type Figures = BTreeMap<String, u64>;

/// Measures, prints a table, and compares or accepts.
///
/// # Errors
/// When something needed is missing, or a piece is further from its figure than allowed.
pub fn run(project: &Project, options: Options) -> anyhow::Result<()> {
    need::tools(&[Need::Valgrind])?;
    cargo(
        project,
        &["build", "--profile", "bench", "--package", "offpath-benches", "--bin", "instructions"],
    )?;
    let program = project.target().join("release/instructions");
    let file = project.root().join("benches/instructions.json");
    let mut committed = read(&file)?;
    let measured = measure(&program)?;
    if options.accept {
        committed.insert(ARCH.to_owned(), measured);
        let text = serde_json::to_string_pretty(&committed).context("cannot write the figures as JSON")?;
        return std::fs::write(&file, text + "\n")
            .with_context(|| format!("cannot write `{}`", file.display()));
    }
    let expected = committed.get(ARCH).with_context(|| {
        format!("`{}` has no figures for {ARCH}: measure them with `--accept`", file.display())
    })?;
    compare(expected, &measured)
}

fn read(file: &Path) -> anyhow::Result<BTreeMap<String, Figures>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` holds no figures", file.display()))
}

fn measure(program: &Path) -> anyhow::Result<Figures> {
    let listed =
        Command::new(program).output().with_context(|| format!("cannot run `{}`", program.display()))?;
    let names = String::from_utf8(listed.stdout).context("the pieces' names are not UTF-8")?;
    let mut figures = Figures::new();
    for name in names.lines() {
        let [few, many] = TIMES;
        let difference = collected(program, name, many)?.saturating_sub(collected(program, name, few)?);
        figures.insert(name.to_owned(), difference / u64::from(many - few));
    }
    ensure!(!figures.is_empty(), "`{}` lists no pieces", program.display());
    Ok(figures)
}

/// How many instructions a run takes, as callgrind says at its end.
fn collected(program: &Path, name: &str, times: u32) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([name, &times.to_string()])
        // The C library copies memory as the processor at hand does it best; these ways every one has.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-ERMS,-FSRM")
        .output()
        .context("cannot run valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name}` under valgrind ended with {}:\n{told}", output.status);
    let count = told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.with_context(|| format!("callgrind does not say what it has collected:\n{told}"))
}

fn compare(expected: &Figures, measured: &Figures) -> anyhow::Result<()> {
    println!("{:<24}{:>12}{:>12}{:>9}", "instructions of", "committed", "measured", "change");
    let mut changed = Vec::new();
    for (name, &now) in measured {
        let Some(&before) = expected.get(name) else {
            println!("{name:<24}{:>12}{now:>12}", "none");
            changed.push(name.as_str());
            continue;
        };
        let change = now as f64 / before as f64 - 1.0;
        println!("{name:<24}{before:>12}{now:>12}{:>+8.1}%", change * 100.0);
        if now.abs_diff(before) * 100 > before * TOLERANCE_PERCENT {
            changed.push(name);
        }
    }
    changed.extend(expected.keys().filter(|name| !measured.contains_key(*name)).map(String::as_str));
    if changed.is_empty() {
        return Ok(());
    }
    bail!(
        "more than {TOLERANCE_PERCENT} % from the committed figures: {}; where that is meant, commit what \
         `cargo xtask bench instructions --accept` writes",
        changed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(figures: &[(&str, u64)]) -> Figures {
        figures.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn up_to_the_tolerance_in_either_direction_is_the_same() {
        let expected = figures(&[("encode", 1000)]);
        for (measured, same) in [(950, true), (1050, true), (949, false), (1051, false)] {
            assert_eq!(compare(&expected, &figures(&[("encode", measured)])).is_ok(), same, "{measured}");
        }
    }

    #[test]
    fn a_piece_without_a_figure_and_a_figure_without_its_piece_are_named() {
        let (one, other) = (figures(&[("encode", 1000)]), figures(&[("decode", 1000)]));
        let error = compare(&one, &other).unwrap_err().to_string();
        assert!(error.contains("decode, encode"), "{error}");
    }
}
