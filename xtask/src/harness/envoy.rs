//! A real Envoy with the plugin in it: everything on loopback, its log in a file.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use hyper::Method;
use serde_json::Value;

use crate::harness::{api::Api, bootstrap::Bootstrap, cpu::ThreadTimes, process::Process, wait};

/// The workers that an Envoy here has unless told otherwise: with one, nothing that is per worker would be tested.
pub const WORKERS: u64 = 2;

/// How an Envoy is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// How many threads take requests.
    pub workers: u64,
    /// The one processor that all of it runs on; `None` is any.
    pub processor: Option<usize>,
}

impl Default for Launch {
    fn default() -> Self {
        Self { workers: WORKERS, processor: None }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Api,
    listener: SocketAddr,
}

impl Envoy {
    /// Starts the Envoy at `binary` and waits until it takes requests. `folder` is for its configuration and its log.
    ///
    /// # Errors
    /// When it ends instead; the error holds the log.
    pub async fn start(binary: &Path, bootstrap: &Bootstrap, folder: &Path) -> anyhow::Result<Self> {
        Self::launch(binary, bootstrap, folder, Launch::default()).await
    }

    /// As [`Envoy::start`], and run so.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn launch(
        binary: &Path,
        bootstrap: &Bootstrap,
        folder: &Path,
        launch: Launch,
    ) -> anyhow::Result<Self> {
        let configuration = folder.join("envoy.json");
        fs::write(&configuration, bootstrap.to_json())
            .with_context(|| format!("cannot write `{}`", configuration.display()))?;
        let admin_address = folder.join("admin-address");
        let arguments: Vec<PathBuf> = [
            "--config-path".into(),
            configuration,
            "--admin-address-path".into(),
            admin_address.clone(),
            "--concurrency".into(),
            launch.workers.to_string().into(),
            "--service-node".into(),
            "edge-1".into(),
            "--service-cluster".into(),
            "edge".into(),
            // Several run at once on one machine, and none takes over from another.
            "--disable-hot-restart".into(),
            // Connections of a listener that was replaced or drained are told to close within that time; by default it is
            // ten minutes.
            "--drain-time-s".into(),
            "2".into(),
            // Envoy's own access log files, with which tests compare, are complete soon.
            "--file-flush-interval-msec".into(),
            "100".into(),
        ]
        .into();
        let mut process = match launch.processor {
            None => Process::start("envoy", binary, arguments, folder)?,
            Some(processor) => {
                let pinned = ["--cpu-list".into(), processor.to_string().into(), binary.to_owned()];
                Process::start("envoy", Path::new("taskset"), pinned.into_iter().chain(arguments), folder)?
            }
        };

        let admin = wait::until("Envoy has started", async || {
            if let Some(status) = process.ended()? {
                bail!("Envoy did not start ({status}):\n{}", process.output()?);
            }
            let Some(address) = read_address(&admin_address) else {
                return Ok(None);
            };
            let admin = Api::new(address);
            let live = admin.send(Method::GET, "/ready").await.is_ok_and(|(status, _)| status.is_success());
            Ok(live.then_some(admin))
        })
        .await?;
        // One that comes from a file of its own is there a moment after Envoy is ready.
        let listener = wait::until("Envoy listens", async || {
            if let Some(status) = process.ended()? {
                bail!("Envoy has ended ({status}):\n{}", process.output()?);
            }
            let rejected = admin.text("/stats?filter=^listener_manager.lds.update_rejected$").await?;
            ensure!(
                matches!(rejected.trim().rsplit_once(": "), None | Some((_, "0"))),
                "its listener is rejected"
            );
            let listeners: Value = admin.json("/listeners?format=json").await?;
            Ok(listeners.pointer("/listener_statuses/0").and_then(socket_address))
        })
        .await
        .with_context(|| format!("Envoy's log:\n{}", process.last_lines()))?;
        Ok(Self { process, admin, listener })
    }

    /// Where requests go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener
    }

    /// Where requests go, by the listeners' names.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn listeners(&self) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
        let listeners: Value = self.admin.json("/listeners?format=json").await?;
        let statuses = listeners.pointer("/listener_statuses").and_then(Value::as_array);
        Ok(statuses
            .into_iter()
            .flatten()
            .filter_map(|status| Some((status.get("name")?.as_str()?.to_owned(), socket_address(status)?)))
            .collect())
    }

    /// The processor time that its threads have used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thread_times(&self) -> anyhow::Result<ThreadTimes> {
        ThreadTimes::of_process(self.process.id().context("Envoy has ended")?)
    }

    /// The admin port.
    #[must_use]
    pub fn admin(&self) -> &Api {
        &self.admin
    }

    /// The counters and gauges whose names match a regular expression.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stats(&self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let query = form_urlencoded::byte_serialize(filter.as_bytes()).collect::<String>();
        let answer = self.admin.text(&format!("/stats?type=All&filter={query}")).await?;
        Ok(answer
            .lines()
            .filter_map(|line| line.rsplit_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// What the plugin itself counts, read at one moment.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn accounting(&self) -> anyhow::Result<Accounting> {
        Ok(Accounting::from_stats(&self.stats(r"^wasmcustom\.offpath_").await?))
    }

    /// What the process occupies of the machine's memory, in bytes.
    ///
    /// # Errors
    /// When the system does not say: it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.process.resident_bytes()
    }

    /// Everything it has logged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        self.process.output()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// For how long it has run.
    ///
    /// # Errors
    /// When Envoy does not answer so.
    pub async fn uptime_seconds(&self) -> anyhow::Result<u64> {
        let info: Value = self.admin.json("/server_info").await?;
        info.get("uptime_current_epoch")
            .and_then(|uptime| uptime.as_str()?.strip_suffix('s')?.parse().ok())
            .with_context(|| format!("Envoy does not say for how long it has run: {info}"))
    }

    /// The last lines of its log, for people.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.process.last_lines()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it fails at that.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

/// Of one of the admin port's listener statuses.
fn socket_address(status: &Value) -> Option<SocketAddr> {
    let socket = status.pointer("/local_address/socket_address")?;
    format!("{}:{}", socket.get("address")?.as_str()?, socket.get("port_value")?).parse().ok()
}

fn read_address(path: &Path) -> Option<SocketAddr> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The plugin's record counters, summed over all workers. Names as in Envoy's stats, without prefix and `_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Records that were captured.
    pub captured: u64,
    /// Of these: not kept.
    pub sampled_out: u64,
    /// Of these: accepted by the collector.
    pub delivered: u64,
    /// Of these: dropped, by reason; reasons that never came up are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Of these: still in the proxy.
    pub pending: u64,
}

impl Accounting {
    fn from_stats(stats: &BTreeMap<String, u64>) -> Self {
        let value =
            |name: &str| stats.get(&format!("wasmcustom.offpath_records_{name}")).copied().unwrap_or(0);
        let reasons = "wasmcustom.offpath_records_dropped_total.reason.";
        Self {
            captured: value("captured_total"),
            sampled_out: value("sampled_out_total"),
            delivered: value("delivered_total"),
            dropped: stats
                .iter()
                .filter_map(|(name, count)| Some((name.strip_prefix(reasons)?.to_owned(), *count)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            pending: value("pending"),
        }
    }

    /// All records dropped, for whatever reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Whether every captured record ended in one way or is pending.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.captured == self.sampled_out + self.delivered + self.dropped_total() + self.pending
    }
}
