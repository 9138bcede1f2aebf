//! What the log carries: every replicated request as one value, parsed and checked before it is proposed.
//!
//! A command holds all that apply may depend on. What differs between members (flags, clocks, randomness)
//! was resolved by the proposer and stands in the command (hazard A10).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ids::{Incarnation, Index, LeaseId, LogId, MemberId, RequestId, Revision};
use crate::range::KeyRange;

/// One committed entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the log.
    pub log_id: LogId,
    /// An encoded [`Proposal`]; `None` in a blank entry or one that only changes the membership.
    pub proposal: Option<Bytes>,
    /// The membership this entry puts into force, if it changes it (one entry a change, hazard B4).
    pub membership: Option<Membership>,
}

/// Who votes and who only learns, as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Sets of voters; more than one only while a joint configuration is in force.
    pub voters: Vec<BTreeSet<MemberId>>,
    /// Peer URLs of every member, learners included.
    pub nodes: BTreeMap<MemberId, Vec<String>>,
}

/// A command with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Lets a client repeat a request without its being applied twice; `None` where it gave none.
    pub request_id: Option<RequestId>,
    /// On whose behalf; `None` for the cluster itself or while authentication is off.
    pub actor: Option<Actor>,
    /// What to do.
    pub command: Command,
}

/// The user that asks and the authentication state in which it was identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// User name.
    pub user: String,
    /// Revision of the authentication store at that time.
    pub auth_revision: u64,
}

/// A replicated request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes one key.
    Put(Put),
    /// Deletes a range of keys.
    DeleteRange(DeleteRange),
    /// Compares, then runs one of two branches.
    Txn(Txn),
    /// Forgets history below a revision.
    Compact(Compact),
    /// Creates a lease.
    LeaseGrant(LeaseGrant),
    /// Ends a lease and deletes its keys.
    LeaseRevoke(LeaseRevoke),
    /// Ends a lease whose time is up; nothing if it was revoked and granted anew meanwhile.
    LeaseExpire(LeaseExpire),
    /// Gives leases their full time again.
    LeaseRenew(LeaseRenew),
    /// Notes how much of their time leases have left.
    LeaseRemaining(LeaseRemaining),
    /// Raises or clears an alarm.
    Alarm(AlarmChange),
    /// A member tells its name, client URLs and incarnation.
    Publish(Publish),
    /// Sets the cluster version, `major.minor`.
    ClusterVersion(ClusterVersion),
    /// The learner that this entry brings is a voter to be: it votes once it has caught up (hazard B4).
    ReserveSeat(MemberId),
}

/// Writes one key (rules KV-P).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key; never empty.
    pub key: Bytes,
    /// The value; may be empty.
    pub value: Bytes,
    /// Lease to attach; zero for none.
    pub lease: LeaseId,
    /// Answer with the key as it was before.
    pub prev_kv: bool,
    /// Keep the current value.
    pub ignore_value: bool,
    /// Keep the current lease.
    pub ignore_lease: bool,
}

/// Deletes a range of keys in one revision (behaviour.md 2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Which keys.
    pub range: KeyRange,
    /// Answer with the keys as they were before.
    pub prev_kv: bool,
}

/// Compares, then runs one of two branches, all or nothing (rules KV-T).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Runs when every comparison holds.
    pub success: Vec<TxnOp>,
    /// Runs when one does not.
    pub failure: Vec<TxnOp>,
}

/// One operation of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Reads.
    Range(RangeQuery),
    /// Writes one key.
    Put(Put),
    /// Deletes a range.
    DeleteRange(DeleteRange),
    /// A transaction inside this one.
    Txn(Txn),
}

/// One comparison; it must hold for every key of the range (rules KV-T6, KV-T7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How stored and given are compared.
    pub operator: CompareOperator,
    /// What is compared, and with what.
    pub target: CompareTarget,
}

/// How the stored side (left) relates to the given side (right).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOperator {
    /// Equal.
    Equal,
    /// Stored is greater.
    Greater,
    /// Stored is less.
    Less,
    /// Not equal.
    NotEqual,
    /// An operator number that etcd does not define: always holds (rule KV-T14).
    Unknown,
}

/// What of a key is compared, and the given side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The key's version.
    Version(i64),
    /// Its create revision.
    Create(i64),
    /// Its mod revision.
    Mod(i64),
    /// Its value.
    Value(Bytes),
    /// Its lease.
    Lease(i64),
    /// A target number that etcd does not define: both sides count as equal (rule KV-T14).
    Unknown,
}

