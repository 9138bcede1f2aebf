//! All checkers behind one door: told what happens as it happens, they say at the end whether it may have.

use crate::bytes::Bytes;
use crate::certificate::{Certificate, Counts};
use crate::end_state;
use crate::event::{Response, WatchId, WatchRequest};
use crate::fencing::Holders;
use crate::history::{Caller, Member, Nanos, OpId};
use crate::lease::Leases;
use crate::reply::{KeyValue, Outcome};
use crate::request::{Request, Revision};
use crate::search::Windows;
use crate::violation::Violation;
use crate::watch::Watches;

/// What is kept, and what is allowed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Revisions of history that are kept for reads and watches of the past. What goes further back is
    /// counted as unjudged.
    pub revisions_kept: usize,
    /// Reads without a barrier must not be older than what their client was told by that member before, be it
    /// by a read or by the answer to a write. Who sets this tells of members that start again
    /// ([`Checker::restarted`]).
    pub serializable_monotone: bool,
    /// Nanoseconds that a lease may outlive its time while the store is healthy; none: as long as it likes.
    pub lease_late: Option<Nanos>,
    /// Seconds to which the store raises the time of a lease that asks for less, where that is known.
    pub lease_ttl_least: Option<i64>,
    /// Nanoseconds after a renewal for which the store renews again without its log, 0 if it never does. Only matters
    /// where clocks gain ([`Checker::clocks_gained`]).
    pub lease_fresh: Nanos,
    /// Operations of a window that is searched; 0 searches none.
    pub window_operations: usize,
    /// Each so many revisions a new window begins.
    pub window_every_revisions: usize,
    /// Steps of a search before it gives up.
    pub search_steps: u64,
}

impl Limits {
    /// For a test of any length: 100,000 revisions of history, one window of 1,000 operations for every
    /// 20,000 revisions, leases as late as they like.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            revisions_kept: 100_000,
            serializable_monotone: false,
            lease_late: None,
            lease_ttl_least: None,
            lease_fresh: 0,
            window_operations: 1_000,
            window_every_revisions: 20_000,
            search_steps: 1_000_000,
        }
    }
}

/// What a client was told when it got a lock or won an election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acquisition {
    /// Who.
    pub caller: Caller,
    /// What all who want it write below: `name/`.
    pub prefix: Bytes,
    /// The holder's key.
    pub key: Bytes,
    /// The revision that created it: the fencing token.
    pub create_revision: Revision,
    /// The header revision of the answer by which the client knew that it holds it.
    pub revision: Revision,
}

/// What one member has when all is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalRead {
    /// Which.
    pub member: Member,
    /// Header revision of the read.
    pub revision: Revision,
    /// Its hash of the whole store (`HashKV`), 0 for all if there is none.
    pub hash: u64,
    /// All keys.
    pub kvs: Vec<KeyValue>,
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Operations that began.
    pub operations: u64,
    /// That were answered.
    pub answered: u64,
    /// That certainly did not happen.
    pub refused: u64,
    /// Nobody knew, or that never ended.
    pub unknown: u64,
    /// Nobody knew, but the log does: they changed something.
    pub unknown_happened: u64,
    /// The newest revision.
    pub revision: Revision,
    /// Watches besides those of witnesses.
    pub watches: u64,
    /// Events they were sent.
    pub watch_events: u64,
    /// Leases whose end deleted keys.
    pub lease_ends: u64,
    /// Those of them that nobody may have revoked: their time was over.
    pub lease_expiries: u64,
    /// Locks and elections won.
    pub acquisitions: u64,
    /// Answers that go back beyond the history that is kept.
    pub unjudged: u64,
    /// Windows that were searched with revisions hidden.
    pub windows: u64,
    /// Windows whose search gave up.
    pub windows_given_up: u64,
}

/// Judges a history while it happens.
///
/// Calls come in the order of time: no moment is before that of the call before; only responses of watches may be
/// told late. At equal moments, what is told first happened first. The first violation is kept and everything after
/// it ignored.
#[derive(Debug)]
pub struct Checker {
    certificate: Certificate,
    leases: Leases,
    watches: Watches,
    holders: Holders,
    windows: Windows,
    acquisitions: u64,
    found: Option<Box<Violation>>,
}

