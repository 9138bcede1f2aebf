//! A snapshot that arrives becomes a finished, verified state directory, outside Raft (hazards B2, C1).
//!
//! It streams into an empty store in a directory that `CURRENT` does not name; records are flushed as they
//! come, and nothing counts until [`Receiver::finish`] has made all of it durable and proved it against the
//! meta. A receiver that is dropped before leaves a directory that the next start deletes.

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, Meta, StoreError, Table};

use crate::sled_store::{Bulk, SledStore};

/// A state directory that is being filled.
pub struct Receiver {
    bulk: Bulk,
}

impl Receiver {
    /// Fills an empty store.
    pub fn new(store: SledStore) -> Result<Self, StoreError> {
        Ok(Self { bulk: Bulk::new(store)? })
    }

    /// Takes a block. Its sequence must not be above the meta's.
    pub fn put_block(&mut self, id: BlockId, block: &Bytes) -> Result<(), StoreError> {
        self.bulk.block(id, block)
    }

    /// Takes a table row; each id once.
    pub fn put_row(&mut self, table: Table, id: &[u8], row: &Bytes) -> Result<(), StoreError> {
        self.bulk.row(table, id, row)
    }

    /// Makes the state durable and gives the store that holds it, ready to become the live one.
    pub fn finish(self, meta: Meta) -> Result<SledStore, StoreError> {
        self.bulk.finish(meta)
    }
}
