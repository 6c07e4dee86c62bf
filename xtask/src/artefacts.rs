//! Builds what users get: the plugin, and the collector. Cargo decides what is out of date, so that a build before each
//! run costs little and nothing stale is ever tested.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use crate::{
    need::{self, Need, WASM_TARGET},
    project::Project,
};

/// Builds the plugin to [`Project::plugin`] and the collector to [`Project::collector`].
///
/// # Errors
/// When something needed is missing (the error says what, and how to get it), or a build fails.
pub fn build(project: &Project) -> anyhow::Result<()> {
    build_plugin(project)?;
    build_collector(project)
}

/// Builds the plugin alone.
///
/// # Errors
/// As [`build`].
pub fn build_plugin(project: &Project) -> anyhow::Result<()> {
    need::wasm_target()?;
    cargo(
        project,
        &[
            "rustc",
            "--package",
            "offpath-filter",
            "--lib",
            "--crate-type",
            "cdylib",
            "--profile",
            "wasm",
            "--target",
            WASM_TARGET,
        ],
    )?;
    let built = project.target().join(WASM_TARGET).join("wasm").join("offpath_filter.wasm");
    copy_whole(&built, &project.plugin())
}

/// Builds the collector alone.
///
/// # Errors
/// As [`build`].
pub fn build_collector(project: &Project) -> anyhow::Result<()> {
    need::tools(&[Need::CCompiler])?;
    cargo(project, &["build", "--release", "--package", "offpath-collector"])
}

/// The artefacts and their sizes, one a line, for people.
///
/// # Errors
/// When an artefact is missing.
pub fn describe(project: &Project) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for path in [project.plugin(), project.collector()] {
        let bytes = fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
        lines.push(format!("{:>9.1} KiB  {}", bytes as f64 / 1024.0, path.display()));
    }
    Ok(lines.join("\n"))
}

/// Runs cargo in the workspace's root with its output on the terminal.
///
/// # Errors
/// When cargo cannot be run or fails.
pub fn cargo(project: &Project, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(arguments)
        .current_dir(project.root())
        .env("CARGO_TARGET_DIR", project.target())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed: {status}", arguments.join(" "));
    Ok(())
}

/// By way of a temporary file, so that a reader at the same time sees the old module or the new one, never half of it.
fn copy_whole(from: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().with_context(|| format!("`{}` has no folder", to.display()))?;
    let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let temporary = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write in `{}`", folder.display()))?;
    fs::write(temporary.path(), &bytes)
        .with_context(|| format!("cannot write `{}`", temporary.path().display()))?;
    temporary.persist(to).with_context(|| format!("cannot write `{}`", to.display()))?;
    Ok(())
}
