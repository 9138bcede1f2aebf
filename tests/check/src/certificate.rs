//! Revisions as a certificate: every answer states its place in the order, so the order is not searched for
//! but verified, while the history happens.
//!
//! Against the log that witnesses tell:
//!
//! 1. *Order*: each revision is there once, and a client asked for it or a lease ended there; each
//!    acknowledged write is there at its revision and did what it asks for.
//! 2. *Content*: each answer is that of the store at its revision.
//! 3. *Time*: nobody is told less than was known before he asked, nor of what was asked only later.
//! 4. *Unknown outcomes*: what is in the log happened, after it was asked for and once; what is not, did not.
//!    What was refused for good is not there.
//!
//! These hold exactly if the history is strictly serializable with the revisions claimed. The store is not
//! trusted: writes are unique, so a false revision collides with content.
//!
//! Memory: open operations, those whose outcome is unknown and that are not in the log (yet), live keys, and as
//! many revisions of history as the limits say.

mod change;
mod judge;
mod operations;
mod time;

use std::collections::BTreeSet;

use crate::event::Response;
use crate::history::{Caller, Member, Nanos, OpId};
use crate::log::{Change, Log, Told, Witnesses};
use crate::reply::Outcome;
use crate::request::{Request, Revision};
use crate::state::State;
use crate::violation::{Kind, Violation};

use operations::{Entry, Operations};
use time::{Compactions, Floors};

/// Checks a history against its own revisions, online.
#[derive(Debug)]
pub struct Certificate {
    state: State,
    log: Log,
    witnesses: Witnesses,
    operations: Operations,
    floors: Floors,
    compactions: Compactions,
    /// Answered at a revision that no witness told of yet.
    waiting: BTreeSet<(Revision, OpId)>,
    revisions_kept: Revision,
    clock: Nanos,
    counts: Counts,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that began.
    pub operations: u64,
    /// That were answered.
    pub answered: u64,
    /// That were refused for good.
    pub refused: u64,
    /// That nobody knows of, but the log does.
    pub unknown_happened: u64,
    /// Answers of a past that is not kept.
    pub unjudged: u64,
}

impl Certificate {
    /// Of an empty store; keeps so many revisions of history. `monotone`: reads without a barrier must not be
    /// older than what their client was told by that member before.
    #[must_use]
    pub fn new(revisions_kept: usize, monotone: bool) -> Self {
        Self {
            state: State::new(),
            log: Log::default(),
            witnesses: Witnesses::default(),
            operations: Operations::new(revisions_kept),
            floors: Floors::new(monotone),
            compactions: Compactions::default(),
            waiting: BTreeSet::new(),
            revisions_kept: Revision::try_from(revisions_kept).unwrap_or(Revision::MAX),
            clock: 0,
            counts: Counts::default(),
        }
    }

    /// The store as the log leads to it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The log as far as it is kept.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What was checked so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// An operation, if it is still known.
    #[must_use]
    pub fn operation(&self, op: OpId) -> Option<&crate::Operation> {
        self.operations.get(op).map(|entry| &entry.operation)
    }

    /// The newest revision that a client asked, or may have asked, to compact to.
    #[must_use]
    pub fn compaction_asked(&self) -> Revision {
        self.compactions.asked()
    }

    /// The revision from which a witness's next stream must start.
    #[must_use]
    pub fn witness_next(&self, member: Member) -> Revision {
        self.witnesses.next(member)
    }

    /// A member ends, and may start again with an older state: what it told counts no more for what it tells
    /// then.
    pub fn restarted(&mut self, member: Member) {
        self.floors.restarted(member);
        self.operations.restarted(member);
    }

    /// A client sends a request.
    ///
    /// # Errors
    /// The history is no use.
    pub fn begin(
        &mut self,
        at: Nanos,
        caller: Caller,
        request: Request,
    ) -> Result<OpId, Violation> {
        self.tick(at)?;
        self.counts.operations += 1;
        let id = self.operations.next_id();
        self.compactions.begin(id, &request);
        let known = self.floors.begin(caller, self.compactions.acknowledged());
        self.operations.begin(at, caller, request, known)
    }

