//! One wasm machine: its store, its contexts, and the calls of the plugin's hooks.
//!
//! In come hook calls from [`crate::proxy`], with the world that the machines share; out go the hook's result, or a
//! trap with the guest's backtrace, after which the machine is dead. Which context a host call acts on, what is in
//! scope of it, and when a root context may go follow proxy-wasm-cpp-host's `context.cc` and `wasm.cc`.

mod state;

pub(crate) use state::{Context, HostState, Phase, Plugin, after_ms};

use std::rc::Rc;
use std::sync::Arc;

use wasmtime::error::Context as _;
use wasmtime::{Instance, Result, Store, StoreLimitsBuilder, Val};

use crate::abi::PluginModule;
use crate::cluster::Answer;
use crate::stream_info::{Headers, StreamInfo};
use crate::world::{VmRole, World};
use state::{Reply, VmState};

/// What a machine may have at most, as in Envoy.
const MAX_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// A machine.
pub(crate) struct Vm {
    store: Store<HostState>,
    instance: Instance,
    failed: bool,
    /// The root context that takes new work.
    active_root: Option<u32>,
    /// When it was started, or else when one to replace it was last tried.
    pub(crate) loaded_uptime_nanos: u64,
    /// Until when its thread does nothing.
    pub(crate) stalled_until_uptime_nanos: u64,
}

impl Vm {
    /// Instantiates `module` and runs its initialization. `seed` decides the random bytes that the guest gets.
    pub(crate) fn new(module: &PluginModule, world: &mut World, role: VmRole, seed: u64) -> Result<Self> {
        let limits = StoreLimitsBuilder::new().memory_size(MAX_MEMORY_BYTES).build();
        world.machines_started = world.machines_started.saturating_add(1);
        let vm = VmState::new(role, world.machines_started, seed, Arc::clone(module.compiler()));
        let state = HostState { world: World::default(), vm, limits };
        let mut store = Store::new(module.module().engine(), state);
        store.limiter(|state| &mut state.limits);
        let instance = module.linked().instantiate(&mut store)?;
        let loaded_uptime_nanos = world.clock.uptime_nanos;
        let mut vm = Self {
            store,
            instance,
            failed: false,
            active_root: None,
            loaded_uptime_nanos,
            stalled_until_uptime_nanos: 0,
        };
        let initialize = if vm.exports("_initialize") { "_initialize" } else { "_start" };
        vm.call(world, 0, initialize, &[])?;
        vm.store.data_mut().vm.starting = false;
        Ok(vm)
    }