impl Checker {
    /// Knows nothing yet of an empty store at revision 1.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            certificate: Certificate::new(limits.revisions_kept, limits.serializable_monotone),
            leases: Leases::new(limits.lease_late, limits.lease_ttl_least, limits.lease_fresh),
            watches: Watches::new(),
            holders: Holders::new(),
            windows: Windows::new(&limits),
            acquisitions: 0,
            found: None,
        }
    }

    /// A member ends, and may start again with an older state. Call it before it can.
    pub fn restarted(&mut self, member: Member) {
        self.certificate.restarted(member);
    }

    /// A client sends a request. Call it before the request can reach anybody.
    pub fn begin(&mut self, at: Nanos, caller: Caller, request: Request) -> OpId {
        let lease_request = is_lease_request(&request).then(|| request.clone());
        match self.certificate.begin(at, caller, request) {
            Ok(op) => {
                if let Some(request) = lease_request {
                    self.leases.begin(at, op, &request);
                }
                op
            }
            Err(violation) => {
                self.note(Err(violation));
                OpId(u64::MAX)
            }
        }
    }

    /// A client knows what became of its request, or gives up on it. What never ends counts as unknown.
    pub fn end(&mut self, at: Nanos, op: OpId, outcome: Outcome) {
        if self.found.is_some() {
            return;
        }
        let verdict = self.try_end(at, op, outcome);
        self.note(verdict);
    }

    /// Responses came to a witness: the watch of one member for all keys, from revision 1 on. The witness that is
    /// told of a revision first makes the log; all others must be told the same. When its stream breaks, or is ended
    /// for a compaction, go on from [`Self::witness_next`].
    pub fn witness(&mut self, member: Member, responses: &[Response]) {
        for response in responses {
            if self.found.is_some() {
                return;
            }
            let verdict = self.try_witness(member, response);
            self.note(verdict);
        }
    }

    /// The revision from which a witness's next stream must start.
    #[must_use]
    pub fn witness_next(&self, member: Member) -> Revision {
        self.certificate.witness_next(member)
    }

    /// A client opens a watch. Call it before the request can reach anybody.
    pub fn watch(&mut self, at: Nanos, request: WatchRequest) -> WatchId {
        let verdict = self.certificate.tick(at);
        self.note(verdict);
        let newest = self.certificate.state().revision();
        self.watches.open(self.certificate.log(), newest, request)
    }

    /// A response came to a watch.
    pub fn watch_response(&mut self, watch: WatchId, response: Response) {
        if self.found.is_some() {
            return;
        }
        let certificate = &self.certificate;
        let (log, newest) = (certificate.log(), certificate.state().revision());
        let compacted = certificate.compaction_asked();
        let verdict = self.watches.response(log, newest, compacted, watch, response);
        self.note(verdict);
    }

    /// A watch is over, for whatever reason; nothing more comes and nothing more is owed.
    pub fn watch_end(&mut self, at: Nanos, watch: WatchId) {
        let verdict = self.certificate.tick(at).and_then(|()| self.watches.end(watch));
        self.note(verdict);
    }

    /// A watch that is not over and was not yet told of everything that the log has for it; who expects that of
    /// all waits until there is none.
    #[must_use]
    pub fn watch_behind(&self) -> Option<String> {
        self.watches.behind()
    }

    /// A client was told that it holds a lock, or leads.
    pub fn acquired(&mut self, at: Nanos, acquisition: Acquisition) {
        self.acquisitions += 1;
        let verdict = self.certificate.tick(at);
        let judged = self.holders.acquired(self.certificate.state(), acquisition);
        let verdict = verdict.and(judged);
        self.note(verdict);
    }

    /// By now the store's clocks went ahead of the history's by so much, all of them together, since the beginning.
    /// Call it before anything that follows from it.
    pub fn clocks_gained(&mut self, at: Nanos, gained: Nanos) {
        self.leases.clocks_gained(at, gained);
    }

    /// In this span a quorum could reach each other, the clients and a witness, and no leader changed: leases must
    /// end in time. What witnesses were sent until `to` was told before.
    pub fn healthy(&mut self, from: Nanos, to: Nanos) {
        let verdict = self.leases.healthy(from, to);
        self.note(verdict);
    }

    /// The first violation, if one was found already.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.found.as_deref()
    }

    /// All is over: every operation has ended or never will, witnesses and watches were told everything up to
    /// the newest revision, and every member was read.
    ///
    /// # Errors
    /// The first violation.
    pub fn finish(mut self, at: Nanos, finals: &[FinalRead]) -> Result<Summary, Violation> {
        if self.found.is_none() {
            let verdict = self.certificate.tick(at).and_then(|()| self.try_finish(finals));
            self.note(verdict);
        }
        match self.found {
            Some(violation) => Err(*violation),
            None => Ok(self.summary()),
        }
    }

    fn try_end(&mut self, at: Nanos, op: OpId, outcome: Outcome) -> Result<(), Violation> {
        self.certificate.end(at, op, outcome)?;
        // It is known at least until the next one ends.
        let Some(operation) = self.certificate.operation(op) else { return Ok(()) };
        self.windows.ended(&self.certificate, operation);
        self.leases.end(at, operation)
    }

    fn try_witness(&mut self, member: Member, response: &Response) -> Result<(), Violation> {
        for change in self.certificate.witness(member, response)? {
            self.leases.changed(&change)?;
            let compacted = self.certificate.compaction_asked();
            self.watches.changed(self.certificate.log(), &change, compacted)?;
            self.holders.changed(self.certificate.state(), change.revision)?;
            self.windows.changed(&self.certificate, &change)?;
        }
        Ok(())
    }

    fn try_finish(&mut self, finals: &[FinalRead]) -> Result<(), Violation> {
        self.certificate.finish()?;
        self.watches.finish(self.certificate.state().revision())?;
        self.windows.finish(&self.certificate)?;
        end_state::check(self.certificate.state(), finals)
    }

    fn note(&mut self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.found.get_or_insert_with(|| Box::new(violation));
        }
    }

    fn summary(&self) -> Summary {
        let counts = self.certificate.counts();
        let Counts { operations, answered, refused, unknown_happened, unjudged } = counts;
        Summary {
            operations,
            answered,
            refused,
            unknown: operations - answered - refused,
            unknown_happened,
            revision: self.certificate.state().revision(),
            watches: self.watches.opened(),
            watch_events: self.watches.events(),
            lease_ends: self.leases.ends(),
            lease_expiries: self.leases.expiries(),
            acquisitions: self.acquisitions,
            unjudged: unjudged + self.watches.unjudged() + self.holders.unjudged(),
            windows: self.windows.searched(),
            windows_given_up: self.windows.given_up(),
        }
    }
}

fn is_lease_request(request: &Request) -> bool {
    matches!(
        request,
        Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } | Request::LeaseKeepAlive { .. }
    )
}