    /// A client knows what became of its request, or gives up on it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn end(&mut self, at: Nanos, op: OpId, outcome: Outcome) -> Result<(), Violation> {
        self.tick(at)?;
        self.operations.end(at, op, outcome)?;
        let entry = self.operations.get(op).expect("it just ended");
        self.compactions.end(&entry.operation);
        match &entry.operation.outcome {
            Outcome::Answered { revision, .. } => {
                let revision = *revision;
                self.counts.answered += 1;
                self.answered(op, revision)
            }
            Outcome::Refused(refusal) => {
                let refusal = *refusal;
                self.counts.refused += 1;
                self.refused(op, refusal)
            }
            Outcome::Unknown => {
                if entry.applied.is_some() {
                    self.counts.unknown_happened += 1;
                }
                if entry.applied.is_some() || !entry.operation.request.may_write() {
                    self.operations.resolve(op);
                }
                Ok(())
            }
        }
    }

    /// A response came to a witness. Gives the revisions that are new in the log.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn witness(
        &mut self,
        member: Member,
        response: &Response,
    ) -> Result<Vec<Change>, Violation> {
        // What is told late is told of a time that is over; what is told early would be known too soon.
        self.clock = self.clock.max(response.at);
        let told = self.witnesses.read(member, response, self.compactions.asked())?;
        let mut new = Vec::with_capacity(told.len());
        for told in told {
            match told.revision.cmp(&(self.state.revision() + 1)) {
                std::cmp::Ordering::Less => self.compare(&told)?,
                std::cmp::Ordering::Equal => new.push(self.append(told)?),
                std::cmp::Ordering::Greater => self.witnesses.park(told),
            }
            while let Some(told) = self.witnesses.unpark(self.state.revision() + 1) {
                new.push(self.append(told)?);
            }
        }
        Ok(new)
    }

    /// All is over: witnesses were told everything.
    ///
    /// # Errors
    /// What is missing.
    pub fn finish(&self) -> Result<(), Violation> {
        let Some((revision, _)) = self.waiting.first() else { return Ok(()) };
        let newest = self.state.revision();
        let mut violation = Violation::new(
            Kind::SkippedRevision,
            format!("an answer is of revision {revision}, but the log ends at {newest}"),
        );
        for entry in self.waiting_for(*revision) {
            if entry.wrote() {
                violation.kind = Kind::LostWrite;
            }
            violation = violation.with(&entry.operation);
        }
        Err(violation)
    }

    /// Time goes on.
    pub(crate) fn tick(&mut self, at: Nanos) -> Result<(), Violation> {
        if at < self.clock {
            let text = format!("told of {at} ns after {} ns", self.clock);
            return Err(Violation::new(Kind::Misuse, text));
        }
        self.clock = at;
        Ok(())
    }

    /// Another witness told this before.
    fn compare(&self, told: &Told<'_>) -> Result<(), Violation> {
        let Some(change) = self.log.get(told.revision) else { return Ok(()) };
        if change::same(&change.events, &told.events) {
            return Ok(());
        }
        let (first, second) = (&change.events, &told.events);
        let text = format!(
            "revision {} is {first:?} as first told, and {second:?} to the witness of member {}",
            told.revision, told.member
        );
        Err(Violation::new(Kind::WitnessesDisagree, text))
    }

    /// What no open operation can ask for any more is forgotten.
    fn forget(&mut self) {
        let asked = self.operations.oldest_floor().unwrap_or(Revision::MAX);
        let kept = self.state.revision().saturating_sub(self.revisions_kept);
        let oldest = asked.min(kept);
        self.state.forget_before(oldest);
        self.log.forget_before(oldest);
    }

    /// Answered at this revision, before any witness told of it.
    fn waiting_for(&self, revision: Revision) -> impl Iterator<Item = &Entry> {
        let waiting = self.waiting.range((revision, OpId(0))..=(revision, OpId(u64::MAX)));
        waiting.filter_map(|(_, op)| self.operations.get(*op))
    }

    fn entry(&self, op: OpId) -> &Entry {
        self.operations.get(op).expect("an operation is known until it is resolved")
    }
}
