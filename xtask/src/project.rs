//! Where things are: the workspace's root, and the target folder that everything built, fetched or written goes to.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The workspace's folders. All paths that the commands use come from here.
#[derive(Clone, Debug)]
pub struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// Asks cargo, which knows about `CARGO_TARGET_DIR` and the configuration files.
    ///
    /// # Errors
    /// When cargo cannot be run or cannot read the workspace.
    pub fn locate() -> anyhow::Result<Self> {
        let metadata = cargo_metadata::MetadataCommand::new()
            .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cannot ask cargo where the workspace is")?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// The repository's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder; `target/` in the root unless `CARGO_TARGET_DIR` says otherwise.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The built plugin.
    #[must_use]
    pub fn plugin(&self) -> PathBuf {
        self.target.join("offpath.wasm")
    }

    /// The built dynamic module.
    #[must_use]
    pub fn dynamic_module(&self) -> PathBuf {
        self.target.join("liboffpath.so")
    }

    /// The dynamic module with a panic in it, for tests.
    #[must_use]
    pub fn panicking_dynamic_module(&self) -> PathBuf {
        self.target.join("liboffpath-trap.so")
    }

    /// The dynamic module that captures and does no more, for benchmarks.
    #[must_use]
    pub fn capturing_dynamic_module(&self) -> PathBuf {
        self.target.join("liboffpath-capture-only.so")
    }

    /// The plugin with a trap in it, for tests.
    #[must_use]
    pub fn trapping_plugin(&self) -> PathBuf {
        self.target.join("offpath-trap.wasm")
    }

    /// The module that makes the host calls it is told to make, with nothing but its own exports.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.target.join("offpath-probe.wasm")
    }

    /// The same with the exports of proxy-wasm's SDK.
    #[must_use]
    pub fn sdk_probe(&self) -> PathBuf {
        self.target.join("offpath-probe-sdk.wasm")
    }

    /// The same with those of them alone that the plugin exports too.
    #[must_use]
    pub fn lean_sdk_probe(&self) -> PathBuf {
        self.target.join("offpath-probe-sdk-lean.wasm")
    }

    /// The built collector.
    #[must_use]
    pub fn collector(&self) -> PathBuf {
        self.target.join("release").join("offpath-collector")
    }

    /// The application of `cargo xtask incident`, built.
    #[must_use]
    pub fn incident(&self) -> PathBuf {
        self.target.join("release").join("offpath-incident")
    }

    /// A folder in the target folder, for files of a run that are gone at its end.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        let parent = self.target.join("running");
        std::fs::create_dir_all(&parent)
            .and_then(|()| tempfile::TempDir::new_in(&parent))
            .with_context(|| format!("cannot write in `{}`", parent.display()))
    }

    /// The YAML files that users copy.
    #[must_use]
    pub fn envoy_folder(&self) -> PathBuf {
        self.root.join("envoy")
    }
}
