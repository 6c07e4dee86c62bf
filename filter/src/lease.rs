//! Who holds records, so that what a lost virtual machine held is counted.
//!
//! A machine that traps takes its records with it, and what it had added to the proxy's gauges stays there for ever.
//! So every root context that holds records takes a *slot*: a gauge of its own beside the shared one, and an entry in a
//! table that all machines share, in which it keeps changing a number, its *beat*. A slot whose beat stands still for
//! [`LOST_AFTER_ROUNDS`] looks of another machine is lost: whoever sees it first frees it, and counts what its gauge
//! still shows as `vm_lost`, or as `shutdown` when the owner was told to go before it was gone. Looks are counted, not seconds: a process that was frozen finds all beats moving again.
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

/// Nobody's.
const FREE: Owner = [0; 16];

/// Whoever counts what a lost owner held. Should it be lost while it counts, the next one goes on.
const COUNTING: Owner = [0xff; 16];

/// Bytes of an encoded slot. Versions of the plugin that run side by side during an upgrade share the table: whoever changes
/// what a slot's bytes mean changes the number in the table's key as well (`crate::proxy`).
const SLOT_LEN: usize = 25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    owner: Owner,
    beat: u64,
    is_leaving: bool,
}

impl Slot {
    const UNKNOWN: Self = Self { owner: FREE, beat: 0, is_leaving: false };
}

/// A slot whose owner is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Which slot.
    pub slot: usize,
    /// Whether the owner had been told to go.
    pub was_leaving: bool,
    seen: Slot,
}

/// The table of all slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Slot>);

impl Table {
    /// Reads a table: 25 bytes for each slot, the owner, the beat, little-endian, and whether the owner was told to go.
    /// What follows the last whole slot is nothing that this module has written.
    pub fn decode(bytes: &[u8]) -> Self {
        let slot = |bytes: &[u8]| {
            let (owner, rest) = bytes.split_first_chunk()?;
            let (beat, rest) = rest.split_first_chunk()?;
            Some(Slot { owner: *owner, beat: u64::from_le_bytes(*beat), is_leaving: rest != [0] })
        };
        Self(bytes.chunks_exact(SLOT_LEN).filter_map(slot).take(MAX_SLOTS).collect())
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = |slot: &Slot| {
            let beat = slot.beat.to_le_bytes();
            slot.owner.into_iter().chain(beat).chain([u8::from(slot.is_leaving)])
        };
        self.0.iter().flat_map(bytes).collect()
    }

    /// The slot of `owner`.
    pub fn slot_of(&self, owner: Owner) -> Option<usize> {
        self.0.iter().position(|slot| slot.owner == owner)
    }

