//! One Envoy with a logger in it, under load, and a receiver that can be made to fail: what the faults and the soak are
//! shown on.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    faults::fault::Treatment,
    fetch::{self, ENVOY_1_40},
    harness::{
        bootstrap::{Bootstrap, HTTP_CONNECTION_MANAGER, Mode},
        envoy::{Accounting, Envoy},
        inventory::Inventory,
        load,
        receiver::{Behaviour, Receiver},
        steady::{SteadyLoad, Tally},
        upstream::Upstream,
    },
    project::Project,
};

/// How many connections the load comes over: both workers get some.
const CONNECTIONS: u32 = 16;

/// How often calls are collected and memory is looked at.
const GLANCE: Duration = Duration::from_millis(250);

/// How long the records may take to have their end, once nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long nothing may arrive from Envoy's own logger before nothing will: more than its interval and its time-out.
const NATIVE_PATIENCE: Duration = Duration::from_secs(3);

/// Who logs.
#[derive(Clone, Debug)]
pub enum Logger {
    /// The plugin, loaded so, with these keys changed, in the given module.
    Plugin(Mode, Vec<(&'static str, Value)>, PathBuf),
    /// Envoy's own OTLP/HTTP access logger.
    Native,
}

/// The Envoy and all around it.
#[derive(Debug)]
pub struct Stand {
    envoy: Envoy,
    receiver: Receiver,
    inventory: Inventory,
    load: SteadyLoad,
    bootstrap: Bootstrap,
    is_native: bool,
    listener_file: PathBuf,
    listener_updates: u64,
    traps: u64,
    max_resident_bytes: u64,
    _upstream: Upstream,
    _folder: TempDir,
}

impl Stand {
    /// Starts everything, and `per_second` requests.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(project: &Project, logger: &Logger, per_second: u32) -> anyhow::Result<Self> {
        let binary = fetch::envoy(project, ENVOY_1_40)?;
        let folder = project.temporary_folder()?;
        let (upstream, receiver) = (Upstream::start().await?, Receiver::start().await?);
        let shipped = |mode| {
            Bootstrap::shipped(project, mode)?
                .without_tracing()?
                .with_servers(upstream.address(), receiver.address())
        };
        let bootstrap = match logger {
            Logger::Plugin(mode, keys, module) => {
                shipped(*mode)?.with_plugin_keys(keys)?.with_module(module)?
            }
            Logger::Native => shipped(Mode::AccessLogger)?.with_native_logger(receiver.address())?,
        };
        let listener_file = folder.path().join("listener.json");
        bootstrap.write_listener(&listener_file)?;
        let envoy =
            Envoy::start(&binary, &bootstrap.clone().with_listener_from(&listener_file)?, folder.path())
                .await?;
        Ok(Self {
            load: SteadyLoad::start(envoy.address(), CONNECTIONS, per_second),
            envoy,
            receiver,
            inventory: Inventory::default(),
            bootstrap,
            is_native: matches!(logger, Logger::Native),
            listener_file,
            listener_updates: 0,
            traps: 0,
            max_resident_bytes: 0,
            _upstream: upstream,
            _folder: folder,
        })
    }

    /// Lets time pass, and keeps an eye on things.
    ///
    /// # Errors
    /// When something arrives that is not OTLP, or Envoy has ended.
    pub async fn watch(&mut self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.glance()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(GLANCE)).await;
        }
    }

    fn glance(&mut self) -> anyhow::Result<()> {
        for call in self.receiver.take_calls() {
            self.inventory.add(&call)?;
        }
        self.max_resident_bytes = self.max_resident_bytes.max(self.resident_bytes()?);
        Ok(())
    }

    /// Lets something go wrong for a while.
    ///
    /// # Errors
    /// As [`Stand::watch`].
    pub async fn treat(&mut self, treatment: Treatment, duration: Duration) -> anyhow::Result<()> {
        match treatment {
            Treatment::Receiver(behaviour) => {
                self.receiver.behave(behaviour);
                self.watch(duration).await?;
                self.receiver.behave(Behaviour::HEALTHY);
            }
            Treatment::Down => {
                self.receiver.go_down().await;
                self.watch(duration).await?;
                self.receiver.come_back()?;
            }
            Treatment::UpdateListener(behaviour) => {
                self.receiver.behave(behaviour);
                for _ in 0..4 {
                    self.update_listener()?;
                    self.watch(duration / 4).await?;
                }
                self.receiver.behave(Behaviour::HEALTHY);
            }
            Treatment::Trap => {
                for _ in 0..2 {
                    self.trap().await?;
                    self.watch(duration / 2).await?;
                }
            }
        }
        Ok(())
    }

    /// Another configuration of the logger, nothing else.
    fn update_listener(&mut self) -> anyhow::Result<()> {
        self.listener_updates += 1;
        let generation = format!("generation-{}", self.listener_updates);
        let mut changed = self.bootstrap.clone();
        if self.is_native {
            let resource = format!("{HTTP_CONNECTION_MANAGER}/access_log/0/typed_config/resource_attributes");
            let attribute = json!({"key": "service.version", "value": {"string_value": generation}});
            *changed.at(&resource)? = json!({"values": [attribute]});
        } else {
            changed = changed.with_plugin_keys(&[("resource", json!({"service.version": generation}))])?;
        }
        changed.write_listener(&self.listener_file)
    }

    /// One request that the plugin's module for tests does not survive.
    async fn trap(&mut self) -> anyhow::Result<()> {
        self.traps += 1;
        let statuses = load::keep_alive(self.envoy.address(), 1, 1, |_| {
            let mut request = load::get("/orders/trap")?;
            request.headers_mut().insert("x-offpath-trap", hyper::header::HeaderValue::from_static("1"));
            Ok(request)
        })
        .await?;
        anyhow::ensure!(
            statuses == BTreeMap::from([(200, 1)]),
            "the request that traps was answered {statuses:?}"
        );
        Ok(())
    }

    /// Ends the load, and waits until every record has its end.
    ///
    /// # Errors
    /// When Envoy or a client fails. That records have no end is not an error here, but seen in the result.
    pub async fn end(mut self) -> anyhow::Result<Ending> {
        let tally = self.load.end().await?;
        if self.is_native {
            self.wait_for_native(tally.sent()).await?;
        } else {
            self.wait_for_plugin(tally.sent()).await?;
        }
        let ending = Ending {
            accounting: self.accounting().await?,
            not_logged: self.not_logged().await?,
            traps: self.traps,
            queue_bytes: self.queue_bytes().await?,
            calls: self.sum("^wasmcustom.offpath_batches_sent_total$").await?,
            calls_again: self.sum("^wasmcustom.offpath_batches_retried_total$").await?,
            spilled_lines: spilled_lines(&self.envoy.log()?),
            max_resident_bytes: self.max_resident_bytes,
            inventory: self.inventory,
            tally,
        };
        self.envoy.stop().await?;
        Ok(ending)
    }

    async fn queue_bytes(&self) -> anyhow::Result<u64> {
        self.sum("^wasmcustom.offpath_queue_bytes$").await
    }

    async fn wait_for_plugin(&mut self, requests: u64) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let accounting = self.accounting().await?;
            let seen = accounting.captured + self.not_logged().await?;
            // The requests that trapped were sent beside the load. An export of histograms may be under way when all records
            // have arrived.
            let is_settled = accounting.pending == 0 && self.queue_bytes().await? == 0;
            if is_settled && accounting.balances() && seen >= requests {
                break;
            }
            self.watch(GLANCE).await?;
        }
        self.glance()
    }

    async fn wait_for_native(&mut self, requests: u64) -> anyhow::Result<()> {
        let mut arrived = self.inventory.distinct();
        let mut last_arrival = Instant::now();
        while arrived < requests && last_arrival.elapsed() < NATIVE_PATIENCE {
            self.watch(GLANCE).await?;
            if self.inventory.distinct() != arrived {
                (arrived, last_arrival) = (self.inventory.distinct(), Instant::now());
            }
        }
        self.glance()
    }

    /// How many requests were sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.load.sent()
    }

    /// What the plugin counts.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn accounting(&self) -> anyhow::Result<Accounting> {
        self.envoy.accounting().await
    }

    /// Requests that Envoy did not hand to the plugin, as it counts them, because it was reloading it.
    async fn not_logged(&self) -> anyhow::Result<u64> {
        self.sum(r"^wasm\.offpath\.vm_reload_backoff$").await
    }

    async fn sum(&self, filter: &str) -> anyhow::Result<u64> {
        Ok(self.envoy.stats(filter).await?.values().sum())
    }

    /// What Envoy occupies of the machine's memory, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.envoy.resident_bytes().with_context(|| format!("Envoy's log:\n{}", self.envoy.last_lines()))
    }
}

