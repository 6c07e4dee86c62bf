//! Counts every record into exactly one end, for the proxy's own statistics.
//!
//! The identity that holds whenever no hook is running: captured = sampled out + delivered + Σ dropped + pending.
//! Events come in from the other modules; [`Ledger::take_changes`] goes to the shell, which adds the changes to the
//! proxy's counters. Gauges are told as changes too, because all VMs share one value.

/// Why a record, or a data point, was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No room in the queue.
    QueueFull,
    /// Written to the proxy's log instead.
    Spilled,
    /// The collector refused it for good.
    Rejected,
    /// The collector did not take it in time.
    Expired,
    /// It does not fit into a batch.
    Oversized,
    /// More than the configured rate.
    RateLimited,
    /// The plugin was ended before it could be delivered.
    Shutdown,
    /// The virtual machine that held it was lost.
    VmLost,
}

impl Reason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::QueueFull,
        Self::Spilled,
        Self::Rejected,
        Self::Expired,
        Self::Oversized,
        Self::RateLimited,
        Self::Shutdown,
        Self::VmLost,
    ];

    /// The name in a statistic.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Spilled => "spilled",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Oversized => "oversized",
            Self::RateLimited => "rate_limited",
            Self::Shutdown => "shutdown",
            Self::VmLost => "vm_lost",
        }
    }
}

/// A statistic that the ledger keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// Counter: requests that became log records, or would have.
    RecordsCaptured,
    /// Counter: records that sampling left out.
    RecordsSampledOut,
    /// Counter: records that the collector accepted.
    RecordsDelivered,
    /// Counter: records that were dropped.
    RecordsDropped(Reason),
    /// Counter: data points that were dropped.
    PointsDropped(Reason),
    /// Counter: batches handed to the proxy for sending.
    BatchesSent,
    /// Counter: batches sent again.
    BatchesRetried,
    /// Counter: requests whose values had to be fetched one by one.
    CaptureFallbacks,
    /// Counter: attributes that the user has named and that a record lacks, because they failed.
    AttributeFailures,
    /// Gauge: records captured that have no end yet.
    RecordsPending,
    /// Gauge: bytes of sealed batches that wait or are under way.
    QueueBytes,
}

const REASONS: usize = Reason::ALL.len();
const STATS: usize = 3 + 2 * REASONS + 6;

impl Stat {
    /// All statistics, by [`Stat::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let counters = [Self::RecordsCaptured, Self::RecordsSampledOut, Self::RecordsDelivered];
        let others = [
            Self::BatchesSent,
            Self::BatchesRetried,
            Self::CaptureFallbacks,
            Self::AttributeFailures,
            Self::RecordsPending,
            Self::QueueBytes,
        ];
        counters
            .into_iter()
            .chain(Reason::ALL.map(Self::RecordsDropped))
            .chain(Reason::ALL.map(Self::PointsDropped))
            .chain(others)
    }

    /// The position in [`Stat::all`].
    pub fn index(self) -> usize {
        match self {
            Self::RecordsCaptured => 0,
            Self::RecordsSampledOut => 1,
            Self::RecordsDelivered => 2,
            Self::RecordsDropped(reason) => 3 + reason as usize,
            Self::PointsDropped(reason) => 3 + REASONS + reason as usize,
            Self::BatchesSent => 3 + 2 * REASONS,
            Self::BatchesRetried => 4 + 2 * REASONS,
            Self::CaptureFallbacks => 5 + 2 * REASONS,
            Self::AttributeFailures => 6 + 2 * REASONS,
            Self::RecordsPending => 7 + 2 * REASONS,
            Self::QueueBytes => 8 + 2 * REASONS,
        }
    }

    /// Whether it can fall.
    pub fn is_gauge(self) -> bool {
        matches!(self, Self::RecordsPending | Self::QueueBytes)
    }

    /// The name that the proxy shows, behind its prefix `wasmcustom.`.
    pub fn name(self) -> String {
        match self {
            Self::RecordsCaptured => "offpath_records_captured_total".into(),
            Self::RecordsSampledOut => "offpath_records_sampled_out_total".into(),
            Self::RecordsDelivered => "offpath_records_delivered_total".into(),
            Self::RecordsDropped(reason) => {
                format!("offpath_records_dropped_total.reason.{}", reason.as_str())
            }
            Self::PointsDropped(reason) => {
                format!("offpath_metric_points_dropped_total.reason.{}", reason.as_str())
            }
            Self::BatchesSent => "offpath_batches_sent_total".into(),
            Self::BatchesRetried => "offpath_batches_retried_total".into(),
            Self::CaptureFallbacks => "offpath_capture_fallbacks_total".into(),
            Self::AttributeFailures => "offpath_attribute_failures_total".into(),
            Self::RecordsPending => "offpath_records_pending".into(),
            Self::QueueBytes => "offpath_queue_bytes".into(),
        }
    }
}

/// The counts of one root context, and what the proxy has not been told yet.
#[derive(Debug, Default)]
pub struct Ledger {
    totals: [i64; STATS],
    untold: [i64; STATS],
    has_untold: bool,
    /// By reason: records that lost machines held.
    dropped_for_others: [u64; REASONS],
}

impl Ledger {
    /// A request became a record: it is pending.
    pub fn captured(&mut self) {
        self.add(Stat::RecordsCaptured, 1);
        self.add(Stat::RecordsPending, 1);
    }

    /// A request would have become a record, but was left out.
    pub fn sampled_out(&mut self) {
        self.add(Stat::RecordsCaptured, 1);
        self.add(Stat::RecordsSampledOut, 1);
    }

