//! What a proxy is started with.

use std::rc::Rc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::Value;
use wasmtime::Result;

use super::{FailurePolicy, Mode, Proxy, VmReloads};
use crate::abi::PluginModule;
use crate::vm::Plugin;
use crate::world::{Cel, Clock, LogLevel, Node, VmRole, World};

/// What a proxy is started with.
#[must_use]
pub struct ProxyBuilder {
    module: PluginModule,
    configuration: Vec<u8>,
    mode: Mode,
    failure_policy: FailurePolicy,
    workers: usize,
    seed: u64,
    world: World,
}

/// 2025-06-01T12:00:00Z, where virtual time begins.
const START_UNIX_NANOS: u64 = 1_748_779_200_000_000_000;

impl ProxyBuilder {
    pub(super) fn new(module: &PluginModule) -> Self {
        let clock = Clock { unix_nanos: START_UNIX_NANOS, uptime_nanos: 0 };
        let world = World { clock, ..World::default() };
        let builder = Self {
            module: module.clone(),
            configuration: Vec::new(),
            mode: Mode::default(),
            failure_policy: FailurePolicy::default(),
            workers: 1,
            seed: 0,
            world,
        };
        builder.cluster("otlp")
    }

    /// The plugin's configuration.
    pub fn config(self, configuration: Value) -> Self {
        self.config_bytes(configuration.to_string())
    }

    /// The plugin's configuration as raw bytes, for one that is not JSON.
    pub fn config_bytes(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.configuration = configuration.into();
        self
    }

    /// Loads the plugin that way; as an access logger otherwise.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Says what becomes of a machine that traps; [`FailurePolicy::FailClosed`] otherwise, as in Envoy.
    pub fn failure_policy(mut self, failure_policy: FailurePolicy) -> Self {
        self.failure_policy = failure_policy;
        self
    }

    /// Runs that many workers; one otherwise.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds a cluster. `otlp` is there from the start.
    pub fn cluster(mut self, name: &str) -> Self {
        self.world.clusters.known.entry(name.to_owned()).or_default();
        self
    }

    /// Sets `xds.node`'s id and cluster, which are empty otherwise.
    pub fn node(mut self, id: &str, cluster: &str) -> Self {
        self.world.node = Node { id: id.to_owned(), cluster: cluster.to_owned() };
        self
    }

    /// Sets `vm_config.vm_id`, which is empty otherwise.
    pub fn vm_id(mut self, vm_id: &str) -> Self {
        self.world.vm_id = vm_id.to_owned();
        self
    }

    /// Chooses what the CEL functions do.
    pub fn cel(mut self, cel: Cel) -> Self {
        self.world.cel = cel;
        self
    }

    /// Sets the proxy's log level; `Info` otherwise.
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.world.log_level = level;
        self
    }

    /// Seeds all that is random: what the guests get from `random_get`, and the proxy's own pauses.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Tries the configuration in a canary, then starts the main thread's machine and the workers'.
    ///
    /// # Errors
    /// When the plugin traps, or refuses its configuration: then the error has the end of the proxy's log.
    pub fn start(self) -> Result<Proxy> {
        let mut proxy = Proxy {
            module: self.module,
            plugin: Rc::new(Plugin::new(self.configuration)),
            mode: self.mode,
            failure_policy: self.failure_policy,
            random: SmallRng::seed_from_u64(self.seed),
            world: self.world,
            vms: Vec::new(),
            canaries: 0,
            reloads: VmReloads::default(),
            refused: 0,
            is_drained: false,
        };
        proxy.try_in_canary()?;
        for role in std::iter::once(VmRole::Main).chain((0..self.workers).map(VmRole::Worker)) {
            let vm = proxy.start_vm(role)?;
            proxy.vms.push(vm);
        }
        Ok(proxy)
    }
}
