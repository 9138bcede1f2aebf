//! The port through which state becomes durable: rows of one checkpoint, then its meta, or nothing.
//!
//! Contract (hazard A1): rows are never overwritten in place. A commit makes its rows durable before its
//! meta and its meta before it returns. After a crash the store holds exactly the last committed meta and all
//! that it covers; rows of an unfinished commit are invisible. Blocks that a commit frees, and rows that it
//! supersedes, may be deleted only after it is durable.

use bytes::Bytes;

use crate::command::Membership;
use crate::ids::{ChangeId, LogId, Revision};

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod mem;

/// Names a block of history: the first change in it and the checkpoint that wrote it.
///
/// Blocks are in order of `first`; a merged block takes the place of the blocks whose changes it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// First change in the block.
    pub first: ChangeId,
    /// Sequence of the checkpoint that wrote it.
    pub sequence: u64,
}

/// The small tables whose rows a checkpoint carries. Numbers are on disk: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Leases: id to time to live and index of grant.
    Lease = 1,
    /// Members: id to name and URLs.
    Member = 2,
    /// Ids of removed members.
    Removed = 3,
    /// Alarms raised.
    Alarm = 4,
    /// Single values of the cluster: its version, and up to where sessions were forgotten.
    Cluster = 5,
    /// Records that compaction took from blocks that still stand: first change and sequence to a mask.
    ///
    /// Without it a block that holds an old put, and outlives the block with that key's tombstone, would
    /// bring the key back when the index is rebuilt. Differs between members, so it is in no hash.
    Dead = 6,
    /// Sessions of clients that give their requests ids: client to opening, settled number and last use.
    Session = 7,
    /// Answers remembered for repetitions: client and number to the answer or its revision.
    Answer = 8,
}

impl Table {
    /// The table of that number, as its rows name it on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        let all = [
            Self::Lease,
            Self::Member,
            Self::Removed,
            Self::Alarm,
            Self::Cluster,
            Self::Dead,
            Self::Session,
            Self::Answer,
        ];
        all.into_iter().find(|table| *table as u8 == number)
    }
}

/// What a checkpoint says of itself, written last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Grows by one with each checkpoint, from 1.
    pub sequence: u64,
    /// The last entry applied.
    pub applied: LogId,
    /// The membership in force and the entry that brought it.
    pub membership: (Option<LogId>, Membership),
    /// The store's revision.
    pub revision: Revision,
    /// The compaction mark; `None` when never compacted (rule M10).
    pub compacted: Option<Revision>,
    /// Hash over every live row (hazard C2); recomputed and compared on open.
    pub live_hash: u64,
    /// Chain over all revision records ever applied (hazard C2); carried, never recomputed.
    pub history_hash: u64,
    /// Number of blocks that this checkpoint covers.
    pub blocks: u64,
    /// Number of table rows that this checkpoint covers.
    pub rows: u64,
}

/// All that one commit writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Written last.
    pub meta: Meta,
    /// Sealed blocks since the checkpoint before, encoded.
    pub blocks: Vec<(BlockId, Bytes)>,
    /// Table rows changed since the checkpoint before; `None` deletes.
    pub rows: Vec<(Table, Bytes, Option<Bytes>)>,
    /// Blocks that are no longer part of the state as of this checkpoint.
    pub freed: Vec<BlockId>,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The device has no room; nothing was written, and the commit may be tried again later.
    #[error("no space left for a checkpoint")]
    NoSpace,
    /// What is stored contradicts itself.
    #[error("corrupt checkpoint: {0}")]
    Corrupt(String),
    /// The device or the engine failed; the member must stop.
    #[error("checkpoint store failed: {0}")]
    Failed(String),
}

/// Durable home of one member's checkpoints. Blocking; one writer, many readers.
pub trait CheckpointStore: Send + Sync {
    /// The last committed meta; `None` in a new store.
    fn meta(&self) -> Result<Option<Meta>, StoreError>;

    /// Visits every block that the last meta covers, in order of its first change.
    fn blocks(
        &self,
        visit: &mut dyn FnMut(BlockId, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Visits every table row that the last meta covers, in order of table and id.
    fn rows(
        &self,
        visit: &mut dyn FnMut(Table, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// One block; `None` if it is not there (freed by a later checkpoint).
    fn block(&self, id: BlockId) -> Result<Option<Bytes>, StoreError>;

    /// Makes the checkpoint durable; when it returns, a crash keeps exactly this checkpoint.
    fn commit(&self, checkpoint: &Checkpoint) -> Result<(), StoreError>;

    /// Bytes that the store occupies on its device.
    fn size_bytes(&self) -> Result<u64, StoreError>;
}
