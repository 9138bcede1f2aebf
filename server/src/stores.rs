//! Where states live on this member: one live checkpoint store, and new ones that a received snapshot becomes.
//!
//! A port with two sides: folders of sled in production, stores in memory in the simulator.

#[cfg(any(test, feature = "testing"))]
pub mod mem;

use std::sync::Arc;

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, CheckpointStore, Meta, StoreError, Table};
use kvd_storage::datadir::Divergence;

/// The stores of one member.
pub trait Stores: Send + Sync {
    /// The live store.
    fn live(&self) -> Arc<dyn CheckpointStore>;

    /// A new, empty store, not yet live. One that never becomes live is deleted at the next start.
    fn create(&self) -> Result<Box<dyn NewStore>, StoreError>;

    /// What is noted of states that differed from the majority's. While it says so, the live store is not used.
    fn divergence(&self) -> Result<Divergence, StoreError>;

    /// Notes it durably.
    fn note_divergence(&self, divergence: &Divergence) -> Result<(), StoreError>;
}

/// A store that is being filled.
pub trait NewStore: Send {
    /// Takes a block; blocks come in order.
    fn put_block(&mut self, id: BlockId, block: Bytes) -> Result<(), StoreError>;

    /// Takes a table row.
    fn put_row(&mut self, table: Table, id: Bytes, row: Bytes) -> Result<(), StoreError>;

    /// Makes all of it durable under this meta.
    fn finish(self: Box<Self>, meta: &Meta) -> Result<Box<dyn FinishedStore>, StoreError>;
}

/// A complete store that is not live yet.
pub trait FinishedStore: Send + Sync {
    /// The store, to read from.
    fn store(&self) -> Arc<dyn CheckpointStore>;

    /// Makes it the live one, durably; the one before goes when nobody reads from it any more.
    fn make_live(&self) -> Result<(), StoreError>;
}