    /// Pending records were accepted.
    pub fn delivered(&mut self, records: u64) {
        self.add(Stat::RecordsDelivered, records);
        self.change(Stat::RecordsPending, -signed(records));
    }

    /// Pending records were dropped.
    pub fn dropped(&mut self, reason: Reason, records: u64) {
        self.add(Stat::RecordsDropped(reason), records);
        self.change(Stat::RecordsPending, -signed(records));
    }

    /// The records of a lost machine were counted as dropped, by the shell itself: they were never pending here.
    pub fn dropped_for_another(&mut self, reason: Reason, records: u64) {
        if let Some(known) = self.dropped_for_others.get_mut(reason as usize) {
            *known = known.saturating_add(records);
        }
    }

    /// How many records this root context has counted as dropped, those of lost machines included.
    pub fn records_dropped(&self, reason: Reason) -> u64 {
        let for_others = self.dropped_for_others.get(reason as usize).copied().unwrap_or(0);
        for_others.saturating_add_signed(self.get(Stat::RecordsDropped(reason)))
    }

    /// How many data points were dropped.
    pub fn points_dropped(&self, reason: Reason) -> u64 {
        u64::try_from(self.get(Stat::PointsDropped(reason))).unwrap_or(0)
    }

    /// Everything that was told as pending has been counted as lost by somebody else. What was captured since then is
    /// lost with it; ends that were not told yet are not told at all, for their records have had another one.
    pub fn lost(&mut self) {
        let captured_since = self.untold(Stat::RecordsCaptured) - self.untold(Stat::RecordsSampledOut);
        let dropped = Reason::ALL.map(Stat::RecordsDropped);
        for end in dropped.into_iter().chain([Stat::RecordsDelivered]) {
            self.change(end, -self.untold(end));
        }
        for gauge in [Stat::RecordsPending, Stat::QueueBytes] {
            self.change(gauge, -self.get(gauge));
            if let Some(untold) = self.untold.get_mut(gauge.index()) {
                *untold = 0;
            }
        }
        self.change(Stat::RecordsDropped(Reason::VmLost), captured_since);
    }

    /// Adds to a counter, or to what a gauge tells.
    pub fn add(&mut self, stat: Stat, count: u64) {
        self.change(stat, signed(count));
    }

    /// Tells a gauge's new value.
    pub fn set(&mut self, gauge: Stat, value: u64) {
        self.change(gauge, signed(value) - self.get(gauge));
    }

    /// What this root context has counted.
    pub fn get(&self, stat: Stat) -> i64 {
        self.totals.get(stat.index()).copied().unwrap_or(0)
    }

    /// What has changed since the last call, to be added to the proxy's statistics.
    pub fn take_changes(&mut self, mut tell: impl FnMut(Stat, i64)) {
        if !std::mem::take(&mut self.has_untold) {
            return;
        }
        for (stat, untold) in Stat::all().zip(&mut self.untold) {
            let change = std::mem::take(untold);
            if change != 0 {
                tell(stat, change);
            }
        }
    }

    fn untold(&self, stat: Stat) -> i64 {
        self.untold.get(stat.index()).copied().unwrap_or(0)
    }

    fn change(&mut self, stat: Stat, change: i64) {
        let index = stat.index();
        if let (Some(total), Some(untold)) = (self.totals.get_mut(index), self.untold.get_mut(index)) {
            *total = total.saturating_add(change);
            *untold = untold.saturating_add(change);
            self.has_untold = true;
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stat_has_its_own_place_and_name() {
        let mut names = Vec::new();
        for (index, stat) in Stat::all().enumerate() {
            assert_eq!(stat.index(), index, "{stat:?}");
            names.push(stat.name());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STATS);
    }

    #[test]
    fn what_somebody_else_has_counted_as_lost_is_counted_once() {
        let mut ledger = Ledger::default();
        (0..10).for_each(|_| ledger.captured());
        ledger.set(Stat::QueueBytes, 99);
        ledger.take_changes(|_, _| {});
        // A stall: the ten are counted as lost by another worker before any of this could be told.
        (0..3).for_each(|_| ledger.captured());
        ledger.delivered(5);
        ledger.dropped(Reason::Oversized, 1);
        ledger.set(Stat::QueueBytes, 7);
        ledger.lost();
        let mut told = Vec::new();
        ledger.take_changes(|stat, change| told.push((stat, change)));
        assert_eq!(
            told,
            [(Stat::RecordsCaptured, 3), (Stat::RecordsDropped(Reason::VmLost), 3)],
            "the other worker took ten off `pending`"
        );
        assert_eq!((ledger.get(Stat::RecordsPending), ledger.get(Stat::QueueBytes)), (0, 0));
    }

    #[test]
    fn changes_are_told_once() {
        let mut ledger = Ledger::default();
        ledger.captured();
        ledger.captured();
        ledger.delivered(1);
        ledger.set(Stat::QueueBytes, 10);
        let mut told = Vec::new();
        ledger.take_changes(|stat, change| told.push((stat, change)));
        assert_eq!(
            told,
            [
                (Stat::RecordsCaptured, 2),
                (Stat::RecordsDelivered, 1),
                (Stat::RecordsPending, 1),
                (Stat::QueueBytes, 10)
            ]
        );
        ledger.take_changes(|stat, _| panic!("{stat:?} was told twice"));
        ledger.set(Stat::QueueBytes, 4);
        ledger.take_changes(|stat, change| assert_eq!((stat, change), (Stat::QueueBytes, -6)));
    }
}
