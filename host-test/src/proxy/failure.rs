//! What becomes of a machine that has trapped, when the next request comes to it: it stays dead, or is replaced after a
//! pause. Follows Envoy's `PluginConfig` (`wasm.cc`).

use rand::Rng as _;
use wasmtime::Result;

use super::{Mode, Proxy, role_of};

/// `failure_policy` of Envoy's `PluginConfig`. Requests of an access logger pass in any case; they are not logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// A filter answers each request 503.
    #[default]
    FailClosed,
    /// A filter is left out.
    FailOpen,
    /// The machine is replaced by a new one; until then as [`FailurePolicy::FailClosed`].
    FailReload,
}

/// Envoy's counters `wasm.<plugin>.vm_reload_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmReloads {
    /// Requests that came too soon after the last load for another one: the plugin never hears of them.
    pub backoff: u64,
    /// New machines.
    pub success: u64,
    /// New machines that trapped or refused their configuration.
    pub failure: u64,
}

/// Envoy's default for `reload_config.backoff`; what it draws is that or up to half more.
const RELOAD_BACKOFF_MS: u64 = 1000;

impl Proxy {
    /// The machine for a request to `worker`, as its index; `None` when the request has to do without.
    pub(super) fn machine_for_request(&mut self, worker: usize) -> Option<usize> {
        let index = worker.checked_add(1)?;
        if self.vms.get(index)?.has_failed() && self.failure_policy == FailurePolicy::FailReload {
            self.reload(index);
        }
        if !self.vms.get(index)?.has_failed() {
            return Some(index);
        }
        if self.mode == Mode::HttpFilter && self.failure_policy != FailurePolicy::FailOpen {
            self.refused = self.refused.saturating_add(1);
        }
        None
    }

    fn reload(&mut self, index: usize) {
        // Drawn anew for each request, not once for each pause.
        let backoff_ms = self.random.random_range(RELOAD_BACKOFF_MS..RELOAD_BACKOFF_MS * 3 / 2);
        let now = self.world.clock.uptime_nanos;
        let Some(vm) = self.vms.get_mut(index) else { return };
        if now.saturating_sub(vm.loaded_uptime_nanos) / 1_000_000 < backoff_ms {
            self.reloads.backoff = self.reloads.backoff.saturating_add(1);
            return;
        }
        vm.loaded_uptime_nanos = now;
        let counter = match self.replace_vm(index) {
            Ok(()) => &mut self.reloads.success,
            Err(_) => &mut self.reloads.failure,
        };
        *counter = counter.saturating_add(1);
    }

    /// Starts a new machine in the place of one that has trapped, whose calls end with it.
    pub(super) fn replace_vm(&mut self, index: usize) -> Result<()> {
        let new = self.start_vm(role_of(index))?;
        if let Some(vm) = self.vms.get_mut(index) {
            self.world.clusters.cancel(vm.number(), None);
            *vm = new;
        }
        Ok(())
    }
}
