//! Leases: never early, bounded late, all keys at once.
//!
//! 1. *Never early*: unless a client asked to revoke it, a lease does not end before its time, counted from
//!    when its last acknowledged grant or renewal was **sent**: the store got it later.
//! 2. *Bounded late*: while the store is healthy, it is gone when its time and an allowance are over, counted
//!    from when its last grant or renewal was **known**, or from when the store became healthy.
//! 3. *At once*: all its keys go in one revision. The certificate sees to that.
//! 4. *For good*: what ended is not renewed, and no key hangs on it.
//! 5. *As asked*: it gets the time that was asked for, or the least that the store gives; renewals give it again.
//!
//! Where the store's clocks run ahead of ours ([`Leases::clocks_gained`]), a lease may end earlier by what they
//! gained since it was renewed, through the log: by *the store's time*, which is ours and all that any of its clocks
//! gained.
//!
//! Leases have ids that clients chose, never used twice. An end is seen in the log, so a lease without a key is
//! only judged by what clients are told of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::Bytes;
use crate::event::EventKind;
use crate::history::{Nanos, OpId, Operation};
use crate::log::Change;
use crate::reply::{Outcome, Refusal, Reply};
use crate::request::{LeaseId, Request, Revision};
use crate::store_time::StoreTime;
use crate::violation::{Kind, Violation};

const NANOS_PER_SECOND: Nanos = 1_000_000_000;

/// What is known of one lease.
#[derive(Clone, Debug, Default)]
struct Lease {
    /// When a grant was first sent.
    asked: Nanos,
    /// When a grant was first acknowledged.
    granted: Option<Nanos>,
    ttl: Nanos,
    /// It cannot expire before, by the store's time.
    lives_until: Nanos,
    /// The grant or renewal that says so.
    shown_by: Option<Operation>,
    /// When it may have been granted or renewed last.
    renewed: Nanos,
    /// Grants and renewals that are open, with the store's time when they were sent: it may be renewed by now.
    renewing: BTreeMap<OpId, Nanos>,
    /// Revokes that may have ended it: when they were sent, by the store's time.
    revokes: BTreeMap<OpId, Nanos>,
    /// Its keys in the log.
    keys: BTreeSet<Bytes>,
    /// When the log told of its end, and at which revision.
    ended: Option<(Nanos, Revision)>,
    /// The store's time at that moment.
    ended_there: Nanos,
    /// When it was certainly gone, by anything that was told.
    gone: Option<Nanos>,
}

/// All leases.
#[derive(Debug)]
pub struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    late: Option<Nanos>,
    ttl_least: Option<i64>,
    ends: u64,
    expiries: u64,
    time: StoreTime,
}

impl Leases {
    /// None yet. `late`: how many nanoseconds one may outlive its time in a healthy store. `ttl_least`: the seconds
    /// to which the store raises shorter times, where that is known. `fresh`: for so many nanoseconds after a renewal
    /// the next ones need not go through the log.
    #[must_use]
    pub fn new(late: Option<Nanos>, ttl_least: Option<i64>, fresh: Nanos) -> Self {
        let time = StoreTime::new(fresh);
        Self { leases: BTreeMap::new(), late, ttl_least, ends: 0, expiries: 0, time }
    }