/// The lines that the plugin has written for records it had no room for.
fn spilled_lines(log: &str) -> u64 {
    let is_ours = |line: &str| line.contains("[wasm]") || line.contains("[dynamic_modules]");
    log.lines().filter(|line| is_ours(line) && line.contains("{\"attributes\":")).count() as u64
}

/// How it was at the end.
#[derive(Debug)]
pub struct Ending {
    /// What the clients saw.
    pub tally: Tally,
    /// What the plugin counts; nothing, if it was not there.
    pub accounting: Accounting,
    /// Requests that Envoy has answered while it reloaded the plugin.
    pub not_logged: u64,
    /// Requests that made the plugin trap, beside those of the tally.
    pub traps: u64,
    /// What the plugin says that it holds.
    pub queue_bytes: u64,
    /// Calls to the receiver, each batch once.
    pub calls: u64,
    /// Calls to the receiver beyond those.
    pub calls_again: u64,
    /// Records in Envoy's log.
    pub spilled_lines: u64,
    /// The most memory that Envoy was seen to occupy.
    pub max_resident_bytes: u64,
    /// What has arrived.
    pub inventory: Inventory,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plugins_lines_are_spilled_records() {
        let log = "[w][warning][wasm] wasm log offpath: {\"attributes\":{}}\n[w][warning][wasm] wasm log: other\n\
             [w][warning][dynamic_modules] {\"attributes\":{}}\n[w][warning][http] {\"attributes\":{}}\n";
        assert_eq!(spilled_lines(log), 2);
    }
}
