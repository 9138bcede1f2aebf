//! Checkpoints on sled 0.34.7, contained (decision D4): the only room that names sled.
//!
//! One tree of immutable records, see [`keys`](self): nothing is overwritten. A checkpoint writes its blocks
//! and rows under its sequence, and a garbage mark for every older record that it replaces or frees; it
//! makes them durable, then writes its meta, and makes that durable. A record is part of the state when its
//! sequence is not above the last meta's and no garbage mark up to the last meta names it (hazard A1).
//! Garbage is deleted later, a bounded number of records with each commit.
//!
//! It promises that [`SledStore::open`] gives exactly the last committed content or an error, whatever
//! happened to the directory. It does not know what is in a block or a row, nor when the log is durable.

mod bulk;
mod commit;
mod device;
mod garbage;
mod items;
mod keys;
mod meta;
mod opening;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};

pub(crate) use self::bulk::Bulk;
use self::items::Assembly;
use self::keys::Name;
use self::meta::Covered;
pub use self::opening::{OpenError, is_opening, set_aside};

/// What a store needs from outside.
pub struct StoreOptions {
    /// Called after each flush with the time it took; sleeps as long, so that the log's syncs get the device
    /// in between (hazard D6).
    pub pace: Box<dyn Fn(Duration) + Send + Sync>,
    /// Bytes that may still be written to the device; a commit that does not fit is refused before sled sees
    /// it, because an error of sled is final (hazard B5).
    pub free_bytes: Box<dyn Fn() -> io::Result<u64> + Send + Sync>,
}

/// One member's checkpoints in one directory.
pub struct SledStore {
    dir: PathBuf,
    tree: sled::Db,
    device: device::Device,
    options: StoreOptions,
    /// What the last committed meta covers.
    covered: RwLock<Option<Covered>>,
    /// Held by the one who commits.
    writer: Mutex<()>,
    /// Shared by visits of everything; garbage is not collected while one runs.
    visits: RwLock<()>,
    /// Shared by reads of one record; the collector takes it for a few records at a time.
    reads: RwLock<()>,
    /// Records above the last meta may be there: a commit began and ran out of room.
    unfinished: AtomicBool,
    /// Set by the first error of device or engine: what was synced is no longer certain.
    failed: AtomicBool,
}

impl SledStore {
    /// Opens or creates the store in a directory, verifies all of its content, and drops what an unfinished
    /// commit left.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        opening::open(dir, options)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes and syncs a checkpoint's records but not its meta, as a commit does that a power cut ends.
    #[cfg(any(test, feature = "testing"))]
    pub fn commit_without_meta(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        commit::records(self, checkpoint).map(drop)
    }

    fn sequence(&self) -> u64 {
        let covered = self.covered.read().unwrap_or_else(PoisonError::into_inner);
        covered.as_ref().map_or(0, |covered| covered.meta.sequence)
    }

    /// Whether a record that exists is garbage as of a checkpoint.
    fn is_garbage(&self, name: &[u8], sequence: u64) -> Result<bool, StoreError> {
        for key in self.tree.scan_prefix(keys::garbage_of(name)).keys() {
            match Name::parse(&key.map_err(failed)?) {
                Some((Name::Garbage { sequence: since, .. }, _)) if since <= sequence => {
                    return Ok(true);
                }
                Some(_) => {}
                None => return Err(StoreError::Corrupt("unknown garbage mark".to_owned())),
            }
        }
        Ok(false)
    }

    /// Reads one record; `None` where it has no items.
    fn record(&self, name: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let mut assembly = Assembly::default();
        let mut empty = true;
        for item in self.tree.scan_prefix(name) {
            let (key, value) = item.map_err(failed)?;
            let chunk = key.last_chunk::<4>().map_or(0, |chunk| u32::from_be_bytes(*chunk));
            assembly.push(&key, chunk, &value).map_err(StoreError::Corrupt)?;
            if empty {
                verify::tell_cache(&self.tree, &key)?;
            }
            empty = false;
        }
        match assembly.finish() {
            Some(payload) => Ok(Some(payload)),
            None if empty => Ok(None),
            None => Err(StoreError::Corrupt(format!("record {} is incomplete", items::hex(name)))),
        }
    }
}

impl CheckpointStore for SledStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        let covered = self.covered.read().unwrap_or_else(PoisonError::into_inner);
        Ok(covered.as_ref().map(|covered| covered.meta.clone()))
    }

    fn blocks(
        &self,
        visit: &mut dyn FnMut(BlockId, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        verify::visit(self, keys::BLOCK, &mut |name, payload| match name {
            Name::Block(id) => visit(id, payload),
            _ => Ok(()),
        })
    }

    fn rows(
        &self,
        visit: &mut dyn FnMut(Table, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        verify::visit(self, keys::ROW, &mut |name, payload| match name {
            Name::Row { table, id, .. } => visit(table, id, payload),
            _ => Ok(()),
        })
    }

    fn block(&self, id: BlockId) -> Result<Option<Bytes>, StoreError> {
        let _reads = self.reads.read().unwrap_or_else(PoisonError::into_inner);
        let sequence = self.sequence();
        let name = keys::block(id);
        if id.sequence > sequence || self.is_garbage(&name, sequence)? {
            return Ok(None);
        }
        self.record(&name)
    }

    fn commit(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed("an earlier commit failed".to_owned()));
        }
        let result = commit::run(self, checkpoint);
        if matches!(result, Err(StoreError::Failed(_))) {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        device::allocated_bytes(&self.dir).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

#[cfg(test)]
mod tests;
