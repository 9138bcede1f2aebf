//! Stores in memory: what tests and the simulator use in place of sled, with a crash that keeps exactly what
//! was committed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::checkpoint::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};

use super::{FinishedStore, NewStore, Stores};

/// The stores of one simulated member; clones share them.
#[derive(Clone)]
pub struct MemStores {
    live: Arc<Mutex<Arc<MemStore>>>,
}

impl MemStores {
    /// A member that never had a checkpoint.
    #[must_use]
    pub fn new() -> Self {
        Self { live: Arc::new(Mutex::new(Arc::new(MemStore::new()))) }
    }

    /// What is left after the process died.
    #[must_use]
    pub fn crash(&self) -> Self {
        let survivor = self.lock().crash();
        Self { live: Arc::new(Mutex::new(Arc::new(survivor))) }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<MemStore>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemStores {
    fn default() -> Self {
        Self::new()
    }
}

impl Stores for MemStores {
    fn live(&self) -> Arc<dyn CheckpointStore> {
        Arc::clone(&*self.lock()) as _
    }

    fn create(&self) -> Result<Box<dyn NewStore>, StoreError> {
        let (blocks, rows) = (Vec::new(), Vec::new());
        Ok(Box::new(New { blocks, rows, stores: self.clone() }))
    }
}

struct New {
    blocks: Vec<(BlockId, Bytes)>,
    rows: Vec<(Table, Bytes, Option<Bytes>)>,
    stores: MemStores,
}

impl NewStore for New {
    fn put_block(&mut self, id: BlockId, block: Bytes) -> Result<(), StoreError> {
        self.blocks.push((id, block));
        Ok(())
    }

    fn put_row(&mut self, table: Table, id: Bytes, row: Bytes) -> Result<(), StoreError> {
        self.rows.push((table, id, Some(row)));
        Ok(())
    }

    fn finish(self: Box<Self>, meta: &Meta) -> Result<Box<dyn FinishedStore>, StoreError> {
        let store = MemStore::new();
        store.commit(&Checkpoint {
            meta: meta.clone(),
            blocks: self.blocks,
            rows: self.rows,
            freed: Vec::new(),
        })?;
        Ok(Box::new(Finished { store: Arc::new(store), stores: self.stores }))
    }
}

struct Finished {
    store: Arc<MemStore>,
    stores: MemStores,
}

impl FinishedStore for Finished {
    fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::clone(&self.store) as _
    }

    fn make_live(&self) -> Result<(), StoreError> {
        *self.stores.lock() = Arc::clone(&self.store);
        Ok(())
    }
}
