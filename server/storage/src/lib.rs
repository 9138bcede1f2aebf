//! What survives a power cut: the write-ahead log, checkpoints on sled, the data directory. Blocking; no
//! async anywhere.
//!
//! ```text
//! member/
//!   LOCK  FORMAT  CURRENT     datadir: one process, one owner, which state is live
//!   wal/<seq>.seg             log: entries, vote, committed; one frame a group commit
//!   state-<n>/                sled_store: immutable rows, then their meta
//!   ballast                   space: room to finish a checkpoint on a full disk
//! ```
//! Promises: a callback or a return says "durable" only after a sync that reaches the device; after a power
//! cut a state is exactly the last committed checkpoint, which the log's durable part covers; damage is found
//! and refused, never passed over; a failed sync is never tried again.
//!
//! It does not know what an entry, a block or a row means.

pub mod checkpointer;
pub mod datadir;
pub mod fs;
pub mod log;
pub mod receive;
pub mod sled_store;
pub mod space;
