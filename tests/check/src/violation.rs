//! What is wrong with a history.

use std::fmt;

use crate::history::{OpId, Operation};

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The history itself is no use: two writes alike, time that goes back, an operation that ended twice.
    /// The fault is the workload's, not the store's.
    Misuse,

    // Order: the log has each revision once, and whoever made it.
    /// A witness was not told of a revision.
    SkippedRevision,
    /// A witness was told of a revision again, or of an older one after a newer one.
    RepeatedRevision,
    /// Two witnesses were told different things of one revision.
    WitnessesDisagree,
    /// A revision that nobody asked for.
    Phantom,
    /// One write made two revisions.
    DuplicatedWrite,
    /// A write was acknowledged at a revision that is not its own, or that does not exist.
    LostWrite,
    /// A write was refused for good, and happened.
    RefusedWriteHappened,
    /// A revision did something else than its request asks for.
    WrongChange,

    // Content: answers are those of the store at their revision.
    /// A read was answered wrongly.
    WrongRead,
    /// A write was told wrongly what was there before.
    WrongPrevious,
    /// A transaction took the branch that it should not have, or said so.
    WrongBranch,
    /// A write was answered as if it had changed something, or as if not, and that is wrong.
    WrongReply,
    /// A revision before the compacted one was answered.
    ReadBelowCompaction,
    /// "Compacted" was said of a revision that nobody compacted.
    NeverCompacted,
    /// "Future revision" was said of a revision that there was.
    NotInTheFuture,

    // Time.
    /// An answer was older than what was known before it was asked for.
    Stale,
    /// Something was told before anybody asked for it.
    TimeTravel,
    /// A stale read was older than what its client was told by that member before.
    WentBack,

    // Watches, one for each guarantee of a watch.
    /// An event that the watch did not ask for: another key, a kind it filtered out, before its start.
    WatchFilter,
    /// Events out of order.
    WatchOrdered,
    /// An event twice.
    WatchUnique,
    /// A revision split over responses.
    WatchAtomic,
    /// An event left out, or told of otherwise than it happened.
    WatchReliable,
    /// A watch that started in the past, or went on from another, missed something or was told again.
    WatchResumable,
    /// Progress was told before everything up to it.
    WatchBookmarkable,
    /// An event looks like the creation of a key and is none, or the other way round.
    WatchIsCreate,
    /// The key before an event was told wrongly.
    WatchPrevKv,
    /// A watch was ended for compaction, or began, though history says otherwise; or it was ended for nothing.
    WatchCompaction,

    // Leases.
    /// A lease ended before its time.
    LeaseEarly,
    /// A lease was granted or renewed for another time than it should have been.
    LeaseTime,
    /// A lease outlived its time by more than was allowed, while the store was healthy.
    LeaseLate,
    /// Some keys of a lease went without the others.
    LeasePartial,
    /// The end of a lease that was told is not so: it is there after it was revoked, or a second grant of it
    /// was refused or allowed wrongly.
    LeaseState,

    // Locks and elections.
    /// Whoever came later holds an older key.
    HoldersOutOfOrder,
    /// Somebody was told to hold what another still held, or what was gone.
    NotTheHolder,
    /// A write that was guarded by a lost lock happened.
    Unfenced,

    // The end.
    /// Members have different hashes.
    HashesDiffer,
    /// A member's keys are not those that the log leads to.
    EndStateDiffers,

    // The second opinion.
    /// No order of the operations explains their answers.
    NotLinearizable,
}

/// A broken promise with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// What happened, in a sentence.
    pub text: String,
    /// The operations involved, as far as they are still known.
    pub operations: Vec<Operation>,
}

impl Violation {
    /// One that no operation shows.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), operations: Vec::new() }
    }

    /// The same with one more operation.
    #[must_use]
    pub fn with(mut self, operation: &Operation) -> Self {
        self.operations.push(operation.clone());
        self
    }

    /// Names of the operations involved.
    #[must_use]
    pub fn ids(&self) -> Vec<OpId> {
        self.operations.iter().map(|operation| operation.id).collect()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)?;
        for operation in &self.operations {
            let Operation { id, caller, begun, ended, request, outcome } = operation;
            let (id, client, member) = (id.0, caller.client, caller.member);
            write!(f, "\n  op {id} of client {client} at member {member}, sent at {begun} ns, ")?;
            match ended {
                Some(ended) => write!(f, "over at {ended} ns")?,
                None => write!(f, "open")?,
            }
            write!(f, ":\n    {request:?}\n    {outcome:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
