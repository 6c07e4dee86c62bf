//! What all machines of one proxy share: time, log, stats, clusters, shared data, and the faults that a test chose.
//!
//! It is handed into a machine for the duration of each call and taken out again, so that nothing is global or locked.

use std::collections::BTreeMap;

use crate::abi::Status;
use crate::cluster::Clusters;
use crate::stats::Stats;

/// How severe a log line is, in Envoy's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "Envoy's own names")]
pub enum LogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Critical,
}

impl LogLevel {
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Critical]
            .get(code as usize)
            .copied()
    }

    pub(crate) fn code(self) -> u32 {
        self as u32
    }
}

/// Which machine of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum VmRole {
    /// The throw-away machine in which each new configuration is tried.
    #[default]
    Canary,
    /// The main thread's, which sees no request.
    Main,
    /// A worker's, counted from 0.
    Worker(usize),
}

/// One line in the proxy's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The machine that wrote it.
    pub vm: VmRole,
    /// How severe it is.
    pub level: LogLevel,
    /// The text, with U+FFFD for what is not UTF-8.
    pub message: String,
}

/// What the proxy's CEL functions (`expr_create`, `expr_evaluate`, `expr_delete`) do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cel {
    /// They work.
    #[default]
    Built,
    /// The proxy was built without them: `NotFound`.
    NotBuilt,
    /// Expressions are accepted, but each evaluation fails with `InternalFailure`.
    FailsToEvaluate,
}

/// The proxy's own identity (`xds.node`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) cluster: String,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) machines_started: u64,
    pub(crate) log: Vec<LogLine>,
    pub(crate) log_level: LogLevel,
    pub(crate) stats: Stats,
    pub(crate) clusters: Clusters,
    pub(crate) shared_data: SharedData,
    pub(crate) node: Node,
    pub(crate) vm_id: String,
    pub(crate) cel: Cel,
    pub(crate) faults: Faults,
    /// How often each `proxy_*` function was called, by whichever machine.
    pub(crate) host_calls: BTreeMap<&'static str, u64>,
}

/// Virtual time, as the two clocks show it that a process has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// The system's clock, which guests are told and which can be set, in ns since 1970.
    pub(crate) unix_nanos: u64,
    /// The monotonic one, by which everything falls due: 0 when the proxy started.
    pub(crate) uptime_nanos: u64,
}

impl Clock {
    pub(crate) fn advance(&mut self, nanos: u64) {
        self.unix_nanos = self.unix_nanos.saturating_add(nanos);
        self.uptime_nanos = self.uptime_nanos.saturating_add(nanos);
    }

    /// What is to happen at `uptime_nanos` happens now, unless that is past.
    pub(crate) fn advance_to(&mut self, uptime_nanos: u64) {
        self.advance(uptime_nanos.saturating_sub(self.uptime_nanos));
    }
}

/// The key-value store of one `vm_id`, with compare-and-swap.
#[derive(Debug, Default)]
pub(crate) struct SharedData {
    values: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    last_cas: u32,
}

impl SharedData {
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        self.values.get(key).cloned()
    }

    /// A `cas` of 0 overwrites whatever is there.
    pub(crate) fn set(&mut self, key: Vec<u8>, value: Vec<u8>, cas: u32) -> Result<(), Status> {
        if self.values.get(&key).is_some_and(|(_, current)| cas != 0 && cas != *current) {
            return Err(Status::CasMismatch);
        }
        self.last_cas = self.last_cas.checked_add(1).unwrap_or(1);
        self.values.insert(key, (value, self.last_cas));
        Ok(())
    }
}

/// Host calls that a test made fail.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planned: BTreeMap<String, (Status, u32)>,
}

impl Faults {
    pub(crate) fn plan(&mut self, name: &str, status: Status, times: u32) {
        self.planned.insert(name.to_owned(), (status, times));
    }

    /// The status that this call of `name` has to return instead of doing its work.
    pub(crate) fn take(&mut self, name: &str) -> Option<Status> {
        let (status, times) = self.planned.get_mut(name)?;
        *times = times.checked_sub(1)?;
        Some(*status)
    }
}
