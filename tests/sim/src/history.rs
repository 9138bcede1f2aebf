//! What clients asked and were told, in the order in which it happened.

use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A key with what the store says of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// What was put: the number of the call that put it.
    pub value: String,
    /// Revision that created it.
    pub created: i64,
    /// Revision that changed it last.
    pub changed: i64,
    /// Changes since it was created.
    pub version: i64,
}

/// What was asked. Writes put their call's number, so no two write the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Puts a key and asks what was there.
    Put(String),
    /// Puts a key if it was last changed at this revision, else reads it.
    Swap(String, i64),
    /// Deletes a key, and puts another to mark it.
    Delete(String),
    /// Reads a key after a barrier.
    Get(String),
    /// Reads all keys after a barrier.
    List,
    /// Reads all keys as they are on the asked member.
    StaleList,
}

impl Op {
    /// Whether it may change something.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Swap(..) | Self::Delete(_))
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was written at this revision; what was there before, if that was asked.
    Wrote(i64, Vec<Pair>),
    /// Read at this revision.
    Read(i64, Vec<Pair>),
    /// It did not happen and never will.
    Failed,
    /// It may have happened, or may yet.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// What was asked.
    pub op: Op,
    /// When: its place among all beginnings and ends of calls.
    pub begun: u64,
    /// When it ended, likewise; the far future if it did not.
    pub ended: u64,
    /// Simulated milliseconds at its end.
    pub ended_ms: u128,
    /// What came back.
    pub outcome: Outcome,
}

/// The history of a run; clones share it.
#[derive(Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    clock: u64,
    terms: std::collections::BTreeSet<u64>,
}

impl History {
    /// A call begins; returns its number.
    #[must_use]
    pub fn begin(&self, op: impl FnOnce(usize) -> Op) -> (usize, Op) {
        let mut inner = self.lock();
        inner.clock += 1;
        let number = inner.calls.len();
        let op = op(number);
        let (begun, ended, ended_ms) = (inner.clock, u64::MAX, u128::MAX);
        let outcome = Outcome::Unknown;
        inner.calls.push(Call { op: op.clone(), begun, ended, ended_ms, outcome });
        (number, op)
    }

    /// A call ends.
    pub fn end(&self, number: usize, now_ms: u128, outcome: Outcome) {
        let mut inner = self.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let call = &mut inner.calls[number];
        // An unknown outcome may become true at any later time.
        if outcome != Outcome::Unknown {
            call.ended = clock;
        }
        call.ended_ms = now_ms;
        call.outcome = outcome;
    }

    /// An answer came from a member of this term.
    pub fn saw_term(&self, term: u64) {
        self.lock().terms.insert(term);
    }

    /// Terms that answers came from.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.lock().terms.len()
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// A number that two runs share only if everything happened alike.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(format!("{:?}", self.lock().calls).as_bytes());
        hasher.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
