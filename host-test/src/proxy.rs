//! The proxy: its machines, its event loop on virtual time, and the ways in which configuration and requests come in.
//!
//! [`Proxy::load`] and [`ProxyBuilder`] say what is started; [`Proxy`]'s verbs then drive it and its queries observe it.

mod builder;
mod failure;
mod stream;

pub use builder::ProxyBuilder;
pub use failure::{FailurePolicy, VmReloads};

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand::RngCore as _;
use rand::rngs::SmallRng;
use serde_json::Value;
use wasmtime::{Result, bail, format_err};

use crate::abi::{PluginModule, Status};
use crate::cluster::{Answer, Call, Cluster};
use crate::request::{Exchange, Request};
use crate::vm::{Plugin, Vm, last_lines};
use crate::world::{Cel, LogLine, VmRole, World};

/// How the plugin is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `envoy.access_loggers.wasm`: each finished request is one `on_log` of the root context.
    #[default]
    AccessLogger,
    /// `envoy.filters.http.wasm`: each request has a context of its own.
    HttpFilter,
}

impl World {
    fn configure(&mut self, vm: &mut Vm, plugin: &Rc<Plugin>) -> Result<()> {
        if !vm.configure(self, Rc::clone(plugin))? {
            bail!("the plugin refused its configuration; the log ends with:\n{}", last_lines(self));
        }
        Ok(())
    }
}

/// A running proxy.
pub struct Proxy {
    pub(crate) world: World,
    module: PluginModule,
    plugin: Rc<Plugin>,
    mode: Mode,
    failure_policy: FailurePolicy,
    random: SmallRng,
    /// The main thread's, then the workers'.
    vms: Vec<Vm>,
    canaries: u64,
    reloads: VmReloads,
    refused: u64,
    is_drained: bool,
}

/// What happens next by itself.
enum Event {
    Tick { vm: usize, root: u32 },
    Answer { number: u64, answer: Answer },
}

/// Verbs.
impl Proxy {
    /// Begins to describe a proxy with that plugin: an access logger, one worker, a cluster named `otlp`.
    pub fn load(module: &PluginModule) -> ProxyBuilder {
        ProxyBuilder::new(module)
    }

    /// A request that is about to end.
    pub fn request(&mut self, request: Request) -> Exchange<'_> {
        Exchange::new(self, request)
    }

    /// A cluster, to answer its calls.
    pub fn cluster(&mut self, name: &str) -> Cluster<'_> {
        Cluster::new(self, name)
    }

    /// Lets time pass: ticks, timeouts and served answers happen in their order.
    ///
    /// # Errors
    /// When the plugin traps.
    pub fn advance(&mut self, duration: Duration) -> Result<()> {
        let until = self.world.clock.uptime_nanos.saturating_add(nanos(duration));
        while let Some((at, event)) = self.next_event().filter(|(at, _)| *at <= until) {
            self.world.clock.advance_to(at);
            match event {
                Event::Tick { vm, root } => self.tick(vm, root)?,
                Event::Answer { number, answer } => drop(self.answer_call(number, answer)?),
            }
        }
        self.world.clock.advance_to(until);
        Ok(())
    }

    /// Lets time pass in which the process does not run: what falls due meanwhile happens late, with the next
    /// [`Proxy::advance`].
    pub fn freeze(&mut self, duration: Duration) {
        self.world.clock.advance(nanos(duration));
    }

    /// Sets the system's clock back, as an administrator or a time server may: guests are told an earlier time from now
    /// on. Timers do not notice, for they go by the monotonic clock.
    pub fn set_clock_back(&mut self, duration: Duration) {
        let clock = &mut self.world.clock;
        clock.unix_nanos = clock.unix_nanos.saturating_sub(nanos(duration));
    }

    /// Keeps a worker's thread from running for that long, as another plugin may that blocks: what falls due for it
    /// happens late, while all others go on. Whatever would have to run on it now is an error.
    pub fn stall(&mut self, worker: usize, duration: Duration) {
        let until = self.world.clock.uptime_nanos.saturating_add(nanos(duration));
        if let Some(vm) = self.vms.get_mut(worker.saturating_add(1)) {
            vm.stalled_until_uptime_nanos = until;
        }
    }

    /// Gives the plugin a new configuration, as a listener update does: each machine gets a new root context, and the
    /// old one drains. A machine that has trapped is replaced.
    ///
    /// # Errors
    /// When the plugin traps or refuses the configuration; in the latter case the old one stays in use.
    pub fn reconfigure(&mut self, configuration: Value) -> Result<()> {
        (0..self.vms.len()).try_for_each(|index| self.check_runs(role_of(index)))?;
        let old = std::mem::replace(&mut self.plugin, Rc::new(Plugin::new(configuration.to_string())));
        if let Err(refused) = self.try_in_canary() {
            self.plugin = old;
            return Err(refused);
        }
        for index in 0..self.vms.len() {
            self.reconfigure_vm(index)?;
        }
        Ok(())
    }

    /// Loads another module in the plugin's place, as a listener update does that changes the machines: there are new
    /// ones, and the old ones are destroyed at once, whether they are done or not.
    ///
    /// # Errors
    /// When a plugin traps or refuses the configuration.
    pub fn replace_module(&mut self, module: &PluginModule) -> Result<()> {
        self.module = module.clone();
        self.try_in_canary()?;
        for index in 0..self.vms.len() {
            let new = self.start_vm(role_of(index))?;
            if let Some(vm) = self.vms.get_mut(index) {
                std::mem::replace(vm, new).shut_down(&mut self.world)?;
            }
        }
        Ok(())
    }

    /// Takes no more requests, as after `/drain_listeners`: each is an error. The machines live on.
    pub fn drain_listeners(&mut self) {
        self.is_drained = true;
    }

    /// Ends the process: `on_done` everywhere, which is not waited for, and no call is answered any more.
    ///
    /// # Errors
    /// When the plugin traps.
    pub fn shut_down(&mut self) -> Result<()> {
        std::mem::take(&mut self.vms).into_iter().try_for_each(|vm| vm.shut_down(&mut self.world))
    }

    /// Makes the next `times` calls of a host function return `status` instead of doing anything; 0 ends that.
    pub fn fail_host_call(&mut self, name: &str, status: Status, times: u32) {
        self.world.faults.plan(name, status, times);
    }

    /// Changes what the CEL functions do.
    pub fn set_cel(&mut self, cel: Cel) {
        self.world.cel = cel;
    }

    /// Refuses growth of the memory of each machine that there is now beyond `bytes`.
    pub fn limit_memory(&mut self, bytes: usize) {
        for vm in &mut self.vms {
            vm.limit_memory(bytes);
        }
    }
}

