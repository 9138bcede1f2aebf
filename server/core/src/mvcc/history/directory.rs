//! The names of all sealed blocks in order of their first change, and which of their records are dead.

use std::collections::BTreeSet;

use crate::checkpoint::BlockId;
use crate::ids::ChangeId;
use crate::outcome::Fatal;

/// One sealed block: 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) id: BlockId,
    /// Records in it.
    pub(super) records: u8,
    /// One bit for each record that compaction took.
    pub(super) dead: u16,
    /// A row with its dead records is in a checkpoint.
    pub(super) has_row: bool,
}

impl Slot {
    pub(super) fn is_dead(&self) -> bool {
        self.dead.count_ones() == u32::from(self.records)
    }
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    slots: Vec<Slot>,
    /// First changes of blocks whose marks changed since the last checkpoint.
    dirty: BTreeSet<ChangeId>,
}

impl Directory {
    /// Appends a block; later than all before.
    pub(super) fn push(&mut self, slot: Slot) {
        if slot.dead != 0 {
            self.dirty.insert(slot.id.first);
        }
        self.slots.push(slot);
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn slot_mut(&mut self, first: ChangeId) -> Option<&mut Slot> {
        let at = self.slots.binary_search_by_key(&first, |slot| slot.id.first).ok()?;
        Some(&mut self.slots[at])
    }

    /// Number of the block in which that change lies, if it is in a sealed one.
    pub(super) fn position(&self, change: ChangeId) -> Option<usize> {
        self.slots.partition_point(|slot| slot.id.first <= change).checked_sub(1)
    }

    /// Marks the record at that place of its block dead.
    pub(super) fn forget(&mut self, change: ChangeId, place: u8) -> Result<(), Fatal> {
        let broken = || Fatal::Invariant(format!("dead change {change} is in no block"));
        let position = self.position(change).ok_or_else(broken)?;
        let slot = &mut self.slots[position];
        let mark = 1_u16 << place;
        if place >= slot.records || slot.dead & mark != 0 {
            return Err(broken());
        }
        slot.dead |= mark;
        self.dirty.insert(slot.id.first);
        Ok(())
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<ChangeId> {
        std::mem::take(&mut self.dirty)
    }

    /// Drops blocks without a living record that `gone` names.
    pub(super) fn remove(&mut self, gone: &BTreeSet<ChangeId>) {
        self.slots.retain(|slot| !gone.contains(&slot.id.first));
    }
}
