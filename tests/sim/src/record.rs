//! What clients ask and are told, handed to the checkers as it happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvd_check::{
    Caller, Checker, FinalRead, Limits, Member, Nanos, OpId, Outcome, Request, Response, Summary,
    Violation, WatchId, WatchRequest,
};

use crate::machine::Gained;

/// The record of a run; clones share it.
#[derive(Clone)]
pub struct Record {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    checker: Checker,
    gained: Gained,
    /// The newest revision that anybody was told.
    newest: i64,
    compactions: u64,
    watches_resumed: u64,
    watches_compacted: u64,
    witnesses_compacted: u64,
    /// Watches that are not over.
    watching: usize,
}

/// What of a record no checker tells.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Compactions acknowledged.
    pub compactions: u64,
    /// Watches that went on from another.
    pub watches_resumed: u64,
    /// Watches ended because their history was gone.
    pub watches_compacted: u64,
    /// Witnesses sent away because history was gone that they had not seen.
    pub witnesses_compacted: u64,
}

thread_local! {
    /// The latest moment that was asked for.
    static LATEST: std::cell::Cell<Nanos> = const { std::cell::Cell::new(0) };
}

/// Now, as all hosts agree on. Within a tick one host lives through it after the other: what a later one does at
/// an earlier moment counts as done when the former was through.
#[must_use]
pub fn now() -> Nanos {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let now = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    LATEST.with(|latest| {
        latest.set(latest.get().max(now));
        latest.get()
    })
}

impl Record {
    /// An empty one, of members whose clocks gain this.
    #[must_use]
    pub fn new(limits: Limits, gained: Gained) -> Self {
        let inner = Inner {
            checker: Checker::new(limits),
            gained,
            newest: 1,
            compactions: 0,
            watches_resumed: 0,
            watches_compacted: 0,
            witnesses_compacted: 0,
            watching: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A client is about to send a request.
    #[must_use]
    pub fn begin(&self, caller: Caller, request: &Request) -> OpId {
        let mut inner = self.lock();
        inner.note_clocks();
        let op = inner.checker.begin(now(), caller, request.clone());
        tracing::debug!(?op, ?caller, ?request, "asks");
        op
    }

    /// A client knows what became of it.
    pub fn end(&self, op: OpId, outcome: Outcome) {
        let mut inner = self.lock();
        inner.note_clocks();
        tracing::debug!(?op, ?outcome, "is told");
        if let Outcome::Answered { revision, reply } = &outcome {
            inner.newest = inner.newest.max(*revision);
            inner.compactions += u64::from(matches!(reply, kvd_check::Reply::Compact));
        }
        inner.checker.end(now(), op, outcome);
    }

    /// A member ended: the next one of its name may know less.
    pub fn restarted(&self, member: Member) {
        self.lock().checker.restarted(member);
    }

    /// Where a member's witness goes on.
    #[must_use]
    pub fn witness_next(&self, member: Member) -> i64 {
        self.lock().checker.witness_next(member)
    }

    /// A witness was told something.
    pub fn witness(&self, member: Member, response: Response) {
        let mut inner = self.lock();
        inner.note_clocks();
        inner.witnesses_compacted += u64::from(response.compact_revision > 0);
        inner.checker.witness(member, &[response]);
    }

    /// A client is about to open a watch.
    #[must_use]
    pub fn watch(&self, request: &WatchRequest) -> WatchId {
        let mut inner = self.lock();
        inner.note_clocks();
        inner.watches_resumed += u64::from(request.resumes.is_some());
        inner.watching += 1;
        let watch = inner.checker.watch(now(), request.clone());
        tracing::debug!(?watch, ?request, "watch begins");
        watch
    }

    /// A watch was told something.
    pub fn watch_response(&self, watch: WatchId, response: Response) {
        let mut inner = self.lock();
        inner.note_clocks();
        inner.watches_compacted += u64::from(response.compact_revision > 0);
        tracing::debug!(?watch, ?response, "watch is told");
        inner.checker.watch_response(watch, response);
    }

    /// A watch is over.
    pub fn watch_end(&self, watch: WatchId) {
        let mut inner = self.lock();
        inner.watching -= 1;
        inner.checker.watch_end(now(), watch);
    }

    /// Why not so many watches are open and were told of everything; none if they are and were.
    #[must_use]
    pub fn watches_behind(&self, watches: usize) -> Option<String> {
        let inner = self.lock();
        if inner.watching < watches {
            return Some(format!("{} of {watches} watches are open", inner.watching));
        }
        inner.checker.watch_behind()
    }

    /// From then until now everything worked.
    pub fn healthy_since(&self, from: Duration) {
        let from = u64::try_from(from.as_nanos()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        let to = LATEST.with(std::cell::Cell::get);
        inner.checker.healthy(from, to);
    }

    /// The newest revision that anybody was told.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.lock().newest
    }

    /// What is wrong so far.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        self.lock().checker.violation().map(ToString::to_string)
    }

    /// What only the record knows.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let inner = self.lock();
        Seen {
            compactions: inner.compactions,
            watches_resumed: inner.watches_resumed,
            watches_compacted: inner.watches_compacted,
            witnesses_compacted: inner.witnesses_compacted,
        }
    }

    /// All is over.
    ///
    /// # Errors
    /// What cannot be true.
    pub fn finish(&self, finals: &[FinalRead]) -> Result<Summary, Violation> {
        let mut inner = self.lock();
        let checker = std::mem::replace(&mut inner.checker, Checker::new(Limits::usual()));
        checker.finish(LATEST.with(std::cell::Cell::get), finals)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Something is about to be told that may follow from what clocks gained.
    fn note_clocks(&mut self) {
        self.checker.clocks_gained(now(), self.gained.nanos());
    }
}
