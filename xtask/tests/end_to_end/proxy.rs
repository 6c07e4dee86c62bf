//! Envoy with the plugin and an application behind it, made ready for one test.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
};

use tempfile::TempDir;
use tokio::sync::OnceCell;
use xtask::{
    artefacts,
    fetch::{self, Release},
    harness::{
        bootstrap::{Bootstrap, Mode},
        collector::{Collector, LogRecord},
        envoy::Envoy,
        upstream::Upstream,
        wait,
    },
    project::Project,
};

pub(crate) use xtask::fetch::{ENVOY_1_36, ENVOY_1_40};

/// Each release in each mode that it has: what must hold wherever offpath runs.
pub(crate) const EVERYWHERE: [(Release, Mode); 5] = [
    (ENVOY_1_40, Mode::AccessLogger),
    (ENVOY_1_40, Mode::HttpFilter),
    (ENVOY_1_36, Mode::AccessLogger),
    (ENVOY_1_36, Mode::HttpFilter),
    (ENVOY_1_40, Mode::DynamicModule),
];

/// Of these, the ones with what a dynamic module does not get: expressions.
pub(crate) fn everywhere_in_wasm() -> impl Iterator<Item = (Release, Mode)> {
    EVERYWHERE.into_iter().filter(|(_, mode)| Mode::WASM.contains(mode))
}

/// The workspace, with the plugin built and each Envoy fetched.
pub(crate) async fn project() -> &'static Project {
    static PROJECT: OnceCell<Project> = OnceCell::const_new();
    PROJECT
        .get_or_init(async || {
            let project = Project::locate().unwrap();
            artefacts::build_plugin(&project).unwrap();
            artefacts::build_dynamic_module(&project).unwrap();
            for release in fetch::ENVOY_RELEASES {
                fetch::envoy(&project, release).unwrap();
            }
            project
        })
        .await
}

/// A folder for one test's files, gone at its end.
pub(crate) async fn folder() -> TempDir {
    let parent = project().await.target().join("end-to-end");
    std::fs::create_dir_all(&parent).unwrap();
    TempDir::new_in(parent).unwrap()
}

/// The parameter `n` of each request whose record is stored, the least first.
pub(crate) async fn stored_numbers(collector: &Collector) -> Vec<u64> {
    let records = collector.logs("").await.unwrap();
    let number = |record: &LogRecord| record.query_parameter("n").unwrap().parse().unwrap();
    let mut numbers: Vec<u64> = records.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The shipped configuration of a mode, for a release, with the plugin's keys changed, and without Envoy's tracer: its
/// calls and headers would be among what most tests look at.
pub(crate) async fn bootstrap(release: Release, mode: Mode, keys: &[(&str, serde_json::Value)]) -> Bootstrap {
    tracing_bootstrap(release, mode, keys).await.without_tracing().unwrap()
}

/// As [`bootstrap`], with Envoy's tracer.
pub(crate) async fn tracing_bootstrap(
    release: Release,
    mode: Mode,
    keys: &[(&str, serde_json::Value)],
) -> Bootstrap {
    Bootstrap::shipped(project().await, mode)
        .and_then(|bootstrap| bootstrap.for_release(release))
        .and_then(|bootstrap| bootstrap.with_plugin_keys(keys))
        .unwrap()
}

/// The collector, built, with an empty database.
pub(crate) async fn collector(folder: &TempDir) -> Collector {
    static BUILT: OnceCell<()> = OnceCell::const_new();
    let project = project().await;
    BUILT.get_or_init(async || artefacts::build_collector(project).unwrap()).await;
    Collector::start(&project.collector(), folder.path()).await.unwrap()
}

/// An Envoy and its application. When a test fails, it prints Envoy's log.
pub(crate) struct Proxy {
    envoy: Envoy,
    _upstream: Upstream,
    folder: TempDir,
}

impl Proxy {
    /// Starts both; the plugin sends to `collector`.
    pub(crate) async fn start(
        release: Release,
        bootstrap: Bootstrap,
        collector: std::net::SocketAddr,
    ) -> Self {
        Self::try_start(release, bootstrap, collector).await.unwrap()
    }

    /// As [`Proxy::start`], for an Envoy that may refuse to start.
    pub(crate) async fn try_start(
        release: Release,
        bootstrap: Bootstrap,
        collector: std::net::SocketAddr,
    ) -> anyhow::Result<Self> {
        let binary: PathBuf = fetch::envoy(project().await, release)?;
        let folder = folder().await;
        let upstream = Upstream::start().await?;
        let bootstrap = bootstrap.with_servers(upstream.address(), collector)?;
        let envoy = Envoy::start(&binary, &bootstrap, folder.path()).await?;
        Ok(Self { envoy, _upstream: upstream, folder })
    }

    /// Waits until Envoy works on no request. The last ones may still be on their way into the log.
    pub(crate) async fn until_idle(&self) {
        wait::until("no request is under way", async || {
            let active = self.stats(r"^http\.ingress\.downstream_rq_active$").await?;
            Ok((active.get("http.ingress.downstream_rq_active") == Some(&0)).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Ends Envoy.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.envoy.stop().await
    }

    /// Ends Envoy, whose log is still wanted.
    pub(crate) async fn stop_in_place(&mut self) -> anyhow::Result<()> {
        self.envoy.stop().await
    }

    /// Where this test's files are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl Deref for Proxy {
    type Target = Envoy;

    fn deref(&self) -> &Envoy {
        &self.envoy
    }
}

impl DerefMut for Proxy {
    fn deref_mut(&mut self) -> &mut Envoy {
        &mut self.envoy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("Envoy's log:\n{}", self.envoy.log().unwrap_or_default());
        }
    }
}