/// Queries.
impl Proxy {
    /// A counter's value, by the name that the plugin gave it; 0 for one that nobody defined.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.world.stats.counters().get(name).copied().unwrap_or_default()
    }

    /// The counters whose names begin so, with their values.
    #[must_use]
    pub fn counters(&self, prefix: &str) -> Vec<(String, u64)> {
        let counters = self.world.stats.counters().iter();
        counters
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.clone(), *value))
            .collect()
    }

    /// A gauge's value; 0 for one that nobody defined.
    #[must_use]
    pub fn gauge(&self, name: &str) -> u64 {
        self.world.stats.gauges().get(name).copied().unwrap_or_default()
    }

    /// The gauges whose names begin so, with their values.
    #[must_use]
    pub fn gauges(&self, prefix: &str) -> Vec<(String, u64)> {
        let gauges = self.world.stats.gauges().iter();
        gauges
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.clone(), *value))
            .collect()
    }

    /// All that was recorded into a histogram.
    #[must_use]
    pub fn histogram(&self, name: &str) -> &[u64] {
        self.world.stats.histograms().get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether any machine defined a metric of that name.
    #[must_use]
    pub fn defines_metric(&self, name: &str) -> bool {
        let stats = &self.world.stats;
        stats.counters().contains_key(name)
            || stats.gauges().contains_key(name)
            || stats.histograms().contains_key(name)
    }

    /// The proxy's log.
    #[must_use]
    pub fn log_lines(&self) -> &[LogLine] {
        &self.world.log
    }

    /// What a plugin has put into shared data under `key`.
    #[must_use]
    pub fn shared_data(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        self.world.shared_data.get(key.as_ref()).map(|(value, _)| value)
    }

    /// How many calls a machine has made since the start; canaries count together.
    #[must_use]
    pub fn calls_made_by(&self, vm: VmRole) -> u64 {
        self.world.clusters.made.get(&vm).copied().unwrap_or_default()
    }

    /// How often each of the `proxy_*` host functions was called since the start, by all machines together.
    #[must_use]
    pub fn host_calls(&self) -> &BTreeMap<&'static str, u64> {
        &self.world.host_calls
    }

    /// How many configurations were tried in a canary.
    #[must_use]
    pub fn canaries(&self) -> u64 {
        self.canaries
    }

    /// How many root contexts of former configurations still drain, over all machines.
    #[must_use]
    pub fn draining(&self) -> usize {
        self.vms.iter().map(Vm::draining).sum()
    }

    /// What the system's clock shows of virtual time, in ns since 1970.
    #[must_use]
    pub fn now_unix_nanos(&self) -> u64 {
        self.world.clock.unix_nanos
    }

    /// Whether a worker's thread does not run at the moment.
    #[must_use]
    pub fn is_stalled(&self, worker: usize) -> bool {
        let vm = self.vms.get(worker.saturating_add(1));
        vm.is_some_and(|vm| self.world.clock.uptime_nanos < vm.stalled_until_uptime_nanos)
    }

    /// How often a machine that had trapped was, or was not, replaced.
    #[must_use]
    pub fn vm_reloads(&self) -> VmReloads {
        self.reloads
    }

    /// How many requests the proxy answered 503 itself, because the plugin's machine had trapped and may not be passed.
    #[must_use]
    pub fn requests_refused(&self) -> u64 {
        self.refused
    }

    /// Whether a worker's machine has trapped and was not replaced.
    #[must_use]
    pub fn has_failed(&self, worker: usize) -> bool {
        self.vms.get(worker.saturating_add(1)).is_some_and(Vm::has_failed)
    }

    /// The size of a worker's linear memory.
    pub fn memory_bytes(&mut self, worker: usize) -> usize {
        self.vms.get_mut(worker.saturating_add(1)).map_or(0, Vm::memory_bytes)
    }
}

