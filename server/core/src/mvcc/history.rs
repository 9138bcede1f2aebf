//! Every change in order of its revision: an open block that apply appends to, sealed blocks, and a directory
//! of both.
//!
//! ```text
//!   directory:  [2.0 .. ] [7.3 .. ] [19.0 ..]  ...  [90.0 ..] [95.1 ..] | 99.0 99.1 100.0
//!                in the store, cached by bytes       sealed, not durable |  open
//! ```
//!
//! A sealed block stays in memory until the checkpoint that carries it is durable; from then on it may leave
//! the cache. Compaction marks records dead one by one; a block without a living record is freed, of the others
//! the checkpoint keeps the marks (see `Table::Dead`), or a key whose tombstone went with its block would
//! come back to life when the index is rebuilt.
//!
//! It knows nothing of keys: which change is which key's newest is the index's business.

mod cache;
mod directory;
mod durable;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use self::cache::BlockCache;
use self::directory::{Directory, Slot};
use super::block::Block;
use super::record::Record;
use crate::checkpoint::{BlockId, CheckpointStore, StoreError};
use crate::ids::{ChangeId, Revision};
use crate::limits::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX};
use crate::outcome::Fatal;

/// How far a read may go for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Memory only; what is not there is a [`ReadError::Miss`] (hazard C6).
    Memory,
    /// The checkpoint store as well; the call may block.
    Disk,
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A block is not in memory, and [`Access::Memory`] was all that was allowed: ask again with
    /// [`Access::Disk`] where blocking is fine.
    #[error("a block is not in memory")]
    Miss,
    /// This member cannot go on.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl ReadError {
    /// For reads with [`Access::Disk`], which never miss.
    pub fn into_fatal(self) -> Fatal {
        match self {
            Self::Fatal(fatal) => fatal,
            Self::Miss => Fatal::Invariant("a read that may use the disk missed a block".into()),
        }
    }
}

/// All changes of the store.
pub(crate) struct History {
    store: Arc<dyn CheckpointStore>,
    parts: RwLock<Parts>,
    cache: Mutex<BlockCache>,
}

