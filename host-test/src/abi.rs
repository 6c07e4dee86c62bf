//! The border to the guest: every host function that it may import, and the checks of a module before it is loaded.
//!
//! In come the guest's raw arguments; out go calls on plain data in `crate::vm` and `crate::world`, and back the
//! status and bytes that Envoy would return. Only this module and its children read or write guest memory.
//!
//! Which host functions exist, their encodings and statuses follow proxy-wasm ABI 0.2.1 as proxy-wasm-cpp-host and
//! Envoy implement it. A function that Envoy has and this host does not emulate traps, and the trap names it.

mod guest;
mod imports;
mod pairs;
mod proxy_wasm;
mod status;
mod wasi;

pub use imports::{imports_unknown_to_envoy, missing_exports};
pub use status::Status;

pub(crate) use pairs::encode as encode_pairs;

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::error::Context as _;
use wasmtime::{Caller, Engine, InstancePre, Linker, Module, Result, bail};

use crate::expressions::Compiler;
use crate::vm::HostState;
use guest::{Guest, Refusal};

/// A plugin's module, compiled: cheap to clone, to be compiled once and loaded into many proxies.
#[derive(Clone)]
pub struct PluginModule {
    /// With the host functions linked: tests start many machines.
    linked: InstancePre<HostState>,
    compiler: Arc<Compiler>,
}

impl PluginModule {
    /// Compiles `wasm` after having checked that Envoy could load it.
    ///
    /// # Errors
    /// When `wasm` is not a valid module, imports what Envoy 1.33 does not provide, or lacks an export that Envoy needs.
    pub fn compile(wasm: &[u8]) -> Result<Self> {
        let module = Module::new(&Engine::default(), wasm)?;
        let unknown = imports_unknown_to_envoy(&module);
        if !unknown.is_empty() {
            bail!("the module imports what Envoy 1.33 does not provide: {}", unknown.join(", "));
        }
        let missing = missing_exports(&module);
        if !missing.is_empty() {
            bail!("the module lacks exports that Envoy needs: {}", missing.join(", "));
        }
        let linked = link(&module)?.instantiate_pre(&module)?;
        Ok(Self { linked, compiler: Arc::new(Compiler::new()) })
    }

    /// Compiles a module that was built: the file that the environment's `variable` names, or `file` in the workspace's target
    /// folder. `build` is the command that makes it, for the error.
    ///
    /// # Errors
    /// When there is no such file, or what [`PluginModule::compile`] says.
    pub fn built(variable: &str, file: &str, build: &str) -> Result<Self> {
        let path = std::env::var_os(variable).map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target").join(file),
            PathBuf::from,
        );
        let wasm = std::fs::read(&path)
            .with_context(|| format!("cannot read `{}`; run `{build}` first", path.display()))?;
        Self::compile(&wasm)
    }

    /// The compiled module, for what a test wants to know of its imports and exports.
    #[must_use]
    pub fn module(&self) -> &Module {
        self.linked.module()
    }

    /// The module and its host functions, to be instantiated.
    pub(crate) fn linked(&self) -> &InstancePre<HostState> {
        &self.linked
    }

    /// What compiles its expressions.
    pub(crate) fn compiler(&self) -> &Arc<Compiler> {
        &self.compiler
    }
}

impl std::fmt::Debug for PluginModule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PluginModule").field("module", self.module()).finish_non_exhaustive()
    }
}

/// The host functions for that module.
fn link(module: &Module) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(module.engine());
    proxy_wasm::link(&mut linker)?;
    wasi::link(&mut linker)?;
    // What Envoy has and is not emulated: a call traps, and the trap names the import.
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}

/// Envoy's worker would hang in such a hook; a test fails by it.
const MAX_CALLS_IN_HOOK: u64 = 1_000_000;

/// Runs one proxy-wasm host call: counts it, lets an injected fault answer instead, and turns the outcome into a status.
fn host_call(
    caller: Caller<'_, HostState>,
    name: &'static str,
    body: impl FnOnce(&mut Guest<'_>) -> Result<(), Refusal>,
) -> Result<u32> {
    let mut guest = Guest::new(caller)?;
    if guest.state().vm.starting && name != "proxy_log" {
        bail!("`{name}` was called from the module's initialization, where Envoy does not allow it");
    }
    let vm = &mut guest.state_mut().vm;
    vm.calls_in_hook = vm.calls_in_hook.saturating_add(1);
    if vm.calls_in_hook > MAX_CALLS_IN_HOOK {
        bail!("`{name}`: the hook has made {MAX_CALLS_IN_HOOK} host calls, and does not end");
    }
    let world = &mut guest.state_mut().world;
    let calls = world.host_calls.entry(name).or_default();
    *calls = calls.saturating_add(1);
    if let Some(status) = world.faults.take(name) {
        return Ok(status.code());
    }
    match body(&mut guest) {
        Ok(()) => Ok(Status::Ok.code()),
        Err(Refusal::Status(status)) => Ok(status.code()),
        Err(Refusal::Trap(error)) => Err(error),
    }
}
