//! Bounds of the shell around the node: connections, messages, waits. Each with its unit, and what happens
//! at it.

use std::time::Duration;

/// Bytes that a gRPC message may have beyond the largest write: etcd's `grpcOverheadBytes`. A larger
/// message is refused before it is read (behaviour.md 10.3).
pub(crate) const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Time in which a new connection must say something; a silent one is closed (reliability.md part 5, §3).
pub const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(5);

/// Time in which a request's HTTP/1.1 head must have arrived.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Descriptors kept for files and peers: client connections are refused beyond the rest (behaviour.md 10.3).
pub(crate) const DESCRIPTOR_RESERVE: u64 = 150;

/// Connections of clients where the process may have any number of descriptors.
pub(crate) const CONNECTIONS_MAX: usize = 65_536;

/// Bytes that a connection's client may send ahead of what is read. The HTTP/2 library takes half of it as its
/// allowance for small frames that nobody read yet, about 200 bytes each, and cuts the connection beyond: with its
/// default of a megabyte, of a client that has a few thousand writes begun at once.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Pause after a failed accept, so that a process without descriptors does not spin.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Time that running requests get to end once the member stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Time a health check may wait for its read; etcd's request timeout (behaviour.md 11.1).
pub(crate) const HEALTH_READ_DEADLINE: Duration = Duration::from_secs(7);

/// Keys of the first piece of a streamed range (rule KV-R34).
pub(crate) const STREAM_KEYS_FIRST: u64 = 10;

/// Keys of a streamed range's piece at most, however small they are.
pub(crate) const STREAM_KEYS_MAX: u64 = 65_536;

/// Bytes of log entries in one request to a peer; at least one entry is always sent (hazard C9).
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Bytes of one message between members. Fixed: no flag lowers it, or a member with a smaller value would
/// refuse its leader for ever (hazard C9).
pub const PEER_MESSAGE_BYTES_MAX: usize = 512 << 20;

/// How long a connection to a peer may take to come about.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Entries applied between two published Views (hazard F5).
pub const APPLY_SLICE_ENTRIES: usize = 64;

/// Bytes of changes after which a checkpoint is cut (hazards D2, F9).
pub const CHECKPOINT_BYTES: u64 = 16 << 20;

/// Bytes of changes that no durable checkpoint holds, at which applying waits for the one on its way: a
/// disk that is slower than the clients must not fill the memory.
pub const UNSEALED_BYTES_MAX: u64 = 2 * CHECKPOINT_BYTES;

/// A changed state is checkpointed at least this often (hazard F9).
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// Entries accepted by the log and not yet applied; above it the proposer is told "too many requests".
/// etcd's `maxGapBetweenApplyAndCommitIndex`.
pub const APPLY_GAP_MAX: u64 = 5000;

/// Bytes of proposals in flight on one member; more wait for their turn (hazard D10).
pub const PROPOSAL_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;

/// Log kept below the last checkpoint although nothing here needs it, so that a peer that was away for a
/// while catches up from the log and not by snapshot (hazard A5).
pub const LOG_RETAINED_BYTES: u64 = 64 << 20;

/// Entries between two samples of the state's hashes (hazard B10). The same on all members, or they have few
/// indexes to compare at.
pub const STATE_SAMPLE_ENTRIES: u64 = 1024;

/// Samples that a member keeps: a peer may be so many of them behind and is still compared.
pub(crate) const STATE_SAMPLES_KEPT: usize = 64;

/// How often members compare their samples.
pub const STATE_COMPARE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a difference may wait for a voter that could decide who is wrong; then nobody is trusted to be right.
pub(crate) const STATE_UNDECIDED_MAX: Duration = Duration::from_secs(10);

/// Rebuilds of a diverged state in a row; beyond it the machine is at fault and a person must look.
pub(crate) const STATE_REBUILDS_MAX: u32 = 3;

/// Time in which a rebuilt member agrees with the others until its rebuilds are forgotten.
pub(crate) const STATE_REBUILDS_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// How long physical compaction waits for a reader until the log says so (hazard B8).
pub(crate) const COMPACTION_BLOCKED_TOLD_AFTER: Duration = Duration::from_secs(60);

