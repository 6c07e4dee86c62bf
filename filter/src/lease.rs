//! Who holds records, so that what a lost virtual machine held is counted.
//!
//! A machine that traps takes its records with it, and what it had added to the proxy's gauges stays there for ever.
//! So every root context that holds records takes a *slot*: a gauge of its own beside the shared one, and an entry in a
//! table that all machines share, in which it keeps changing a number, its *beat*. A slot whose beat stands still for
//! [`LOST_AFTER_ROUNDS`] looks of another machine is lost: whoever sees it first frees it, and counts what its gauge
//! still shows as `vm_lost`. Looks are counted, not seconds: a process that was frozen finds all beats moving again.
//!
//! Tables come in and go out as bytes (`crate::proxy` keeps them in the proxy's shared data); nothing is dropped here.

/// How often a machine looks at the table and changes its beat, in nanoseconds.
pub const ROUND_NANO: u64 = 2_000_000_000;

/// After how many looks without a change a slot's owner is lost.
pub const LOST_AFTER_ROUNDS: u32 = 8;

/// More root contexts than any proxy has; those beyond are not watched.
const MAX_SLOTS: usize = 1024;

/// Names one root context.
pub type Owner = [u8; 16];

const FREE: Owner = [0; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    owner: Owner,
    beat: u64,
}

/// The table of all slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Slot>);

impl Table {
    /// Reads a table: 24 bytes for each slot, the owner and the beat, little-endian. What follows the last whole slot is
    /// nothing that this module has written.
    pub fn decode(bytes: &[u8]) -> Self {
        let slot = |bytes: &[u8]| {
            let (owner, beat) = bytes.split_at_checked(16)?;
            Some(Slot { owner: owner.try_into().ok()?, beat: u64::from_le_bytes(beat.try_into().ok()?) })
        };
        Self(bytes.chunks_exact(24).filter_map(slot).take(MAX_SLOTS).collect())
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|slot| slot.owner.into_iter().chain(slot.beat.to_le_bytes())).collect()
    }

    /// The slot of `owner`.
    pub fn slot_of(&self, owner: Owner) -> Option<usize> {
        self.0.iter().position(|slot| slot.owner == owner)
    }

    /// Who has a slot.
    pub fn owner(&self, slot: usize) -> Option<Owner> {
        self.0.get(slot).map(|slot| slot.owner)
    }

    /// Gives `owner` a free slot; `None` when there is none.
    pub fn claim(&mut self, owner: Owner) -> Option<usize> {
        if let Some(at) = self.0.iter().position(|slot| slot.owner == FREE) {
            self.hand_over(at, owner);
            return Some(at);
        }
        (self.0.len() < MAX_SLOTS).then(|| {
            self.0.push(Slot { owner, beat: 0 });
            self.0.len() - 1
        })
    }

    /// Changes the beat of `owner`'s slot; `false` when it has none (any more).
    pub fn beat(&mut self, owner: Owner) -> bool {
        match self.0.iter_mut().find(|slot| slot.owner == owner) {
            Some(slot) => {
                slot.beat = slot.beat.wrapping_add(1);
                true
            }
            None => false,
        }
    }

    /// Frees a slot, whoever has it.
    pub fn free(&mut self, slot: usize) {
        self.hand_over(slot, FREE);
    }

    /// The beat goes on: a slot that comes back to the same owner must not look as it did when it was lost.
    fn hand_over(&mut self, slot: usize, owner: Owner) {
        if let Some(slot) = self.0.get_mut(slot) {
            *slot = Slot { owner, beat: slot.beat.wrapping_add(1) };
        }
    }
}

/// What one machine has seen of the others.
#[derive(Debug, Default)]
pub struct Watch {
    /// By slot: as it was last seen, and how many looks it has been so.
    seen: Vec<(Slot, u32)>,
}

impl Watch {
    /// Looks at the table once; returns the slots whose owners are lost.
    pub fn look(&mut self, table: &Table, own: Owner) -> Vec<usize> {
        self.seen.resize(table.0.len(), (Slot { owner: FREE, beat: 0 }, 0));
        let mut lost = Vec::new();
        for (index, (slot, (seen, rounds))) in table.0.iter().zip(&mut self.seen).enumerate() {
            *rounds = if slot == seen { rounds.saturating_add(1) } else { 0 };
            *seen = *slot;
            if *rounds >= LOST_AFTER_ROUNDS && slot.owner != FREE && slot.owner != own {
                lost.push(index);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = [1; 16];
    const B: Owner = [2; 16];
    const C: Owner = [3; 16];

    #[test]
    fn slots_are_claimed_freed_and_claimed_again() {
        let mut table = Table::default();
        assert_eq!((table.claim(A), table.claim(B)), (Some(0), Some(1)));
        table.free(0);
        assert_eq!((table.slot_of(A), table.claim(C), table.slot_of(C)), (None, Some(0), Some(0)));
        assert!(table.beat(C) && !table.beat(A));
        table.free(7);
        assert_eq!(Table::decode(&table.encode()), table);
    }

    #[test]
    fn slots_are_bounded() {
        let mut table = Table::default();
        (0..MAX_SLOTS).for_each(|n| assert_eq!(table.claim([n as u8 | 1; 16]), Some(n)));
        assert_eq!(table.claim(A), None);
    }

    #[test]
    fn any_bytes_are_a_table() {
        for len in [0, 1, 23, 24, 25, 100_000] {
            assert_eq!(Table::decode(&vec![7; len]).0.len(), (len / 24).min(MAX_SLOTS));
        }
    }

    #[test]
    fn an_owner_whose_beat_stands_still_is_lost_and_one_that_beats_is_not() {
        let (mut table, mut watch) = (Table::default(), Watch::default());
        table.claim(A);
        table.claim(B);
        table.claim(C);
        table.free(2);
        for round in 0..LOST_AFTER_ROUNDS {
            assert_eq!(watch.look(&table, C), Vec::<usize>::new(), "round {round}");
            table.beat(B);
        }
        assert_eq!(watch.look(&table, C), [0]);
        assert_eq!(watch.look(&table, A), Vec::<usize>::new(), "nobody loses itself");
        table.beat(A);
        assert_eq!(watch.look(&table, C), Vec::<usize>::new(), "it was only slow");
        (0..LOST_AFTER_ROUNDS).for_each(|_| drop(watch.look(&table, C)));
        assert!(watch.look(&table, C).contains(&0));
        table.free(0);
        table.claim(A);
        assert!(!watch.look(&table, C).contains(&0), "it came back");
    }
}
