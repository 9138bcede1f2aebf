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
