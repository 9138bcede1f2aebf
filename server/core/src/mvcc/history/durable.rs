//! How history becomes durable and comes back: what a checkpoint carries of it, and what opening finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::directory::Slot;
use super::{History, Parts, decode_block};
use crate::checkpoint::{BlockId, Table};
use crate::codec::{encode_change_key, encode_marks};
use crate::ids::ChangeId;
use crate::mvcc::block::Block;
use crate::outcome::Fatal;

/// What a checkpoint carries of history.
#[derive(Debug, Default)]
pub(crate) struct HistoryPart {
    pub(crate) blocks: Vec<(BlockId, Bytes)>,
    pub(crate) rows: Vec<(Table, Bytes, Option<Bytes>)>,
    pub(crate) freed: Vec<BlockId>,
    /// Blocks that the checkpoint covers.
    pub(crate) block_count: u64,
    /// Rows of [`Table::Dead`] that it covers.
    pub(crate) row_count: u64,
}

impl History {
    /// Seals the open block and hands out what changed since the last call, as the checkpoint of that sequence.
    pub(crate) fn checkpoint(&self, sequence: u64) -> HistoryPart {
        let mut parts = self.parts_mut();
        let parts = &mut *parts;
        assert_eq!(
            parts.sequence, sequence,
            "blocks are named after the checkpoint that writes them"
        );
        parts.seal();
        parts.sequence += 1;
        let mut part = HistoryPart::default();
        let mut unwritten = BTreeSet::new();
        for first in parts.directory.take_dirty() {
            let Some(slot) = parts.directory.slot_mut(first) else { continue };
            let key = encode_change_key(slot.id.first, slot.id.sequence);
            if !slot.is_dead() {
                let marks = encode_marks(&key, slot.dead);
                part.rows.push((Table::Dead, key, Some(marks)));
                slot.has_row = true;
                continue;
            }
            if slot.has_row {
                part.rows.push((Table::Dead, key, None));
            }
            if slot.id.sequence == sequence {
                unwritten.insert(first);
            } else {
                part.freed.push(slot.id);
            }
        }
        for first in &unwritten {
            parts.drop_sealed(*first);
        }
        parts.directory.remove(&unwritten);
        for slot in parts.directory.slots().iter().filter(|slot| !slot.is_dead()) {
            part.block_count += 1;
            part.row_count += u64::from(slot.dead != 0);
            if slot.id.sequence == sequence {
                let block = &parts.sealed[&slot.id.first];
                part.blocks.push((slot.id, block.bytes().clone()));
            }
        }
        parts.freed.insert(sequence, part.freed.clone());
        part
    }

    /// The checkpoint of that sequence, and with it all before, is durable.
    pub(crate) fn checkpointed(&self, sequence: u64) {
        let mut parts = self.parts_mut();
        let parts = &mut *parts;
        let later = parts.freed.split_off(&(sequence + 1));
        let freed = std::mem::replace(&mut parts.freed, later);
        let mut cache = self.cache();
        let durable: Vec<BlockId> = parts
            .sealed
            .keys()
            .filter_map(|first| parts.directory.position(*first))
            .map(|position| parts.directory.slots()[position].id)
            .filter(|id| id.sequence <= sequence)
            .collect();
        for id in durable {
            if let Some(block) = parts.drop_sealed(id.first) {
                cache.insert(id, block);
            }
        }
        let freed: Vec<BlockId> = freed.into_values().flatten().collect();
        for id in &freed {
            cache.remove(*id);
        }
        if !freed.is_empty() {
            parts.directory.remove(&freed.iter().map(|id| id.first).collect());
        }
    }

    /// Takes in a block of the last checkpoint, with the marks of its dead records, and returns it.
    pub(crate) fn recover(
        &self,
        id: BlockId,
        bytes: Bytes,
        dead: u16,
    ) -> Result<Arc<Block>, Fatal> {
        let block = Arc::new(decode_block(id, bytes)?);
        let mut parts = self.parts_mut();
        let last = parts.directory.slots().last().map(|slot| slot.id.first);
        if last >= Some(id.first) {
            return Err(Fatal::Store(format!("block {} is out of order", id.first)));
        }
        let records =
            u8::try_from(block.records().len()).expect("a block holds 16 records at most");
        let marked = 16 - dead.leading_zeros();
        if marked > u32::from(records) {
            return Err(Fatal::Store(format!("marks of block {} exceed it", id.first)));
        }
        parts.directory.push(Slot { id, records, dead, has_row: dead != 0 });
        drop(parts);
        self.cache().insert(id, Arc::clone(&block));
        Ok(block)
    }

    /// What was recovered needs no writing again.
    pub(crate) fn recovered(&self) {
        self.parts_mut().directory.take_dirty();
    }

    /// Whether that record stands where its index says, alive.
    pub(crate) fn is_alive(&self, change: ChangeId, place: u8) -> bool {
        let parts = self.parts();
        if parts.open.first().is_some_and(|first| first.change <= change) {
            let record = parts.open.get(usize::from(place));
            return record.is_some_and(|record| record.change == change)
                && parts.open_dead & (1 << place) == 0;
        }
        let position = parts.directory.position(change);
        position.is_some_and(|position| {
            let slot = parts.directory.slots()[position];
            place < slot.records && slot.dead & (1 << place) == 0
        })
    }

    /// Records that are alive.
    pub(crate) fn live_records(&self) -> u64 {
        let parts = self.parts();
        let sealed = parts.directory.slots().iter();
        let sealed: u64 =
            sealed.map(|slot| u64::from(slot.records) - u64::from(slot.dead.count_ones())).sum();
        sealed + parts.open.len() as u64 - u64::from(parts.open_dead.count_ones())
    }
}

impl Parts {
    fn drop_sealed(&mut self, first: ChangeId) -> Option<Arc<Block>> {
        let block = self.sealed.remove(&first)?;
        self.sealed_bytes -= block.bytes().len() as u64;
        Some(block)
    }
}