    /// Creates a root context and configures it: whether the plugin agreed. The root context that was there before is
    /// left alone.
    pub(crate) fn configure(&mut self, world: &mut World, plugin: Rc<Plugin>) -> Result<bool> {
        let size = plugin.configuration.len();
        let root = self.create_root(plugin);
        self.call(world, root, "proxy_on_context_create", &[root, 0])?;
        if self.call(world, root, "proxy_on_vm_start", &[root, 0])? == Some(0) {
            return Ok(false);
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.store.data_mut().vm.configuring = true;
        let configured = self.call(world, root, "proxy_on_configure", &[root, size]);
        self.store.data_mut().vm.configuring = false;
        self.active_root = Some(root);
        Ok(configured? != Some(0))
    }

    fn create_root(&mut self, plugin: Rc<Plugin>) -> u32 {
        let vm = &mut self.store.data_mut().vm;
        let root = vm.create_context(Context { plugin, ..Context::default() });
        if let Some(context) = vm.contexts.get_mut(&root) {
            context.root = root;
        }
        root
    }

    /// The root context that takes new work.
    pub(crate) fn active_root(&self) -> Option<u32> {
        self.active_root
    }

    /// Its number among all machines of the proxy.
    pub(crate) fn number(&self) -> u64 {
        self.store.data().vm.number
    }

    /// Whether the machine has trapped, after which it is not entered any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// How many root contexts are not active any more but have asked to be kept.
    pub(crate) fn draining(&self) -> usize {
        if self.failed {
            return 0;
        }
        self.store.data().vm.contexts.values().filter(|context| context.pending_done).count()
    }

    /// The machine's linear memory, in bytes.
    pub(crate) fn memory_bytes(&mut self) -> usize {
        self.instance.get_memory(&mut self.store, "memory").map_or(0, |memory| memory.data_size(&self.store))
    }

    /// Refuses growth of the linear memory beyond `bytes`.
    pub(crate) fn limit_memory(&mut self, bytes: usize) {
        self.store.data_mut().limits = StoreLimitsBuilder::new().memory_size(bytes).build();
    }

    /// `on_done` of a root context, and its end unless it asks to be kept.
    pub(crate) fn retire(&mut self, world: &mut World, root: u32) -> Result<()> {
        if self.call(world, root, "proxy_on_done", &[root])? == Some(0) {
            if let Some(context) = self.store.data_mut().vm.contexts.get_mut(&root) {
                context.pending_done = true;
            }
            return Ok(());
        }
        self.delete_root(world, root)
    }

    /// The end of the machine: `on_done` of its root context, which is not waited for, whatever it says.
    pub(crate) fn shut_down(mut self, world: &mut World) -> Result<()> {
        let retired = match self.active_root {
            Some(root) => self.retire(world, root),
            None => Ok(()),
        };
        world.clusters.cancel(self.number(), None);
        retired
    }

    fn delete_root(&mut self, world: &mut World, root: u32) -> Result<()> {
        let deleted = self.call(world, root, "proxy_on_delete", &[root]);
        let vm = &mut self.store.data_mut().vm;
        vm.contexts.remove(&root);
        vm.ticks.remove(&root);
        world.clusters.cancel(vm.number, Some(root));
        deleted.map(drop)
    }

    /// When the next tick is due, and whose.
    pub(crate) fn next_tick(&self) -> Option<(u64, u32)> {
        if self.failed {
            return None;
        }
        let ticks = self.store.data().vm.ticks.iter().map(|(root, tick)| (tick.due_nanos, *root));
        ticks.min().map(|(due, root)| (due.max(self.stalled_until_uptime_nanos), root))
    }

    /// `on_tick`, which arms the next one when it has returned.
    pub(crate) fn tick(&mut self, world: &mut World, root: u32) -> Result<()> {
        self.call(world, root, "proxy_on_tick", &[root])?;
        if let Some(tick) = self.store.data_mut().vm.ticks.get_mut(&root) {
            tick.due_nanos = after_ms(world.clock.uptime_nanos, tick.period_ms);
        }
        Ok(())
    }

    /// `on_http_call_response`.
    pub(crate) fn answer(&mut self, world: &mut World, root: u32, token: u32, answer: Answer) -> Result<()> {
        let count = |headers: Option<&Headers>| {
            headers.map_or(0, |headers| u32::try_from(headers.len()).unwrap_or(u32::MAX))
        };
        let body = answer.body().map_or(0, |body| u32::try_from(body.len()).unwrap_or(u32::MAX));
        let arguments = [root, token, count(answer.headers()), body, count(answer.trailers())];
        self.store.data_mut().vm.reply = Some(Reply { root, answer });
        let called = self.call(world, root, "proxy_on_http_call_response", &arguments);
        self.store.data_mut().vm.reply = None;
        called.map(drop)
    }

    /// `on_log` of `context`, in which the whole request is in scope.
    pub(crate) fn log(&mut self, world: &mut World, context: u32, info: Rc<StreamInfo>) -> Result<()> {
        self.in_stream(world, context, (info, Phase::Log), "proxy_on_log", &[]).map(drop)
    }

    /// A hook of a stream, called with what is in scope; its first argument is the context.
    pub(crate) fn in_stream(
        &mut self,
        world: &mut World,
        context: u32,
        stream: (Rc<StreamInfo>, Phase),
        hook: &'static str,
        arguments: &[u32],
    ) -> Result<Option<u32>> {
        let arguments: Vec<u32> = std::iter::once(context).chain(arguments.iter().copied()).collect();
        self.set_stream(context, Some(stream));
        let called = self.call(world, context, hook, &arguments);
        self.set_stream(context, None);
        called
    }

    fn set_stream(&mut self, context: u32, stream: Option<(Rc<StreamInfo>, Phase)>) {
        if let Some(context) = self.store.data_mut().vm.contexts.get_mut(&context) {
            context.stream = stream;
        }
    }

    /// A new stream context below the active root context, not yet known to the guest.
    pub(crate) fn create_stream(&mut self) -> Option<u32> {
        let root = self.active_root?;
        let vm = &mut self.store.data_mut().vm;
        let plugin = Rc::clone(&vm.contexts.get(&root)?.plugin);
        Some(vm.create_context(Context { root, plugin, is_stream: true, ..Context::default() }))
    }

    /// `on_context_create` of a stream context.
    pub(crate) fn announce_stream(&mut self, world: &mut World, stream: u32) -> Result<()> {
        let root = self.active_root.unwrap_or_default();
        self.call(world, stream, "proxy_on_context_create", &[stream, root]).map(drop)
    }

    /// `on_done` and `on_delete` of a stream context, whose answer to the former changes nothing.
    pub(crate) fn destroy_stream(
        &mut self,
        world: &mut World,
        stream: u32,
        info: Rc<StreamInfo>,
    ) -> Result<()> {
        self.in_stream(world, stream, (Rc::clone(&info), Phase::End), "proxy_on_done", &[])?;
        self.in_stream(world, stream, (info, Phase::End), "proxy_on_delete", &[])?;
        self.store.data_mut().vm.contexts.remove(&stream);
        Ok(())
    }

    /// Calls `hook`, if the module exports it, on `context`; `None` where it does not or where it returns nothing. A
    /// machine that has trapped is not entered any more.
    fn call(
        &mut self,
        world: &mut World,
        context: u32,
        hook: &'static str,
        arguments: &[u32],
    ) -> Result<Option<u32>> {
        if self.failed {
            return Ok(None);
        }
        let Some(function) = self.instance.get_func(&mut self.store, hook) else {
            return Ok(None);
        };
        let arguments: Vec<Val> = arguments.iter().map(|argument| Val::I32(argument.cast_signed())).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let state = self.store.data_mut();
        state.vm.current_context = context;
        state.vm.effective_context = 0;
        state.vm.calls_in_hook = 0;
        std::mem::swap(&mut state.world, world);
        let called = function.call(&mut self.store, &arguments, &mut results);
        std::mem::swap(&mut self.store.data_mut().world, world);
        if called.is_err() {
            self.failed = true;
        }
        let role = self.store.data().vm.role;
        called.with_context(|| {
            format!("`{hook}` failed in {role:?}; the log ends with:\n{}", last_lines(world))
        })?;
        for root in std::mem::take(&mut self.store.data_mut().vm.done) {
            self.delete_root(world, root)?;
        }
        Ok(results.first().and_then(Val::i32).map(i32::cast_unsigned))
    }

    fn exports(&mut self, name: &str) -> bool {
        self.instance.get_func(&mut self.store, name).is_some()
    }
}

/// The end of the log, for an error message.
pub(crate) fn last_lines(world: &World) -> String {
    let skipped = world.log.len().saturating_sub(5);
    let lines: Vec<String> = world
        .log
        .iter()
        .skip(skipped)
        .map(|line| format!("{:?} {:?}: {}", line.vm, line.level, line.message))
        .collect();
    lines.join("\n")
}
