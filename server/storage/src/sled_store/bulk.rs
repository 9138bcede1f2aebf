//! Filling an empty store record by record, for a snapshot that arrives: nothing counts until the end.

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, Meta, StoreError, Table};

use super::meta::{Covered, digest};
use super::{SledStore, commit, keys, verify};

/// Rows of a snapshot are of the first sequence there can be.
const ROW_SEQUENCE: u64 = 1;

/// An empty store that is being filled.
pub(crate) struct Bulk {
    store: SledStore,
    unflushed_bytes: u64,
    blocks: u64,
    rows: u64,
    digest: u64,
}

impl Bulk {
    /// Takes an empty store.
    pub(crate) fn new(store: SledStore) -> Result<Self, StoreError> {
        if store.sequence() != 0 {
            return Err(StoreError::Corrupt("the store for a snapshot is not empty".to_owned()));
        }
        Ok(Self { store, unflushed_bytes: 0, blocks: 0, rows: 0, digest: 0 })
    }

    /// Writes a block.
    pub(crate) fn block(&mut self, id: BlockId, block: &Bytes) -> Result<(), StoreError> {
        self.blocks += 1;
        self.write(&keys::block(id), block)
    }

    /// Writes a row.
    pub(crate) fn row(&mut self, table: Table, id: &[u8], row: &Bytes) -> Result<(), StoreError> {
        if id.len() > keys::ROW_ID_BYTES_MAX {
            return Err(StoreError::Corrupt(format!("a row's id has {} bytes", id.len())));
        }
        self.rows += 1;
        self.write(&keys::row(table, id, ROW_SEQUENCE), row)
    }

    fn write(&mut self, name: &[u8], payload: &[u8]) -> Result<(), StoreError> {
        self.digest = self.digest.wrapping_add(digest(name));
        commit::write_paced(&self.store, &mut self.unflushed_bytes, name, payload)
    }

    /// Makes all of it durable, proves it against the meta, and only then writes the meta.
    pub(crate) fn finish(self, meta: Meta) -> Result<SledStore, StoreError> {
        if (self.blocks, self.rows) != (meta.blocks, meta.rows) || meta.sequence == 0 {
            return Err(StoreError::Corrupt(format!(
                "the snapshot claims {} blocks and {} rows, {} and {} came",
                meta.blocks, meta.rows, self.blocks, self.rows
            )));
        }
        let covered = Covered { meta, digest: self.digest };
        commit::sync(&self.store)?;
        if verify::prove(&self.store.tree, &covered)? {
            return Err(StoreError::Corrupt("the snapshot is ahead of its meta".to_owned()));
        }
        commit::seal(&self.store, covered)?;
        Ok(self.store)
    }
}
