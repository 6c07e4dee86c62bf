//! The proxy's own statistics: what a ledger has to tell, and what Envoy calls it.
//!
//! They are the bootstrap extension's, which outlives every logger, and of one name for all workers: each adds its changes.

use std::time::Duration;

use offpath_filter::ledger::{Ledger, Stat};

use crate::abi::{MetricKind, Proxy};

/// Envoy's ids, by [`Stat::index`].
pub(crate) struct Statistics {
    ids: Vec<Option<usize>>,
    export_milliseconds: Option<usize>,
}

impl Statistics {
    /// Defines all of them.
    pub(crate) fn define(proxy: &Proxy) -> Self {
        Self {
            ids: Stat::all().map(|stat| proxy.define(kind(stat), &stat.name())).collect(),
            export_milliseconds: proxy.define(MetricKind::Histogram, "offpath_export_milliseconds"),
        }
    }

    /// Tells what has changed.
    pub(crate) fn tell(&self, proxy: &Proxy, ledger: &mut Ledger) {
        ledger.take_changes(|stat, change| {
            if let Some(id) = self.ids.get(stat.index()).copied().flatten() {
                proxy.add(kind(stat), id, change);
            }
        });
    }

    /// Records how long a call took.
    pub(crate) fn record_export(&self, proxy: &Proxy, took: Duration) {
        if let Some(id) = self.export_milliseconds {
            proxy.record(id, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

fn kind(stat: Stat) -> MetricKind {
    if stat.is_gauge() { MetricKind::Gauge } else { MetricKind::Counter }
}
