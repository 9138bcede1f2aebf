//! A checkpoint store in memory, with the crash model of a real one: what was not committed is gone after
//! [`MemStore::crash`], and a commit can be made to end between its rows and its meta.
//!
//! For tests and the simulator. It promises the contract of [`CheckpointStore`] and nothing of a medium.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};
use crate::mutants::{Mutant, active};

/// How the next commit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device has no room; nothing is written.
    NoSpace,
    /// The power fails after the rows are durable and before the meta is: the store answers nothing more
    /// until [`MemStore::crash`].
    BeforeMeta,
    /// The device fails; the same for every later commit.
    Failed,
}

/// Checkpoints in memory.
#[derive(Debug, Default)]
pub struct MemStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Rows of a commit whose meta never came; only a crash gets rid of them.
    unfinished: Option<Checkpoint>,
    fault: Option<Fault>,
    commits: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    meta: Option<Meta>,
    blocks: BTreeMap<BlockId, Bytes>,
    rows: BTreeMap<(Table, Bytes), Bytes>,
}

impl MemStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that holds what this one would hold after a power cut at this moment.
    pub fn crash(&self) -> Self {
        let state = self.lock().state.clone();
        Self { inner: Mutex::new(Inner { state, ..Inner::default() }) }
    }

    /// Decides how the next commit ends.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Takes back what was decided of the next commit.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// Whether the power failed in the middle of a commit ([`Fault::BeforeMeta`]).
    pub fn is_cut(&self) -> bool {
        self.lock().unfinished.is_some()
    }

    /// How many commits became durable since the store was made.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        match inner.unfinished {
            Some(_) => Err(StoreError::Failed("the power is off".to_owned())),
            None => Ok(inner),
        }
    }
}

impl CheckpointStore for MemStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(self.running()?.state.meta.clone())
    }

    fn blocks(
        &self,
        visit: &mut dyn FnMut(BlockId, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let blocks = self.running()?.state.blocks.clone();
        blocks.into_iter().try_for_each(|(id, block)| visit(id, block))
    }

    fn rows(
        &self,
        visit: &mut dyn FnMut(Table, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rows = self.running()?.state.rows.clone();
        rows.into_iter().try_for_each(|((table, id), row)| visit(table, id, row))
    }

    fn block(&self, id: BlockId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.running()?.state.blocks.get(&id).cloned())
    }

    fn commit(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut inner = self.running()?;
        let next = inner.state.after(checkpoint)?;
        match inner.fault {
            Some(Fault::NoSpace) => {
                inner.fault = None;
                return Err(StoreError::NoSpace);
            }
            Some(Fault::Failed) => return Err(StoreError::Failed("device error".to_owned())),
            Some(Fault::BeforeMeta) => {
                if active(Mutant::RowsBeforeMeta) {
                    inner.state.rows = next.rows;
                }
                inner.unfinished = Some(checkpoint.clone());
                return Err(StoreError::Failed("the power is off".to_owned()));
            }
            None => {}
        }
        inner.state = next;
        inner.commits += 1;
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        let inner = self.running()?;
        let blocks = inner.state.blocks.values().map(Bytes::len);
        let rows = inner.state.rows.iter().map(|((_, id), row)| id.len() + row.len());
        Ok(blocks.chain(rows).sum::<usize>() as u64)
    }
}

impl State {
    /// The state after a checkpoint; refuses one that contradicts itself or what is stored.
    fn after(&self, checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        let meta = &checkpoint.meta;
        let mut next = self.clone();
        if meta.sequence <= self.meta.as_ref().map_or(0, |meta| meta.sequence) {
            return corrupt(format!("checkpoint {} does not follow", meta.sequence));
        }
        for id in &checkpoint.freed {
            if !self.blocks.contains_key(id) {
                return corrupt(format!("freed block {id:?} is not there"));
            }
            next.blocks.remove(id);
        }
        for (id, block) in &checkpoint.blocks {
            if id.sequence != meta.sequence {
                return corrupt(format!("block {id:?} is of another checkpoint"));
            }
            // A block takes the place of an older one that starts with the same change.
            next.blocks.retain(|old, _| old.first != id.first || old.sequence == id.sequence);
            if next.blocks.insert(*id, block.clone()).is_some() {
                return corrupt(format!("block {id:?} is there twice"));
            }
        }
        for (table, id, row) in &checkpoint.rows {
            match row {
                Some(row) => next.rows.insert((*table, id.clone()), row.clone()),
                None => next.rows.remove(&(*table, id.clone())),
            };
        }
        if (next.blocks.len() as u64, next.rows.len() as u64) != (meta.blocks, meta.rows) {
            return corrupt(format!("checkpoint {} counts wrongly", meta.sequence));
        }
        next.meta = Some(meta.clone());
        Ok(next)
    }
}

fn corrupt<T>(what: String) -> Result<T, StoreError> {
    Err(StoreError::Corrupt(what))
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Subject};
    use super::*;

    impl Subject for MemStore {
        fn store(&self) -> &dyn CheckpointStore {
            self
        }

        fn commit_without_meta(&self, checkpoint: &Checkpoint) {
            self.fail_next(Fault::BeforeMeta);
            assert!(!self.is_cut());
            assert!(matches!(self.commit(checkpoint), Err(StoreError::Failed(_))));
            assert!(self.is_cut());
        }

        fn crash(self: Box<Self>) -> Box<dyn Subject> {
            Box::new(Self::crash(&self))
        }
    }

    #[test]
    fn conforms() {
        conformance::run(&|| Box::new(MemStore::new()));
    }

    #[test]
    fn a_full_device_refuses_once_and_changes_nothing() {
        let store = MemStore::new();
        let checkpoint = conformance::checkpoint(1).row(Table::Lease, "7", "a").rows(1).build();
        store.fail_next(Fault::NoSpace);
        assert!(matches!(store.commit(&checkpoint), Err(StoreError::NoSpace)));
        assert_eq!(store.meta().unwrap(), None);
        store.commit(&checkpoint).unwrap();
        assert_eq!((store.meta().unwrap(), store.commits()), (Some(checkpoint.meta), 1));
    }
}
