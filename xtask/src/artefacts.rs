//! Builds what users get: the plugin, and the collector. Cargo decides what is out of date, so that a build before each
//! run costs little and nothing stale is ever tested.

pub mod exports;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    need::{self, Need, WASM_TARGET},
    project::Project,
};

/// Builds the plugin to [`Project::plugin`], the dynamic module to [`Project::dynamic_module`] and the collector to
/// [`Project::collector`].
///
/// # Errors
/// When something needed is missing (the error says what, and how to get it), or a build fails.
pub fn build(project: &Project) -> anyhow::Result<()> {
    build_plugin(project)?;
    build_dynamic_module(project)?;
    build_collector(project)
}

/// Builds the plugin alone.
///
/// # Errors
/// As [`build`].
pub fn build_plugin(project: &Project) -> anyhow::Result<()> {
    build_filter(project, project.target(), &[], None, &project.plugin())
}

/// Builds the plugin to [`Project::trapping_plugin`], with a trap in it that a request's header `x-offpath-trap` springs:
/// what tests provoke, the shipped module does not have. Nor does that have its functions' names, which this one does.
///
/// # Errors
/// As [`build`].
pub fn build_trapping_plugin(project: &Project) -> anyhow::Result<()> {
    // A folder of its own: in the other one, a build at the same time could put its module in this one's place.
    let target = project.target().join("trap");
    build_filter(project, &target, &["--features", "trap"], Some("debuginfo"), &project.trapping_plugin())
}

fn build_filter(
    project: &Project,
    target: &Path,
    features: &[&str],
    strip: Option<&str>,
    module: &Path,
) -> anyhow::Result<()> {
    let linked = link_module(project, "offpath-filter", target, features, strip)?;
    let wasm = exports::keep_needed(&read(&linked)?).with_context(|| format!("in `{}`", linked.display()))?;
    write_whole(&wasm, module)
}

/// Builds the dynamic module alone.
///
/// # Errors
/// As [`build`].
pub fn build_dynamic_module(project: &Project) -> anyhow::Result<()> {
    build_library(project, project.target(), &[], &project.dynamic_module())
}

/// Builds the dynamic module to [`Project::panicking_dynamic_module`], with a panic in it that a request's header
/// `x-offpath-trap` springs.
///
/// # Errors
/// As [`build`].
pub fn build_panicking_dynamic_module(project: &Project) -> anyhow::Result<()> {
    let target = project.target().join("trap");
    build_library(project, &target, &["--features", "trap"], &project.panicking_dynamic_module())
}

/// Builds the dynamic module to [`Project::capturing_dynamic_module`], which drops what it has captured.
///
/// # Errors
/// As [`build`].
pub fn build_capturing_dynamic_module(project: &Project) -> anyhow::Result<()> {
    let target = project.target().join("capture-only");
    build_library(project, &target, &["--features", "capture-only"], &project.capturing_dynamic_module())
}

fn build_library(project: &Project, target: &Path, features: &[&str], library: &Path) -> anyhow::Result<()> {
    need::tools(&[Need::CCompiler])?;
    let profile = "dynamic-module";
    let arguments =
        [&["build", "--package", "offpath-dynamic-module", "--profile", profile], features].concat();
    run(command(project, &arguments).env("CARGO_TARGET_DIR", target))?;
    write_whole(&read(&target.join(profile).join("liboffpath.so"))?, library)
}

/// Builds the module that makes the host calls it is told to make: to [`Project::probe`] with nothing but its own exports,
/// to [`Project::sdk_probe`] with those of proxy-wasm's SDK, and to [`Project::lean_sdk_probe`] with those of the plugin.
///
/// # Errors
/// As [`build`].
pub fn build_probes(project: &Project) -> anyhow::Result<()> {
    for (features, module) in
        [(&[] as &[&str], project.probe()), (&["--features", "sdk"], project.sdk_probe())]
    {
        let linked = link_module(project, "offpath-probes", project.target(), features, None)?;
        write_whole(&read(&linked)?, &module)?;
    }
    let lean = exports::keep_needed(&read(&project.sdk_probe())?).context("in the probe")?;
    write_whole(&lean, &project.lean_sdk_probe())
}

/// Where the linker has put the package's module.
fn link_module(
    project: &Project,
    package: &str,
    target: &Path,
    features: &[&str],
    strip: Option<&str>,
) -> anyhow::Result<PathBuf> {
    need::wasm_target()?;
    let library = ["rustc", "--package", package, "--lib", "--crate-type", "cdylib"];
    let wasm = ["--profile", "wasm", "--target", WASM_TARGET];
    let arguments = [library.as_slice(), &wasm, features].concat();
    run(command(project, &arguments)
        .env("CARGO_TARGET_DIR", target)
        .envs(strip.map(|strip| ("CARGO_PROFILE_WASM_STRIP", strip))))?;
    let file = format!("{}.wasm", package.replace('-', "_"));
    Ok(target.join(WASM_TARGET).join("wasm").join(file))
}

/// Builds the collector alone.
///
/// # Errors
/// As [`build`].
pub fn build_collector(project: &Project) -> anyhow::Result<()> {
    need::tools(&[Need::CCompiler])?;
    cargo(project, &["build", "--release", "--package", "offpath-collector"])
}

/// Builds the application of `cargo xtask incident`, to [`Project::incident`].
///
/// # Errors
/// As [`build`].
pub fn build_incident(project: &Project) -> anyhow::Result<()> {
    need::tools(&[Need::CCompiler])?;
    cargo(project, &["build", "--release", "--package", "offpath-incident"])
}

/// The artefacts and their sizes, one a line, for people.
///
/// # Errors
/// When an artefact is missing.
pub fn describe(project: &Project) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for path in [project.plugin(), project.dynamic_module(), project.collector()] {
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
    run(&mut command(project, arguments))
}

/// Cargo in the workspace's root, not yet run.
#[must_use]
pub fn command(project: &Project, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(project.root()).env("CARGO_TARGET_DIR", project.target());
    command
}

/// Runs a [`command`].
///
/// # Errors
/// When it cannot be run or fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// By way of a temporary file, so that a reader at the same time sees the old module or the new one, never half of it.
fn write_whole(bytes: &[u8], to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().with_context(|| format!("`{}` has no folder", to.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    // Envoy may run as somebody else.
    let temporary = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in `{}`", folder.display()))?;
    fs::write(temporary.path(), bytes)
        .with_context(|| format!("cannot write `{}`", temporary.path().display()))?;
    temporary.persist(to).with_context(|| format!("cannot write `{}`", to.display()))?;
    Ok(())
}