    /// Gives `owner` a free slot; `None` when there is none.
    pub fn claim(&mut self, owner: Owner) -> Option<usize> {
        if let Some(at) = self.0.iter().position(|slot| slot.owner == FREE) {
            self.hand_over(at, owner);
            return Some(at);
        }
        (self.0.len() < MAX_SLOTS).then(|| {
            self.0.push(Slot { owner, ..Slot::UNKNOWN });
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

    /// Remembers that `owner` was told to go; `None` when it has no slot.
    pub fn leave(&mut self, owner: Owner) -> Option<()> {
        let slot = self.0.iter_mut().find(|slot| slot.owner == owner)?;
        slot.is_leaving = true;
        Some(())
    }

    /// Takes a lost owner's slot to count what it held; `None` when somebody else has, or the owner is back. It must be
    /// freed afterwards.
    pub fn take_over(&mut self, lost: Lost) -> Option<()> {
        let slot = self.0.get_mut(lost.slot).filter(|slot| **slot == lost.seen)?;
        *slot = Slot { owner: COUNTING, beat: slot.beat.wrapping_add(1), ..*slot };
        Some(())
    }

    /// Frees a slot, whoever has it.
    pub fn free(&mut self, slot: usize) {
        self.hand_over(slot, FREE);
    }

    /// The beat goes on: a slot that comes back to the same owner must not look as it did when it was lost.
    fn hand_over(&mut self, slot: usize, owner: Owner) {
        if let Some(slot) = self.0.get_mut(slot) {
            *slot = Slot { owner, beat: slot.beat.wrapping_add(1), is_leaving: false };
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
    pub fn look(&mut self, table: &Table, own: Owner) -> Vec<Lost> {
        self.seen.resize(table.0.len(), (Slot::UNKNOWN, 0));
        let mut lost = Vec::new();
        for (index, (slot, (seen, rounds))) in table.0.iter().zip(&mut self.seen).enumerate() {
            *rounds = if slot == seen { rounds.saturating_add(1) } else { 0 };
            *seen = *slot;
            if *rounds >= LOST_AFTER_ROUNDS && slot.owner != FREE && slot.owner != own {
                lost.push(Lost { slot: index, was_leaving: slot.is_leaving, seen: *slot });
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
        for len in [0, 1, 24, 25, 26, 100_000] {
            assert_eq!(Table::decode(&vec![7; len]).0.len(), (len / SLOT_LEN).min(MAX_SLOTS));
        }
    }

    fn lost_slots(watch: &mut Watch, table: &Table, own: Owner) -> Vec<usize> {
        watch.look(table, own).iter().map(|lost| lost.slot).collect()
    }

    #[test]
    fn an_owner_whose_beat_stands_still_is_lost_and_one_that_beats_is_not() {
        let (mut table, mut watch) = (Table::default(), Watch::default());
        table.claim(A);
        table.claim(B);
        table.claim(C);
        table.free(2);
        for round in 0..LOST_AFTER_ROUNDS {
            assert_eq!(lost_slots(&mut watch, &table, C), Vec::<usize>::new(), "round {round}");
            table.beat(B);
        }
        assert_eq!(lost_slots(&mut watch, &table, C), [0]);
        assert_eq!(lost_slots(&mut watch, &table, A), Vec::<usize>::new(), "nobody loses itself");
        table.beat(A);
        assert_eq!(lost_slots(&mut watch, &table, C), Vec::<usize>::new(), "it was only slow");
        (0..LOST_AFTER_ROUNDS).for_each(|_| drop(watch.look(&table, C)));
        assert!(lost_slots(&mut watch, &table, C).contains(&0));
        table.free(0);
        table.claim(A);
        assert!(!lost_slots(&mut watch, &table, C).contains(&0), "it came back");
    }

    #[test]
    fn what_a_lost_owner_held_is_counted_by_one_and_its_slot_is_not_given_away_meanwhile() {
        let (mut table, mut watch) = (Table::default(), Watch::default());
        table.claim(A);
        table.leave(A).unwrap();
        let look = |watch: &mut Watch, table: &Table| {
            (0..=LOST_AFTER_ROUNDS).map(|_| watch.look(table, C)).last().unwrap()
        };
        let lost = look(&mut watch, &table)[0];
        assert!(lost.was_leaving);
        assert_eq!((table.take_over(lost), table.take_over(lost)), (Some(()), None));
        assert_eq!(table.slot_of(A), None, "the owner sees that it was counted");
        assert_eq!(table.claim(B), Some(1), "its gauges are still being counted");
        // Whoever counts may be lost as well.
        let again = look(&mut watch, &table);
        assert!(again[0].slot == 0 && again[0].was_leaving && table.take_over(again[0]).is_some());
        table.free(0);
        assert_eq!(table.claim(C), Some(0));
        assert!(!table.0[0].is_leaving, "the next owner was not told to go");
    }

    #[test]
    fn an_owner_that_beats_again_is_not_taken_over() {
        let (mut table, mut watch) = (Table::default(), Watch::default());
        table.claim(A);
        let lost = (0..=LOST_AFTER_ROUNDS).map(|_| watch.look(&table, C)).last().unwrap()[0];
        table.beat(A);
        assert_eq!(table.take_over(lost), None);
    }
}
