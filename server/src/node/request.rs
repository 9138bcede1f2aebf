//! How a request ends when it does not succeed, and what a caller may ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use kvd_core::ids::{ClusterId, Index, MemberId, Revision, Term};
use kvd_core::outcome::Rejection;
use kvd_core::sessions::RequestCounts;
use thiserror::Error;

use super::watch::Counts as WatchCounts;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began (rule KV-R14).
    Linearizable,
    /// Whatever this member has applied (rule KV-R13).
    Serializable,
}

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Every member refuses it the same way.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// This member cannot now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why this member cannot serve now. Texts on the wire are the service's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// The leader changed while a read waited.
    #[error("leader changed")]
    LeaderChanged,
    /// Accepted by the log, but not applied in time: it may still happen.
    #[error("request timed out")]
    Timeout,
    /// As `Timeout`, and the request began shortly before the present leader was elected.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFail,
    /// As `Timeout`, and this member lost its leader since the request began.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This leader was slow to apply what is committed (rule L7).
    #[error("request timed out, waiting for the applied index took too long")]
    TimeoutApplied,
    /// Never accepted by the log: no leader turned up in time (behaviour.md 10.4 b).
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// Too much is waiting to be applied.
    #[error("too many requests")]
    TooManyRequests,
    /// This member is shutting down.
    #[error("server stopped")]
    Stopped,
    /// This member's state differs from the majority's: it is not served (hazard B10).
    #[error("the state of this member differs from the majority's")]
    Diverged,
    /// Too few members answer to risk a change of the membership (rule C8).
    #[error("unhealthy cluster")]
    Unhealthy,
    /// This member's device is too full for requests that grow the store.
    #[error("database space exceeded")]
    NoSpace,
}

/// Why leadership is not moved (behaviour.md 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MoveRefused {
    /// This member does not lead.
    #[error("not leader")]
    NotLeader,
    /// It is no voter, or does not answer.
    #[error("bad leader transferee")]
    BadTransferee,
}

/// Who answers: what a response header states beside the revision (rule H1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member that answers.
    pub member_id: MemberId,
    /// Its current term.
    pub term: Term,
}

/// What Maintenance.Status, metrics and health need to know of this member (behaviour.md 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who answers.
    pub header: Header,
    /// The leader as seen here (hazard B3); `None` without one.
    pub leader: Option<MemberId>,
    /// The cluster's committed index as known here.
    pub committed: Index,
    /// Applied and visible here.
    pub applied: Index,
    /// The last entry of this member's log.
    pub last: Index,
    /// The store's revision.
    pub revision: Revision,
    /// This member does not vote.
    pub is_learner: bool,
    /// Bytes that the state occupies on the device.
    pub db_size: u64,
    /// Bytes of live and uncompacted records.
    pub db_size_in_use: u64,
    /// Configured quota: 0 means the default, negative means none.
    pub quota_bytes: i64,
    /// The member finished recovery and may be sent traffic.
    pub ready: bool,
    /// Leader changes seen since start.
    pub leader_changes: u64,
    /// Proposals waiting for their answer.
    pub proposals_pending: u64,
    /// Proposals that failed since start.
    pub proposals_failed: u64,
    /// Bytes of snapshots sent to other members since start.
    pub snapshot_sent_bytes: u64,
    /// How long physical compaction has waited for a reader of what it would remove.
    pub compaction_waited: Duration,
    /// Who watches.
    pub watches: WatchCounts,
    /// What is remembered of requests with an id.
    pub requests: RequestCounts,
    /// Every member, and whether its state is known to differ from the majority's.
    pub state_differs: BTreeMap<MemberId, bool>,
}