#[derive(Debug)]
struct Parts {
    /// Records after the last sealed block, with the marks of those already dead.
    open: Vec<Record>,
    open_bytes: usize,
    open_dead: u16,
    directory: Directory,
    /// Sealed blocks that no durable checkpoint holds yet.
    sealed: BTreeMap<ChangeId, Arc<Block>>,
    sealed_bytes: u64,
    /// The checkpoint that will carry the blocks sealed from now on.
    sequence: u64,
    /// Blocks that a checkpoint not yet durable declared free, by its sequence.
    freed: BTreeMap<u64, Vec<BlockId>>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl History {
    /// An empty history; `sequence` is that of the next checkpoint.
    pub(crate) fn new(store: Arc<dyn CheckpointStore>, cache_bytes: usize, sequence: u64) -> Self {
        let parts = Parts {
            open: Vec::new(),
            open_bytes: 0,
            open_dead: 0,
            directory: Directory::default(),
            sealed: BTreeMap::new(),
            sealed_bytes: 0,
            sequence,
            freed: BTreeMap::new(),
        };
        let cache = Mutex::new(BlockCache::new(cache_bytes));
        Self { store, parts: RwLock::new(parts), cache }
    }

    /// Appends a change, later than all before, and says at which place of its block it stands.
    pub(crate) fn push(&self, record: Record) -> u8 {
        let mut parts = self.parts_mut();
        let bytes = record.bytes.len();
        if !parts.open.is_empty() && parts.open_bytes + bytes > BLOCK_BYTES_MAX {
            parts.seal();
        }
        let place = u8::try_from(parts.open.len()).expect("a block holds 16 records at most");
        parts.open_bytes += bytes;
        parts.open.push(record);
        if parts.open.len() == BLOCK_RECORDS_MAX || parts.open_bytes >= BLOCK_BYTES_MAX {
            parts.seal();
        }
        place
    }

    /// The record of that change, which the index named and no compaction took.
    pub(crate) fn get(&self, change: ChangeId, access: Access) -> Result<Record, ReadError> {
        // A block that was merged away between the two steps is found under its new name the second time.
        for _ in 0..2 {
            let place = self.parts().find(change);
            let block = match place {
                Place::Open(record) => return Ok(record),
                Place::Sealed(block) => Some(block),
                Place::Stored(id) => self.load(id, access)?,
                Place::Nowhere => None,
            };
            let found =
                block.and_then(|block| Some(block.records()[block.position(change)?].clone()));
            if let Some(record) = found {
                return Ok(record);
            }
        }
        Err(Fatal::Invariant(format!("change {change} is in no block")).into())
    }

    /// Visits the records from `from` on up to revision `to`, in order. Dead ones of blocks that still stand
    /// are visited too: the caller asks the index.
    pub(crate) fn scan(
        &self,
        mut from: ChangeId,
        to: Revision,
        access: Access,
        visit: &mut dyn FnMut(&Record) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        loop {
            let Some((place, next)) = self.parts().piece(from) else { return Ok(()) };
            let records = match place {
                Piece::Open(records) => records,
                Piece::Sealed(block) => block.records().to_vec(),
                Piece::Stored(id) => match self.load(id, access)? {
                    Some(block) => block.records().to_vec(),
                    // Freed meanwhile: all in it was dead.
                    None => Vec::new(),
                },
            };
            for record in records.iter().filter(|record| record.change >= from) {
                if record.change.main > to || visit(record)?.is_break() {
                    return Ok(());
                }
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Marks changes dead, each with its place in its block: no index names them any more.
    pub(crate) fn forget(
        &self,
        changes: impl IntoIterator<Item = (ChangeId, u8)>,
    ) -> Result<(), Fatal> {
        let mut parts = self.parts_mut();
        for (change, place) in changes {
            if parts.open.first().is_some_and(|first| first.change <= change) {
                parts.open_dead |= 1 << place;
            } else {
                parts.directory.forget(change, place)?;
            }
        }
        Ok(())
    }

    /// Bytes of history that no durable checkpoint holds.
    pub(crate) fn unsealed_bytes(&self) -> u64 {
        let parts = self.parts();
        parts.sealed_bytes + parts.open_bytes as u64
    }

    fn load(&self, id: BlockId, access: Access) -> Result<Option<Arc<Block>>, ReadError> {
        if let Some(block) = self.cache().get(id) {
            return Ok(Some(block));
        }
        if access == Access::Memory {
            return Err(ReadError::Miss);
        }
        let Some(bytes) = self.store.block(id).map_err(store_failed)? else { return Ok(None) };
        let block = Arc::new(decode_block(id, bytes)?);
        self.cache().insert(id, Arc::clone(&block));
        Ok(Some(block))
    }

    fn parts(&self) -> RwLockReadGuard<'_, Parts> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts_mut(&self) -> RwLockWriteGuard<'_, Parts> {
        self.parts.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, BlockCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Place {
    Open(Record),
    Sealed(Arc<Block>),
    Stored(BlockId),
    Nowhere,
}

enum Piece {
    Open(Vec<Record>),
    Sealed(Arc<Block>),
    Stored(BlockId),
}

impl Parts {
    fn seal(&mut self) {
        let records = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        let dead = std::mem::take(&mut self.open_dead);
        let Some(first) = records.first().map(|record| record.change) else { return };
        let block = Arc::new(Block::seal(&records));
        let id = BlockId { first, sequence: self.sequence };
        let records = u8::try_from(records.len()).expect("a block holds 16 records at most");
        self.directory.push(Slot { id, records, dead, has_row: false });
        self.sealed_bytes += block.bytes().len() as u64;
        self.sealed.insert(first, block);
    }

    fn find(&self, change: ChangeId) -> Place {
        if self.open.first().is_some_and(|first| first.change <= change) {
            let at = self.open.binary_search_by_key(&change, |record| record.change);
            return at.map_or(Place::Nowhere, |at| Place::Open(self.open[at].clone()));
        }
        let Some(position) = self.directory.position(change) else { return Place::Nowhere };
        let id = self.directory.slots()[position].id;
        match self.sealed.get(&id.first) {
            Some(block) => Place::Sealed(Arc::clone(block)),
            None => Place::Stored(id),
        }
    }

    /// The first piece that may hold changes from `from` on, and where the piece after it begins.
    fn piece(&self, from: ChangeId) -> Option<(Piece, Option<ChangeId>)> {
        let open = self.open.first().map(|first| first.change);
        let slots = self.directory.slots();
        let mut position = self.directory.position(from).unwrap_or(0);
        while slots.get(position).is_some_and(Slot::is_dead) {
            position += 1;
        }
        if open.is_some_and(|open| open <= from) || position >= slots.len() {
            return open.map(|_| (Piece::Open(self.open.clone()), None));
        }
        let next = slots.get(position + 1).map(|slot| slot.id.first).or(open);
        let id = slots[position].id;
        let piece = match self.sealed.get(&id.first) {
            Some(block) => Piece::Sealed(Arc::clone(block)),
            None => Piece::Stored(id),
        };
        Some((piece, next))
    }
}

fn decode_block(id: BlockId, bytes: Bytes) -> Result<Block, Fatal> {
    let block = Block::decode(bytes)
        .map_err(|error| Fatal::Store(format!("block {}: {error}", id.first)))?;
    if block.first() != id.first {
        return Err(Fatal::Store(format!("block {} begins at {}", id.first, block.first())));
    }
    Ok(block)
}

/// A store that fails or contradicts itself ends the member.
pub(crate) fn store_failed(error: StoreError) -> Fatal {
    Fatal::Store(error.to_string())
}