    /// Leases whose end is in the log.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.ends
    }

    /// Those of them that nobody may have revoked.
    #[must_use]
    pub fn expiries(&self) -> u64 {
        self.expiries
    }

    /// By now the store's clocks went ahead of ours by so much, all of them together, since the beginning.
    pub fn clocks_gained(&mut self, at: Nanos, gained: Nanos) {
        self.time.gained(at, gained);
    }

    /// A client sends a request.
    pub fn begin(&mut self, at: Nanos, op: OpId, request: &Request) {
        let there = self.time.at(at);
        match request {
            Request::LeaseGrant { id, .. } => {
                let first = Lease { asked: at, ..Lease::default() };
                self.leases.entry(*id).or_insert(first).renewing.insert(op, there);
            }
            Request::LeaseKeepAlive { id } => {
                if let Some(lease) = self.leases.get_mut(id) {
                    lease.renewing.insert(op, self.time.of_renewal(at));
                }
            }
            Request::LeaseRevoke { id } => {
                if let Some(lease) = self.leases.get_mut(id) {
                    lease.revokes.insert(op, there);
                }
            }
            _ => {}
        }
    }

    /// A client knows what became of its request, or gives up on it.
    ///
    /// # Errors
    /// What it was told cannot be.
    pub fn end(&mut self, at: Nanos, operation: &Operation) -> Result<(), Violation> {
        let id = match &operation.request {
            Request::LeaseGrant { id, .. }
            | Request::LeaseKeepAlive { id }
            | Request::LeaseRevoke { id } => *id,
            _ => return self.put_ended(at, operation),
        };
        let Some(lease) = self.leases.get_mut(&id) else { return never_granted(operation) };
        let there = self.time.at(at);
        let begun = lease.renewing.remove(&operation.id).unwrap_or(operation.begun);
        match (&operation.request, &operation.outcome) {
            (_, Outcome::Answered { reply: Reply::LeaseGrant { ttl_seconds }, .. }) => {
                time_as_asked(self.ttl_least, *ttl_seconds, operation)?;
                lease.not_there_before(there, operation)?;
                lease.granted.get_or_insert(at);
                lease.ttl = nanos(*ttl_seconds);
                lease.renew(at, begun, operation)
            }
            (_, Outcome::Answered { reply: Reply::LeaseKeepAlive { ttl_seconds: 0 }, .. })
            | (_, Outcome::Refused(Refusal::LeaseNotFound)) => {
                lease.revokes.remove(&operation.id);
                lease.told_gone(at, there, operation)
            }
            (_, Outcome::Answered { reply: Reply::LeaseKeepAlive { ttl_seconds }, .. }) => {
                lease.time_as_granted(*ttl_seconds, operation)?;
                lease.renew(at, begun, operation)
            }
            (_, Outcome::Answered { reply: Reply::LeaseRevoke, .. }) => {
                lease.gone = Some(lease.gone.map_or(at, |gone| gone.min(at)));
                Ok(())
            }
            (Request::LeaseGrant { .. }, Outcome::Refused(Refusal::LeaseExists)) => {
                lease.exists_by_another(operation)
            }
            (Request::LeaseRevoke { .. }, Outcome::Refused(_)) => {
                lease.revokes.remove(&operation.id);
                Ok(())
            }
            (_, Outcome::Unknown) => {
                // It may be done later than its client waited, which the allowance must cover.
                lease.renewed = lease.renewed.max(at);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The log has a new revision.
    ///
    /// # Errors
    /// A lease ended before its time, or is used after its end.
    pub fn changed(&mut self, change: &Change) -> Result<(), Violation> {
        for event in change.events.iter() {
            let before = event.prev_kv.as_ref().map_or(0, |kv| kv.lease);
            if let Some(lease) = self.leases.get_mut(&before) {
                lease.keys.remove(&event.kv.key);
            }
            if event.kind == EventKind::Put
                && let Some(lease) = self.leases.get_mut(&event.kv.lease)
            {
                if let Some((_, ended)) = lease.ended {
                    let (id, revision) = (event.kv.lease, change.revision);
                    let text = format!("{revision} hangs a key on lease {id}, which {ended} ended");
                    return Err(Violation::new(Kind::LeaseState, text));
                }
                lease.keys.insert(event.kv.key.clone());
            }
        }
        let Some(id) = change.lease_end else { return Ok(()) };
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
        self.ends += 1;
        self.expiries += u64::from(lease.revokes.is_empty());
        lease.keys.clear();
        lease.ended = Some((change.seen, change.revision));
        lease.ended_there = self.time.at(change.seen);
        lease.gone = Some(lease.gone.map_or(change.seen, |gone| gone.min(change.seen)));
        let revision = change.revision;
        lease.not_early(lease.ended_there, &format!("revision {revision} ends lease {id}"))
    }

    /// In this span a quorum could reach each other, the clients and a witness, and no leader changed. What
    /// was seen in it was told already.
    ///
    /// # Errors
    /// A lease outlived its time by too much.
    pub fn healthy(&self, from: Nanos, to: Nanos) -> Result<(), Violation> {
        let Some(late) = self.late else { return Ok(()) };
        for (id, lease) in &self.leases {
            if lease.granted.is_none() || !lease.renewing.is_empty() {
                continue;
            }
            let due = lease.renewed.max(from).saturating_add(lease.ttl).saturating_add(late);
            let seen_in_time = lease.ended.is_some_and(|(ended, _)| ended <= due);
            let seen = lease.ended.is_some() || !lease.keys.is_empty();
            if due <= to && seen && !seen_in_time {
                let ended = lease.ended;
                let text = format!("lease {id} was due at {due} ns, it ended at {ended:?}");
                return Err(lease.shown(Violation::new(Kind::LeaseLate, text)));
            }
        }
        Ok(())
    }

    /// Whether the leases that a put hangs on can be there, or not be there.
    fn put_ended(&mut self, at: Nanos, operation: &Operation) -> Result<(), Violation> {
        if !operation.request.uses_lease() {
            return Ok(());
        }
        let there = self.time.at(at);
        let puts = operation.request.puts();
        let used: BTreeSet<LeaseId> =
            puts.iter().map(|put| put.lease).filter(|lease| *lease != 0).collect();
        match &operation.outcome {
            Outcome::Refused(Refusal::LeaseNotFound) => {
                // With several, it is not told which was missing.
                let mut verdict = Ok(());
                for id in &used {
                    let Some(lease) = self.leases.get_mut(id) else { return Ok(()) };
                    let told = lease.told_gone(at, there, operation);
                    if told.is_ok() {
                        return Ok(());
                    }
                    verdict = told;
                }
                verdict
            }
            Outcome::Answered { reply: Reply::Put { .. }, .. } => {
                used.iter().try_for_each(|id| match self.leases.get(id) {
                    Some(lease) => lease.still_there(operation),
                    None => never_granted(operation),
                })
            }
            _ => Ok(()),
        }
    }
}

/// A lease gets the time that was asked for, or the least there is (behaviour.md L2).
fn time_as_asked(least: Option<i64>, granted: i64, operation: &Operation) -> Result<(), Violation> {
    let Request::LeaseGrant { ttl_seconds: asked, .. } = operation.request else { return Ok(()) };
    match least {
        Some(least) if granted != asked.max(least) => {
            let text = format!("{granted} s granted, {asked} s asked for, {least} s at least");
            Err(Violation::new(Kind::LeaseTime, text).with(operation))
        }
        _ => Ok(()),
    }
}

fn nanos(seconds: i64) -> Nanos {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(NANOS_PER_SECOND)
}

/// Nobody ever asked for this lease.
fn never_granted(operation: &Operation) -> Result<(), Violation> {
    match &operation.outcome {
        Outcome::Answered { reply: Reply::LeaseKeepAlive { ttl_seconds: 0 }, .. }
        | Outcome::Refused(_)
        | Outcome::Unknown => Ok(()),
        Outcome::Answered { .. } => {
            let text = "nobody ever asked for this lease";
            Err(Violation::new(Kind::LeaseState, text).with(operation))
        }
    }
}

impl Lease {
    /// A renewal gives the time that was granted (L6).
    fn time_as_granted(&self, seconds: i64, operation: &Operation) -> Result<(), Violation> {
        if self.granted.is_none() || nanos(seconds) == self.ttl {
            return Ok(());
        }
        let text = format!("renewed for {seconds} s, granted for {} ns", self.ttl);
        Err(self.shown(Violation::new(Kind::LeaseTime, text)).with(operation))
    }

    /// A grant or renewal was acknowledged that was sent when it was `begun` by the store's time.
    fn renew(&mut self, at: Nanos, begun: Nanos, operation: &Operation) -> Result<(), Violation> {
        self.still_there(operation)?;
        self.renewed = self.renewed.max(at);
        let lives_until = begun.saturating_add(self.ttl);
        if lives_until > self.lives_until {
            self.lives_until = lives_until;
            self.shown_by = Some(operation.clone());
        }
        match self.ended {
            // It was told of only now, but done before the lease ended.
            Some((_, revision)) => {
                self.not_early(self.ended_there, &format!("revision {revision} ended the lease"))
            }
            None => Ok(()),
        }
    }

    /// Not before its time, unless a revoke may have done it. `there`: the store's time.
    fn not_early(&self, there: Nanos, what: &str) -> Result<(), Violation> {
        let revoked = self.revokes.values().any(|sent| *sent <= there);
        if revoked || there >= self.lives_until || self.granted.is_none() {
            return Ok(());
        }
        let until = self.lives_until;
        let text = format!("{what} by {there} ns, but it had time until {until} ns");
        Err(self.shown(Violation::new(Kind::LeaseEarly, text)))
    }

    fn told_gone(
        &mut self,
        at: Nanos,
        there: Nanos,
        operation: &Operation,
    ) -> Result<(), Violation> {
        // Before the grant was acknowledged it may not have been there yet.
        if self.granted.is_some_and(|granted| granted < operation.begun) {
            let verdict = self.not_early(there, "the lease was told to be gone");
            verdict.map_err(|violation| violation.with(operation))?;
            self.gone = Some(self.gone.map_or(at, |gone| gone.min(at)));
        }
        Ok(())
    }

    fn still_there(&self, operation: &Operation) -> Result<(), Violation> {
        match self.gone {
            Some(gone) if gone < operation.begun => {
                let text = format!("the lease was gone by {gone} ns");
                Err(Violation::new(Kind::LeaseState, text).with(operation))
            }
            _ => Ok(()),
        }
    }

    fn not_there_before(&self, there: Nanos, operation: &Operation) -> Result<(), Violation> {
        let lives = self.not_early(there, "the lease was granted again").is_err();
        if lives && self.granted.is_some_and(|granted| granted < operation.begun) {
            let text = "it was granted twice, without an end in between";
            return Err(self.shown(Violation::new(Kind::LeaseState, text)).with(operation));
        }
        Ok(())
    }

    fn exists_by_another(&self, operation: &Operation) -> Result<(), Violation> {
        let other = self.granted.is_some() || self.asked < operation.begun;
        if other || !self.renewing.is_empty() {
            return Ok(());
        }
        let text = "nobody else asked for this lease";
        Err(Violation::new(Kind::LeaseState, text).with(operation))
    }

    fn shown(&self, violation: Violation) -> Violation {
        match &self.shown_by {
            Some(operation) => violation.with(operation),
            None => violation,
        }
    }
}
