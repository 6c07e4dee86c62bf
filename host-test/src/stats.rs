//! The proxy's stats: the metrics that plugins define, shared by all machines, and each machine's ids for them.
//!
//! A metric is known by its name: whoever defines it a second time, in the same machine or another, gets a new id for
//! the same value.

use std::collections::BTreeMap;

use crate::abi::Status;

/// What a plugin may define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Counter),
            1 => Some(Self::Gauge),
            2 => Some(Self::Histogram),
            _ => None,
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Gauge => 1,
            Self::Histogram => 2,
        }
    }
}

/// All values, by name without Envoy's `wasmcustom.` prefix.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, u64>,
    histograms: BTreeMap<String, Vec<u64>>,
}

impl Stats {
    pub(crate) fn define(&mut self, kind: MetricKind, name: &str) {
        match kind {
            MetricKind::Counter => drop(self.counters.entry(name.to_owned()).or_default()),
            MetricKind::Gauge => drop(self.gauges.entry(name.to_owned()).or_default()),
            MetricKind::Histogram => drop(self.histograms.entry(name.to_owned()).or_default()),
        }
    }

    pub(crate) fn counters(&self) -> &BTreeMap<String, u64> {
        &self.counters
    }

    pub(crate) fn gauges(&self) -> &BTreeMap<String, u64> {
        &self.gauges
    }

    pub(crate) fn histograms(&self) -> &BTreeMap<String, Vec<u64>> {
        &self.histograms
    }
}

/// One machine's metric ids. Envoy keeps the kind in an id's two lowest bits.
#[derive(Debug, Default)]
pub(crate) struct MetricIds {
    names: BTreeMap<u32, String>,
    defined: [u32; 3],
}

const KIND_BITS: u32 = 2;
const KIND_MASK: u32 = (1 << KIND_BITS) - 1;

impl MetricIds {
    pub(crate) fn define(&mut self, kind: MetricKind, name: String) -> u32 {
        let [counters, gauges, histograms] = &mut self.defined;
        let defined = match kind {
            MetricKind::Counter => counters,
            MetricKind::Gauge => gauges,
            MetricKind::Histogram => histograms,
        };
        *defined = defined.wrapping_add(1);
        let id = (*defined << KIND_BITS) | kind.code();
        self.names.insert(id, name);
        id
    }

    /// A counter takes only increments above 0; a gauge any, wrapping below 0 as Envoy's does.
    pub(crate) fn increment(&self, stats: &mut Stats, id: u32, offset: i64) -> Result<(), Status> {
        match self.find(id)? {
            (MetricKind::Counter, name) => {
                let offset =
                    u64::try_from(offset).ok().filter(|offset| *offset > 0).ok_or(Status::BadArgument)?;
                let value = stats.counters.entry(name.to_owned()).or_default();
                *value = value.wrapping_add(offset);
            }
            (MetricKind::Gauge, name) => {
                let value = stats.gauges.entry(name.to_owned()).or_default();
                *value = value.wrapping_add_signed(offset);
            }
            (MetricKind::Histogram, _) => return Err(Status::BadArgument),
        }
        Ok(())
    }

    /// Adds to a counter, sets a gauge, records into a histogram.
    pub(crate) fn record(&self, stats: &mut Stats, id: u32, value: u64) -> Result<(), Status> {
        match self.find(id).map_err(|_| Status::NotFound)? {
            (MetricKind::Counter, name) => {
                let counter = stats.counters.entry(name.to_owned()).or_default();
                *counter = counter.wrapping_add(value);
            }
            (MetricKind::Gauge, name) => drop(stats.gauges.insert(name.to_owned(), value)),
            (MetricKind::Histogram, name) => stats.histograms.entry(name.to_owned()).or_default().push(value),
        }
        Ok(())
    }

    /// A histogram can't be read back.
    pub(crate) fn get(&self, stats: &Stats, id: u32) -> Result<u64, Status> {
        match self.find(id)? {
            (MetricKind::Counter, name) => Ok(stats.counters.get(name).copied().unwrap_or_default()),
            (MetricKind::Gauge, name) => Ok(stats.gauges.get(name).copied().unwrap_or_default()),
            (MetricKind::Histogram, _) => Err(Status::BadArgument),
        }
    }

    /// `NotFound` for an id that was never given out, `BadArgument` where its bits name no kind that can be changed.
    fn find(&self, id: u32) -> Result<(MetricKind, &str), Status> {
        let kind = MetricKind::from_code(id & KIND_MASK).ok_or(Status::BadArgument)?;
        let unknown = if kind == MetricKind::Histogram { Status::BadArgument } else { Status::NotFound };
        let name = self.names.get(&id).ok_or(unknown)?;
        Ok((kind, name))
    }
}
