//! What clients asked and were told, in the order in which it happened.

use crate::reply::{Outcome, Reply};
use crate::request::{Request, Revision};

/// A moment in nanoseconds of one clock, simulated or real, that all clients share.
pub type Nanos = u64;

/// Who is meant among the store's members: any number, as long as it is always the same.
pub type Member = u64;

/// Names an operation: its place among all that began, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Who asks whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// The client; one that reconnects after a failure may count as another.
    pub client: u64,
    /// The member it asks.
    pub member: Member,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Its name.
    pub id: OpId,
    /// Who asked whom.
    pub caller: Caller,
    /// When it was sent.
    pub begun: Nanos,
    /// When its outcome was known; none while it is open.
    pub ended: Option<Nanos>,
    /// What was asked.
    pub request: Request,
    /// What became of it; unknown while it is open.
    pub outcome: Outcome,
}

impl Operation {
    /// Header revision and answer, if it was answered.
    #[must_use]
    pub fn answer(&self) -> Option<(Revision, &Reply)> {
        match &self.outcome {
            Outcome::Answered { revision, reply } => Some((*revision, reply)),
            Outcome::Refused(_) | Outcome::Unknown => None,
        }
    }
}

/// Writes down operations, for whoever wants to judge them later. [`crate::Checker`] judges them at once and
/// keeps only what it still needs.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client sends a request.
    pub fn begin(&mut self, at: Nanos, caller: Caller, request: Request) -> OpId {
        let id = OpId(self.operations.len() as u64);
        let outcome = Outcome::Unknown;
        self.operations.push(Operation { id, caller, begun: at, ended: None, request, outcome });
        id
    }

    /// A client knows what became of its request, or gives up on it.
    ///
    /// # Panics
    /// If there is no such operation.
    pub fn end(&mut self, at: Nanos, op: OpId, outcome: Outcome) {
        let place = usize::try_from(op.0).expect("an operation's name is its place");
        let operation = &mut self.operations[place];
        operation.ended = Some(at);
        operation.outcome = outcome;
    }

    /// All of them, in the order in which they began.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}
