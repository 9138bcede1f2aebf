//! The counters and names that every ring speaks, each a type of its own so that none is taken for another.
//!
//! Four counters are never confused: an [`Index`] is a position in the Raft log, a [`Term`] a reign of a
//! leader, a [`Revision`] the store's counter, a *version* (an `i64` beside a key) the number of puts of one
//! key since its creation.

use std::fmt;

/// Position in the Raft log, as etcd counts it: the first entry has 1, zero means "nothing yet".
///
/// openraft counts from 0, so kvd's index is openraft's + 1 (hazard A8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A leader's term; zero means "before any election".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A member's id: never reused in the life of a cluster; zero means "no member".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// The cluster's id: fixed at bootstrap (behaviour.md 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// A lease's id. Clients choose it, negative ones too; zero means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// The store's main revision. A new store is at 1, its first write gets 2 (rule M1).
///
/// Signed because the wire is; never negative inside the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// One change of one key: the revision it belongs to and its place within it (rule M2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId {
    /// The revision that all changes of one write share.
    pub main: Revision,
    /// Place inside the revision, from 0, without holes.
    pub sub: u32,
}

/// Names one log entry. Two leaders may exist in one term, so the node belongs to it (hazard A9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that appended the entry.
    pub term: Term,
    /// The leader that appended the entry.
    pub node: MemberId,
    /// The entry's position.
    pub index: Index,
}

/// A random value made once per data directory: tells an emptied disk under an old id apart (hazard A6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A client's name for one request, by which a repetition is known ([`crate::sessions`]).
///
/// `client` and `opened` name the session, `sequence` the request in it; `settled` is what the client says
/// of the session at that time, and differs between two sendings of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The client's random id.
    pub client: u64,
    /// An index that was confirmed to the client before its first request.
    pub opened: Index,
    /// The request's number in its session, from 1.
    pub sequence: u64,
    /// The client will never repeat a request up to this number; zero before the first is over.
    pub settled: u64,
}

impl Revision {
    /// Revision of a store that nobody has written to (rule M1).
    pub const FIRST: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! decimal {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
decimal!(Index, Term, Revision);

/// Ids are lower-case hex without padding in logs and URLs (behaviour.md 5.1).
macro_rules! hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    )*};
}
hex!(MemberId, ClusterId, LeaseId, Incarnation);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.term, self.node, self.index)
    }
}
