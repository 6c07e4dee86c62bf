//! Keeps a root context's slot in the table of [`crate::lease`]: the table is in the proxy's shared data, each slot's
//! holdings are two gauges among its statistics.

use log::warn;

use super::host::{self, Statistics};
use crate::lease::{Lost, Owner, ROUND_NANO, Table, Watch};
use crate::ledger::{Ledger, Reason, Stat};

/// The key of the table, shared by all machines of one `vm_id`, of whatever version of the plugin: the number is that of the
/// table's layout.
const KEY: &[u8] = b"offpath.slots.1";

/// How often a change of the table is tried when others change it at the same time.
const MAX_TRIES: u32 = 16;

/// One root context's lease.
pub(super) struct Lease {
    owner: Owner,
    /// The machine's `vm_id`, as part of a statistic's name: gauges are shared by all machines of the process.
    vm_id: String,
    held: Option<Slot>,
    watch: Watch,
    next_round_unix_nano: u64,
    is_leaving: bool,
}

struct Slot {
    gauges: Gauges,
    records: i64,
    bytes: i64,
}

/// What one slot holds.
struct Gauges {
    records: Option<u32>,
    bytes: Option<u32>,
}

impl Gauges {
    fn of(vm_id: &str, slot: usize) -> Self {
        Self {
            records: host::define_gauge(&format!("offpath_vm_records_pending.vm.{vm_id}-{slot}")),
            bytes: host::define_gauge(&format!("offpath_vm_queue_bytes.vm.{vm_id}-{slot}")),
        }
    }
}

impl Lease {
    /// No slot yet: that is taken when there is something to hold.
    pub(super) fn new(owner: Owner) -> Self {
        let vm_id = host::text_property(b"plugin_vm_id");
        let plain = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char } else { '_' };
        Self {
            owner,
            vm_id: vm_id.chars().take(64).map(plain).collect(),
            held: None,
            watch: Watch::default(),
            next_round_unix_nano: 0,
            is_leaving: false,
        }
    }

    /// The root context was told to go: what it holds when it is gone was given up, not lost.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        if self.held.is_some() {
            change_table(|table| table.leave(self.owner));
        }
    }

    /// Tells the slot's gauges what the root context holds now.
    pub(super) fn hold(&mut self, ledger: &Ledger) {
        let (records, bytes) = (ledger.get(Stat::RecordsPending), ledger.get(Stat::QueueBytes));
        if self.held.is_none() && (records != 0 || bytes != 0) {
            let slot = change_table(|table| {
                let slot = table.slot_of(self.owner).or_else(|| table.claim(self.owner));
                if self.is_leaving {
                    table.leave(self.owner);
                }
                slot
            });
            self.held = slot.map(|slot| Slot { gauges: Gauges::of(&self.vm_id, slot), records: 0, bytes: 0 });
        }
        if let Some(slot) = &mut self.held {
            host::add(slot.gauges.records, records - slot.records);
            host::add(slot.gauges.bytes, bytes - slot.bytes);
            (slot.records, slot.bytes) = (records, bytes);
        }
    }

    /// Changes the own beat and looks for lost owners, when it is time to; `counted` hears of the records that they held.
    /// `false` when this root context was taken for lost itself, in which case all that it holds has been counted already.
    pub(super) fn round(
        &mut self,
        now_unix_nano: u64,
        statistics: &Statistics,
        mut counted: impl FnMut(Reason, u64),
    ) -> bool {
        // After a clock was set back nobody knows how long ago the last round was.
        if (1..=ROUND_NANO).contains(&self.next_round_unix_nano.saturating_sub(now_unix_nano)) {
            return true;
        }
        self.next_round_unix_nano = now_unix_nano.saturating_add(ROUND_NANO);
        let Some((table, _)) = read_table() else {
            return true;
        };
        for lost in self.watch.look(&table, self.owner) {
            self.count_lost(lost, statistics, &mut counted);
        }
        if self.held.is_some() && change_table(|table| self.beat(table)).is_none() {
            // Either the slot is gone, or all tries met with others' changes, which the next round makes good.
            return read_table().is_none_or(|(table, _)| table.slot_of(self.owner).is_some());
        }
        true
    }

    /// Says again that it is leaving, too: all tries to say so may have met with others' changes.
    fn beat(&self, table: &mut Table) -> Option<()> {
        if self.is_leaving {
            table.leave(self.owner);
        }
        table.beat(self.owner).then_some(())
    }

    /// Gives the slot up; what the gauges held has had its end.
    pub(super) fn release(&mut self) {
        if self.held.take().is_some() {
            change_table(|table| table.slot_of(self.owner).map(|slot| table.free(slot)));
        }
    }

    /// Forgets the slot, which somebody else has freed.
    pub(super) fn forget(&mut self) {
        self.held = None;
    }

    fn count_lost(&self, lost: Lost, statistics: &Statistics, counted: &mut impl FnMut(Reason, u64)) {
        // Whoever takes it over counts it: once.
        if change_table(|table| table.take_over(lost)).is_none() {
            return;
        }
        let gauges = Gauges::of(&self.vm_id, lost.slot);
        let (records, bytes) = (host::value(gauges.records), host::value(gauges.bytes));
        host::add(gauges.records, -records);
        host::add(gauges.bytes, -bytes);
        let reason = if lost.was_leaving { Reason::Shutdown } else { Reason::VmLost };
        statistics.add(Stat::RecordsDropped(reason), records);
        counted(reason, u64::try_from(records).unwrap_or(0));
        statistics.add(Stat::RecordsPending, -records);
        statistics.add(Stat::QueueBytes, -bytes);
        change_table(|table| {
            table.free(lost.slot);
            Some(())
        });
        if records > 0 {
            warn!("a virtual machine is gone with {records} records, counted as {}", reason.as_str());
        }
    }
}

/// The number of a change that wants no table to be there yet: none has it.
const ABSENT: u32 = u32::MAX;

/// The table, if there is one yet, and the number that a change of it must name.
fn read_table() -> Option<(Table, u32)> {
    let (bytes, version) = host::shared_data(KEY)?;
    Some((Table::decode(&bytes), version))
}

/// Changes the table unless `change` does not want to; tries again while others change it at the same time.
fn change_table<T>(change: impl Fn(&mut Table) -> Option<T>) -> Option<T> {
    for _ in 0..MAX_TRIES {
        let (mut table, version) = read_table().unwrap_or((Table::default(), ABSENT));
        let changed = change(&mut table)?;
        if host::set_shared_data(KEY, &table.encode(), version) {
            return Some(changed);
        }
    }
    None
}