impl Proxy {
    fn try_in_canary(&mut self) -> Result<()> {
        self.canaries = self.canaries.saturating_add(1);
        let canary = self.start_vm(VmRole::Canary)?;
        self.world.clusters.cancel(canary.number(), None);
        Ok(())
    }

    /// A new machine with the plugin in it, configured.
    fn start_vm(&mut self, role: VmRole) -> Result<Vm> {
        let mut vm = Vm::new(&self.module, &mut self.world, role, self.random.next_u64())?;
        self.world.configure(&mut vm, &self.plugin)?;
        Ok(vm)
    }

    fn reconfigure_vm(&mut self, index: usize) -> Result<()> {
        let Some(vm) = self.vms.get_mut(index) else { return Ok(()) };
        if vm.has_failed() {
            return self.replace_vm(index);
        }
        let old = vm.active_root();
        self.world.configure(vm, &self.plugin)?;
        old.map_or(Ok(()), |old| vm.retire(&mut self.world, old))
    }

    fn next_event(&self) -> Option<(u64, Event)> {
        let ticks = self.vms.iter().enumerate().filter_map(|(vm, machine)| {
            let (at, root) = machine.next_tick()?;
            Some((at, Event::Tick { vm, root }))
        });
        let stalled_until = |machine| {
            let vm = self.vms.iter().find(|vm| vm.number() == machine);
            vm.map_or(0, |vm| vm.stalled_until_uptime_nanos)
        };
        let answers = self
            .world
            .clusters
            .next_due(stalled_until)
            .map(|(at, number, answer)| (at, Event::Answer { number, answer }));
        answers.into_iter().chain(ticks).min_by_key(|(at, _)| *at)
    }

    fn tick(&mut self, vm: usize, root: u32) -> Result<()> {
        match self.vms.get_mut(vm) {
            Some(vm) => vm.tick(&mut self.world, root),
            None => Ok(()),
        }
    }

    pub(crate) fn check_runs(&self, role: VmRole) -> Result<()> {
        match role {
            VmRole::Worker(worker) if self.is_stalled(worker) => bail!("worker {worker} is stalled"),
            _ => Ok(()),
        }
    }

    pub(crate) fn answer_call(&mut self, number: u64, answer: Answer) -> Result<Call> {
        if let Some(call) = self.world.clusters.pending.iter().find(|call| call.number == number) {
            self.check_runs(call.vm)?;
        }
        let call =
            self.world.clusters.take(number).ok_or_else(|| format_err!("call {number} is not under way"))?;
        if let Some(vm) = self.vms.iter_mut().find(|vm| vm.number() == call.sender.machine) {
            vm.answer(&mut self.world, call.sender.root, call.sender.token, answer)?;
        }
        Ok(call)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn role_of(index: usize) -> VmRole {
    index.checked_sub(1).map_or(VmRole::Main, VmRole::Worker)
}
