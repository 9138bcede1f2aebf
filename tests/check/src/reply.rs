//! What the store answers, and what may have become of a request.

use crate::bytes::Bytes;
use crate::request::{LeaseId, Revision};

/// A key with what the store says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyValue {
    /// Its name.
    pub key: Bytes,
    /// What was put last; empty where only keys were asked for.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
    /// Puts since it was created, 1 at the first.
    pub version: i64,
    /// The lease it hangs on, or 0.
    pub lease: LeaseId,
}

/// What a request is answered when it succeeds; of the same kind as the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// To a read.
    Range(RangeReply),
    /// To a put.
    Put {
        /// What was there before, where asked for and there.
        prev_kv: Option<KeyValue>,
    },
    /// To a delete.
    DeleteRange {
        /// Keys deleted.
        deleted: i64,
        /// What was there before, in key order, where asked for.
        prev_kvs: Vec<KeyValue>,
    },
    /// To a transaction.
    Txn {
        /// Whether all compares held.
        succeeded: bool,
        /// One for each operation that was done.
        replies: Vec<Self>,
    },
    /// To a compaction.
    Compact,
    /// To a grant.
    LeaseGrant {
        /// Seconds to live that were granted.
        ttl_seconds: i64,
    },
    /// To a revoke.
    LeaseRevoke,
    /// To a keep-alive.
    LeaseKeepAlive {
        /// Seconds to live from now on; 0 if there is no such lease.
        ttl_seconds: i64,
    },
}

/// What a read is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeReply {
    /// The keys, in key order.
    pub kvs: Vec<KeyValue>,
    /// More would have followed the limit.
    pub more: bool,
    /// How many there are without the limit.
    pub count: i64,
}

impl Reply {
    /// Whether it tells of a change of keys; such an answer's header revision is the one it made.
    /// A revoke tells only that the lease is gone, so it does not count.
    #[must_use]
    pub fn wrote(&self) -> bool {
        match self {
            Self::Put { .. } => true,
            Self::DeleteRange { deleted, .. } => *deleted > 0,
            Self::Txn { replies, .. } => replies.iter().any(Self::wrote),
            _ => false,
        }
    }
}

/// What became of a request, as its client knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// The revision in the answer's header.
        revision: Revision,
        /// The answer.
        reply: Reply,
    },
    /// It did not happen and never will.
    Refused(Refusal),
    /// It may have happened, or may yet: a timeout, a lost connection.
    Unknown,
}

/// Why a request certainly did not happen. Every other error is [`Outcome::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It asked for a revision before the compacted one.
    Compacted,
    /// It asked for a revision that there is not yet.
    FutureRevision,
    /// There is no such lease.
    LeaseNotFound,
    /// There is such a lease already.
    LeaseExists,
    /// It never reached the log: no connection, over a limit, malformed, not permitted.
    NotProposed,
}
