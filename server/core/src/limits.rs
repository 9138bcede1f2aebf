//! Every bound that the replicated state depends on, with unit, etcd's value and what happens at the limit.

/// Records in one block of history at most; sled packs best at about this many (design measurement: 16
/// revisions a record load at 700 k/s and leave no blob file).
pub const BLOCK_RECORDS_MAX: usize = 16;

/// Bytes of records in one block, unless a single record is larger; sled items stay far below the size at
/// which it spills into unsynced blob files (hazard C7).
pub const BLOCK_BYTES_MAX: usize = 6 * 1024;

/// Largest lease time to live in seconds; etcd's `MaxLeaseTTL`. Above it: `LeaseTtlTooLarge`.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// Keys read from the index under one hold of its lock (hazard D4).
pub const INDEX_PAGE_KEYS: usize = 256;

/// Keys of one compaction step between two slices of apply (hazard C4).
pub const COMPACT_STEP_KEYS: usize = 64;

/// Transactions nested deeper than this are refused as having too many operations: etcd counts one operation
/// per level at least (rule KV-T3), so with its default limit no deeper one passes there either.
pub const TXN_DEPTH_MAX: usize = 128;

/// Requests of one session that may be open at once: numbers beyond what the client settled by more are
/// refused. Part of the replicated state, as the three limits below: all members must have the same.
pub const REQUEST_WINDOW: u32 = 128;

/// Sessions remembered at most, about 250 bytes of memory each; the one used longest ago is forgotten first.
pub const REQUEST_SESSIONS_MAX: usize = 4096;

/// Answers remembered at most, of all sessions together: 64 MiB if all are as large as they may be, about
/// 10 MiB where they are of puts. Beyond it whole sessions are forgotten, the one used longest ago first.
pub const REQUEST_ANSWERS_MAX: usize = 65_536;

/// Bytes of one remembered answer; of a larger one only the revision is kept.
pub const REQUEST_ANSWER_BYTES_MAX: usize = 1024;

const _: () = assert!(REQUEST_WINDOW as usize <= REQUEST_ANSWERS_MAX, "one session must fit");
const _: () =
    assert!(BLOCK_BYTES_MAX * 19 < 512 * 1024 / 4 - 20, "19 items of a sled leaf must not spill");
