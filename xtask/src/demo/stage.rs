//! Who takes part in the demo: the application, the collector, and Envoy as its shipped configuration has it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;

use crate::{
    fetch,
    harness::{
        bootstrap::{Bootstrap, Mode},
        collector::Collector,
        envoy::Envoy,
        port,
        upstream::Upstream,
    },
    project::Project,
};

/// All of them, running.
pub(super) struct Stage {
    pub(super) envoy: Envoy,
    pub(super) collector: Collector,
    _upstream: Upstream,
    folder: PathBuf,
}

impl Stage {
    /// Starts everything anew: data of an earlier demo is removed. The ports are those of the documentation, as far as they
    /// are free.
    pub(super) async fn set(project: &Project, envoy: &Path) -> anyhow::Result<Self> {
        let folder = project.target().join("demo");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let upstream = Upstream::start().await?;
        let collector = Collector::start_on(
            &project.collector(),
            &folder,
            port::preferred(4318).await,
            port::preferred(8080).await,
        )
        .await?;
        let bootstrap = Bootstrap::shipped(project, Mode::AccessLogger)?
            .for_release(fetch::ENVOY_1_40)?
            .on_ports(port::preferred(9901).await, port::preferred(10000).await)?
            .with_servers(upstream.address(), collector.otlp())?
            // Ten seconds, the default, are long for somebody who looks on.
            .with_plugin_keys(&[("metrics.interval", json!("1s"))])?;
        let envoy = Envoy::start(envoy, &bootstrap, &folder).await?;
        Ok(Self { envoy, collector, _upstream: upstream, folder })
    }

    /// Addresses and paths, for people.
    pub(super) fn where_to_look(&self) -> String {
        let (envoy, admin, api) =
            (self.envoy.address(), self.envoy.admin().address(), self.collector.api().address());
        format!(
            "send requests    curl http://{envoy}/orders/7
Envoy's stats    http://{admin}/stats?filter=wasmcustom
records          http://{api}/api/logs?limit=10
durations        http://{api}/api/latency?by=status
a trace          http://{api}/api/traces/<trace_id of a record>
accounting       http://{api}/api/accounting
configuration    envoy/access-logger.yaml, with the ports of this run: {folder}/envoy.json
logs and data    {folder}
",
            folder = self.folder.display(),
        )
    }

    /// After a failure: what the processes said at last.
    pub(super) fn explain(&self) {
        eprintln!(
            "the last lines of Envoy's log:
{}",
            self.envoy.last_lines()
        );
        eprintln!(
            "the last lines of the collector's log:
{}",
            self.collector.last_lines()
        );
    }

    /// Ends everything: Envoy first, so that the collector gets what is under way.
    pub(super) async fn clear(mut self) -> anyhow::Result<()> {
        let envoy = self.envoy.stop().await;
        let collector = self.collector.stop().await;
        envoy.and(collector)
    }
}