/// Bytes of log kept at most while a snapshot is on its way to a peer that will go on after it (hazard B2).
pub(crate) const LOG_RETAINED_FOR_SNAPSHOT_BYTES: u64 = 1 << 30;

/// Leases that one entry renews at most: a few kilobytes, applied in well under a millisecond.
pub const LEASE_RENEWALS_PER_ENTRY_MAX: usize = 1000;

/// Renewals that may wait for an entry on the leader; more wait to be let in.
pub(crate) const LEASE_RENEWALS_WAITING_MAX: usize = 65_536;

/// Leases that are ended after one confirmation of leadership; etcd's `leaseRevokeRate` (rule L14).
pub(crate) const LEASE_EXPIRIES_PER_PASS: usize = 500;

/// Ends of leases in flight at once (rule L14 allows 16): few, so that a client's write waits for few.
pub(crate) const LEASE_EXPIRIES_IN_FLIGHT: usize = 4;

/// Time that so many ends in flight take at least: at most 1,000 leases end in a second, as in etcd, so that a
/// hundred thousand whose time is up together leave most of the log to the clients.
pub(crate) const LEASE_EXPIRY_PACE: Duration = Duration::from_millis(4);

/// Leases that one entry notes the remaining time of at most, and how often there may be such an entry: a
/// million leases take a quarter of an hour, and leave the log to the clients.
pub(crate) const LEASE_REMAINING_PER_ENTRY_MAX: usize = 1000;

/// See [`LEASE_REMAINING_PER_ENTRY_MAX`].
pub(crate) const LEASE_REMAINING_INTERVAL: Duration = Duration::from_secs(1);

/// Leases looked at in one interval for whether their remaining time must be noted.
pub(crate) const LEASE_REMAINING_LOOKED_AT_MAX: usize = 20_000;

/// Leases read under one hold of the clock's lock: the applier may wait for it that long.
pub(crate) const LEASE_PAGE: usize = 2000;

/// Bytes of one piece of a snapshot's stream.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

/// Bytes of applied events that wait for the hub; beyond it watchers read from history (hazard D2).
pub(crate) const FEED_BYTES_MAX: usize = 16 << 20;

/// Bytes of responses that wait in one watch stream; beyond it its watchers read from history later, at the
/// pace of their client.
pub(crate) const WATCH_STREAM_BYTES_MAX: usize = 1 << 20;

/// Bytes of responses that wait in all watch streams together, before each is held to its minimum.
pub(crate) const WATCH_BYTES_MAX: usize = 256 << 20;

/// Bytes that may wait in a watch stream however much waits in the others.
pub(crate) const WATCH_STREAM_BYTES_MIN: usize = 16 << 10;

/// Answers to a watch stream's requests that wait for its client; the next request waits with it.
pub(crate) const WATCH_ANSWERS_MAX: usize = 128;

/// Watchers on one stream at most.
pub(crate) const WATCHERS_PER_STREAM_MAX: usize = 100_000;

/// Watchers that one scan of history serves (rule W16).
pub(crate) const CATCH_UP_WATCHERS: usize = 512;

/// Revisions in one response to a watcher that catches up (rule W16).
pub(crate) const CATCH_UP_REVISIONS: usize = 1000;

/// Changes that one scan of history visits, before it lets others read.
pub(crate) const CATCH_UP_CHANGES: usize = 8192;

/// Bytes of events that one scan of history gathers, unless one revision has more.
pub(crate) const CATCH_UP_BYTES: usize = 1 << 20;

/// Bytes of events that one watcher is offered at once, unless one revision has more: as much as fits beside
/// what may wait when its stream is said to have room.
pub(crate) const CATCH_UP_OFFER_BYTES: usize = WATCH_STREAM_BYTES_MAX / 2 - (1 << 10);

/// Revisions that a watcher may lack to be brought up to date while the store stands still for the watches.
pub(crate) const CATCH_UP_NEAR: i64 = 256;

/// Deliveries to watchers after which others get their turn (hazard F25).
pub(crate) const DELIVERIES_PER_TURN: usize = 1000;