/// What a Range asks for (rules KV-R).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; `None` for the latest.
    pub revision: Option<Revision>,
    /// At most so many keys; `None` for all.
    pub limit: Option<u64>,
    /// By what the answer is sorted.
    pub sort_target: SortTarget,
    /// In which direction.
    pub sort_order: SortOrder,
    /// Leave values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Drops keys by their revisions, before sort and limit.
    pub filter: RevisionFilter,
}

/// Bounds on revisions; zero means "off", negative bounds are honoured as given (rule KV-R8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionFilter {
    /// Lower bound of the mod revision.
    pub min_mod: i64,
    /// Upper bound of the mod revision.
    pub max_mod: i64,
    /// Lower bound of the create revision.
    pub min_create: i64,
    /// Upper bound of the create revision.
    pub max_create: i64,
}

/// By what a Range is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// Key bytes.
    #[default]
    Key,
    /// Version.
    Version,
    /// Create revision.
    Create,
    /// Mod revision.
    Mod,
    /// Value bytes.
    Value,
}

/// In which direction a Range is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Not asked for; with a target other than the key it means ascending after the cut (rule KV-R10).
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// Forgets history below a revision (rules KV-C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compact {
    /// As the client gave it; may be negative.
    pub revision: i64,
}

/// Creates a lease (rules L1, L2). Id and time to live are the effective ones, chosen by the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Never zero.
    pub id: LeaseId,
    /// Seconds; already raised to the minimum.
    pub ttl_seconds: i64,
}

/// Ends a lease and deletes its keys (rule L5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRevoke {
    /// Which lease.
    pub id: LeaseId,
}

/// Ends a lease whose time is up (hazard A10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseExpire {
    /// Which lease.
    pub id: LeaseId,
    /// Index of the grant that is meant; another grant of the same id is left alone.
    pub granted_at: Index,
}

/// Gives leases their full time again (rule L6): the renewals of many clients in one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRenew {
    /// Which leases; those that do not exist are answered as such.
    pub ids: Vec<LeaseId>,
}

/// Notes how much of their time leases have left, so that a restarted member does not start them anew
/// (rule L16). A lease's next renewal clears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRemaining {
    /// Lease by lease.
    pub leases: Vec<Remaining>,
}

/// How much of its time one lease has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Which lease.
    pub id: LeaseId,
    /// Index of the grant that is meant; another grant of the same id is left alone.
    pub granted_at: Index,
    /// Seconds, rounded up; from one to the time that was granted.
    pub seconds: i64,
}

/// Raises or clears an alarm (behaviour.md 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmChange {
    /// Raise (`true`) or clear.
    pub raise: bool,
    /// The member it is about.
    pub member: MemberId,
    /// Which alarm.
    pub kind: AlarmKind,
}

/// What an alarm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// A member has no room; growing writes are refused.
    NoSpace,
    /// A member's data differs from the others'.
    Corrupt,
}

/// A member tells what the log does not know of it (rule C2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Which member.
    pub member: MemberId,
    /// Its human name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Its data directory's random mark (hazard A6).
    pub incarnation: Incarnation,
}

/// Sets the cluster version (behaviour.md 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterVersion {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl RangeQuery {
    /// Reads these keys at the latest revision, in key order, without a limit.
    pub fn latest(range: KeyRange) -> Self {
        Self {
            range,
            revision: None,
            limit: None,
            sort_target: SortTarget::Key,
            sort_order: SortOrder::None,
            keys_only: false,
            count_only: false,
            filter: RevisionFilter::default(),
        }
    }
}

impl Proposal {
    /// A command of the cluster itself.
    pub fn internal(command: Command) -> Self {
        Self { request_id: None, actor: None, command }
    }
}

impl Command {
    /// Whether it may make the store larger: what is refused where there is no room (behaviour.md 6.3).
    pub fn grows(&self) -> bool {
        match self {
            Self::Put(_) | Self::LeaseGrant(_) => true,
            Self::Txn(txn) => txn.puts(),
            Self::DeleteRange(_)
            | Self::Compact(_)
            | Self::LeaseRevoke(_)
            | Self::LeaseExpire(_)
            | Self::LeaseRenew(_)
            | Self::LeaseRemaining(_)
            | Self::Alarm(_)
            | Self::Publish(_)
            | Self::ClusterVersion(_)
            | Self::ReserveSeat(_) => false,
        }
    }
}

impl Txn {
    /// Whether a branch puts anything, at any depth.
    pub fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            TxnOp::Put(_) => true,
            TxnOp::Txn(txn) => txn.puts(),
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
        })
    }
}
