//! What applying an entry did. The only way facts leave the core.
//!
//! Errors are split by determinism (decision D11): a [`Rejection`] is the same on every member and is an
//! answer; a [`Fatal`] means this member must stop.

use thiserror::Error;

use crate::command::AlarmKind;
use crate::event::{Event, KeyValue};
use crate::ids::{LeaseId, LogId, MemberId, Revision};
use crate::lease::table::LeaseChange;

/// What one committed entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which entry.
    pub log_id: LogId,
    /// The store's revision after it; of a repetition, after the entry that it repeats.
    pub revision: Revision,
    /// It repeats a request that was applied before: the answer is that one's, and nothing changed.
    pub repeated: bool,
    /// The answer, the same on every member.
    pub outcome: Result<Response, Rejection>,
    /// The changes it made, in order; all belong to `revision`.
    pub events: Vec<Event>,
    /// What became of leases, in order: what clocks follow.
    pub leases: Vec<LeaseChange>,
    /// The membership or the members table changed.
    pub members_changed: bool,
}

impl Applied {
    /// What was refused before it reached the log, by who had applied so much.
    pub fn refused(at: LogId, revision: Revision, rejection: Rejection) -> Self {
        Self {
            log_id: at,
            revision,
            repeated: false,
            outcome: Err(rejection),
            events: Vec::new(),
            leases: Vec::new(),
            members_changed: false,
        }
    }
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing to say: a blank entry, a membership entry, an internal command.
    None,
    /// Answer of a put.
    Put(PutAnswer),
    /// Answer of a delete.
    DeleteRange(DeleteAnswer),
    /// Answer of a transaction.
    Txn(TxnAnswer),
    /// History was compacted.
    Compact,
    /// A lease was granted.
    LeaseGrant {
        /// Its id.
        id: LeaseId,
        /// Its effective time to live in seconds.
        ttl_seconds: i64,
    },
    /// A lease was revoked (or expired).
    LeaseRevoke,
    /// Seconds that each lease was granted, in the order of the command; zero where there is no such lease.
    LeaseRenew(Vec<i64>),
    /// Alarms that the change touched.
    Alarm(Vec<(MemberId, AlarmKind)>),
}

/// Answer of a put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    /// The key before, where asked for and live.
    pub prev_kv: Option<KeyValue>,
}

/// Answer of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// Keys deleted.
    pub deleted: i64,
    /// The keys before, where asked for, in key order.
    pub prev_kvs: Vec<KeyValue>,
}

/// Answer of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// More keys would have followed the limit (rule KV-R7).
    pub more: bool,
    /// Keys in the range at that revision, whatever limit and filters say (rule KV-R5).
    pub count: i64,
}

/// Answer of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Which branch ran.
    pub succeeded: bool,
    /// One answer per operation of that branch, in order.
    pub responses: Vec<OpAnswer>,
    /// The revision that headers of the answers of this level state (rules H5, H6).
    pub revision: Revision,
}

/// Answer of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    /// Of a range, with the revision its header states (rule H5).
    Range(RangeAnswer, Revision),
    /// Of a put, with the revision its header states.
    Put(PutAnswer, Revision),
    /// Of a delete, with the revision its header states.
    DeleteRange(DeleteAnswer, Revision),
    /// Of a nested transaction.
    Txn(TxnAnswer),
}

/// A refusal that every member would give. Texts on the wire are the service's business.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A key is required and empty.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on an absent key; an operation without content in a transaction.
    #[error("key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// More operations than allowed, counted through nesting.
    #[error("too many operations in txn request")]
    TooManyOperations,
    /// One branch puts a key twice, or puts what it deletes.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// The revision was compacted away.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision lies in the future.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("lease already exists")]
    LeaseExists,
    /// The time to live is beyond the maximum.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// The NOSPACE alarm is raised and the request would grow the store.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is raised.
    #[error("corrupt cluster")]
    Corrupt,
    /// The request is larger than this cluster accepts.
    #[error("request is too large")]
    RequestTooLarge,
    /// No such member.
    #[error("member not found")]
    MemberNotFound,
    /// The id is a member's.
    #[error("member ID already exist")]
    MemberExists,
    /// Another member is reached there.
    #[error("Peer URLs already exists")]
    PeerUrlsExist,
    /// What is given is no list of peer URLs.
    #[error("given member URLs are invalid")]
    BadMemberUrls,
    /// As many members without a vote as there may be.
    #[error("too many learner members in cluster")]
    TooManyLearners,
    /// The member votes already.
    #[error("can only promote a learner member")]
    NotLearner,
    /// The learner has not caught up.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// Too many members have never started: the change could cost the majority.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// A request id that its client settled, or that is too far ahead of what it settled.
    #[error("request id is outside the window of its session")]
    RequestOutsideWindow,
    /// A request id of a session that was forgotten, or was never opened.
    #[error("session of the request id is not known")]
    SessionUnknown,
    /// A repetition of a request that was applied and whose answer was too large to be remembered.
    #[error("request was applied at revision {revision}, its answer was not kept")]
    AnswerNotKept {
        /// The store's revision after it was applied.
        revision: Revision,
    },
}

/// This member's state or disk can no longer be trusted: the process must stop.
#[derive(Debug, Error)]
pub enum Fatal {
    /// The checkpoint store failed or holds something it must not.
    #[error("checkpoint store: {0}")]
    Store(String),
    /// An entry of the log cannot be understood.
    #[error("log entry {at}: {reason}")]
    Entry {
        /// Which entry.
        at: LogId,
        /// What is wrong with it.
        reason: String,
    },
    /// An invariant that holds on every healthy member does not hold here.
    #[error("invariant broken: {0}")]
    Invariant(String),
}
