//! Stores in memory: what tests and the simulator use in place of sled, with a crash that keeps exactly what
//! was committed, also in the middle of a commit, or that leaves checkpoints nobody can use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_core::checkpoint::mem::{Fault, MemStore};
use kvd_core::checkpoint::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};
use kvd_storage::datadir::Divergence;

use super::{FinishedStore, NewStore, Stores};

/// The stores of one simulated member; clones share them.
#[derive(Clone)]
pub struct MemStores {
    live: Arc<Mutex<Arc<MemStore>>>,
    broken: Option<String>,
    divergence: Arc<Mutex<Divergence>>,
    installs: Arc<AtomicU64>,
}

impl MemStores {
    /// A member that never had a checkpoint.
    #[must_use]
    pub fn new() -> Self {
        Self::of(MemStore::new(), None, Divergence::default())
    }

    /// What is left after the process died.
    #[must_use]
    pub fn crash(&self) -> Self {
        Self::of(self.lock().crash(), None, self.noted().clone())
    }

    /// What a start finds after the process died and its checkpoints cannot be used: they are out of the way,
    /// an empty store stands in their place, and [`Self::broken`] says why until the next crash (hazard A5).
    #[must_use]
    pub fn crash_broken(&self, reason: &str) -> Self {
        Self::of(MemStore::new(), Some(reason.to_owned()), self.noted().clone())
    }

    /// Why the checkpoints that were there are of no use, if so: for [`World::broken`](crate::bootstrap::World).
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    /// Decides how the next commit to the live store ends. After [`Fault::BeforeMeta`] the machine is without
    /// power ([`Self::is_cut`]): what it syncs until it is crashed is as if the commit took that long.
    pub fn fail_next_commit(&self, fault: Fault) {
        self.lock().fail_next(fault);
    }

    /// Takes back what was decided of the next commit.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// Whether the power failed in the middle of a commit (hazard A1).
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.lock().is_cut()
    }

    /// States received from others that took the live store's place since the last crash.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.installs.load(Ordering::Relaxed)
    }

    fn of(store: MemStore, broken: Option<String>, divergence: Divergence) -> Self {
        let live = Arc::new(Mutex::new(Arc::new(store)));
        // The process that died must not note anything for the next.
        let divergence = Arc::new(Mutex::new(divergence));
        Self { live, broken, divergence, installs: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<MemStore>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> MutexGuard<'_, Divergence> {
        self.divergence.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn divergence(&self) -> Result<Divergence, StoreError> {
        Ok(self.noted().clone())
    }

    fn note_divergence(&self, divergence: &Divergence) -> Result<(), StoreError> {
        *self.noted() = divergence.clone();
        Ok(())
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
        self.stores.installs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kvd_core::checkpoint::conformance::{checkpoint, content};

    use super::*;

    #[test]
    fn a_crash_in_the_middle_of_a_commit_leaves_the_checkpoint_before() {
        let stores = MemStores::new();
        let first = checkpoint(1).row(Table::Lease, "7", "a").rows(1).build();
        stores.live().commit(&first).unwrap();
        let before = content(&*stores.live()).unwrap();
        stores.fail_next_commit(Fault::BeforeMeta);
        let second = checkpoint(2).delete(Table::Lease, "7").build();
        assert!(matches!(stores.live().commit(&second), Err(StoreError::Failed(_))));
        assert!(stores.is_cut() && stores.live().meta().is_err());
        let survivor = stores.crash();
        assert!(!survivor.is_cut());
        assert_eq!(content(&*survivor.live()).unwrap(), before);
        survivor.live().commit(&second).unwrap();
    }

    #[test]
    fn broken_checkpoints_are_out_of_the_way_and_the_reason_is_told_once() {
        let stores = MemStores::new();
        stores.live().commit(&checkpoint(1).build()).unwrap();
        assert_eq!(stores.broken(), None);
        let found = stores.crash_broken("rotten");
        assert_eq!(found.broken().as_deref(), Some("rotten"));
        assert_eq!(found.live().meta().unwrap(), None);
        let again = found.crash();
        assert_eq!((again.broken(), again.live().meta().unwrap()), (None, None));
    }
}
