//! A new revision of the log: who asked for it, and whether it does what was asked for.

use crate::event::{Event, EventKind};
use crate::fencing;
use crate::history::{Nanos, OpId};
use crate::log::{Change, Told};
use crate::model::{Effect, evaluate, lease_end};
use crate::reply::{Outcome, Refusal, Reply};
use crate::request::{LeaseId, Request, Revision};
use crate::violation::{Kind, Violation};

use super::Certificate;
use super::judge::differs;

/// Where a revision comes from.
struct Origin {
    /// What it changes, with what was there before.
    events: Vec<Event>,
    writer: Option<OpId>,
    /// What the writer must be answered, if that can be told.
    reply: Option<Reply>,
    lease_end: Option<LeaseId>,
    /// The earliest that it may have been asked for.
    asked: Nanos,
}

/// Whether two tell of the same changes, whatever they say of what was before.
pub(super) fn same(one: &[Event], other: &[Event]) -> bool {
    let pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.into_iter().all(|(a, b)| a.kind == b.kind && a.kv == b.kv)
}

impl Certificate {
    /// Appends the next revision to the log.
    pub(super) fn append(&mut self, told: Told<'_>) -> Result<Change, Violation> {
        let revision = told.revision;
        let origin = match self.operations.writer_of(&told.events) {
            Some(op) => self.written_by(op, &told)?,
            None => self.without_mark(&told)?,
        };
        self.before_is_right(&told, &origin.events)?;
        let asked = self.log.get(revision - 1).map_or(0, |before| before.asked).max(origin.asked);
        if asked > told.at {
            let text = format!("revision {revision} was told at {} ns, before that", told.at);
            return Err(self.shown_by(Kind::TimeTravel, text, origin.writer));
        }
        let Origin { writer, lease_end, .. } = origin;
        let events = origin.events.into();
        let change = Change { revision, events, seen: told.at, writer, lease_end, asked };
        self.state.apply(&change.events);
        self.log.push(change.clone());
        self.floors.tell(revision, None);
        if let Some(op) = writer {
            self.applied(op, revision, origin.reply)?;
        }
        while let Some((_, op)) = self.waiting.first().copied().filter(|(at, _)| *at == revision) {
            self.waiting.pop_first();
            if !self.entry(op).wrote() {
                self.judge_read(op, revision)?;
            } else if writer != Some(op) {
                return Err(self.not_its_revision(op, revision));
            }
        }
        self.forget();
        Ok(change)
    }

    /// A revision with a put of this operation.
    fn written_by(&mut self, op: OpId, told: &Told<'_>) -> Result<Origin, Violation> {
        let entry = self.entry(op);
        let operation = &entry.operation;
        let revision = told.revision;
        let wrong = |kind, text: String| Err(Violation::new(kind, text).with(operation));
        if let Some((before, _)) = &entry.applied {
            return wrong(Kind::DuplicatedWrite, format!("it made {before}, and again {revision}"));
        }
        if operation.begun > told.at {
            return wrong(
                Kind::TimeTravel,
                format!("revision {revision} was told at {} ns", told.at),
            );
        }
        match &operation.outcome {
            Outcome::Refused(_) => {
                let text = format!("it was refused, but made revision {revision}");
                return wrong(Kind::RefusedWriteHappened, text);
            }
            Outcome::Answered { reply, .. } if !reply.wrote() => {
                let text = format!("it was told that it changed nothing, but made {revision}");
                return wrong(Kind::WrongReply, text);
            }
            Outcome::Answered { revision: answered, .. } if *answered != revision => {
                let text = format!("it was acknowledged at {answered}, but made {revision}");
                return wrong(Kind::LostWrite, text);
            }
            _ => {}
        }
        let asked = operation.begun;
        let view = self.state.now();
        let effect = match evaluate(view, &operation.request) {
            Ok(effect) => effect,
            // It reads a past that is not kept, so what it did cannot be told.
            Err(Refusal::Compacted) => {
                self.counts.unjudged += 1;
                let events = told.events.to_vec();
                return Ok(Origin {
                    events,
                    writer: Some(op),
                    reply: None,
                    lease_end: None,
                    asked,
                });
            }
            Err(refusal) => {
                let text = format!("it made {revision}, but had to be refused: {refusal:?}");
                return wrong(Kind::WrongChange, text);
            }
        };
        if !same(&effect.events, &told.events) {
            if let Some(lost) = fencing::lost_guard(view, &operation.request) {
                let text = format!("it made {revision}, but {lost:?} was lost before");
                return wrong(Kind::Unfenced, text);
            }
            let (must, is) = (&effect.events, &told.events);
            let text = format!("revision {revision} must be {must:?}, but is {is:?}");
            return wrong(Kind::WrongChange, text);
        }
        let Effect { reply, events } = effect;
        Ok(Origin { events, writer: Some(op), reply: Some(reply), lease_end: None, asked })
    }

    /// A revision without a put that is known: deletes that a client asked for, or the end of a lease.
    fn without_mark(&self, told: &Told<'_>) -> Result<Origin, Violation> {
        let (revision, events) = (told.revision, &told.events);
        if events.iter().any(|event| event.kind == EventKind::Put) {
            let text = format!("nobody asked for revision {revision}: {events:?}");
            return Err(Violation::new(Kind::Phantom, text));
        }
        for entry in self.waiting_for(revision).filter(|entry| entry.wrote()) {
            if let Ok(Effect { events, reply }) =
                evaluate(self.state.now(), &entry.operation.request)
                && same(&events, &told.events)
            {
                let (asked, writer) = (entry.operation.begun, Some(entry.operation.id));
                return Ok(Origin { events, writer, reply: Some(reply), lease_end: None, asked });
            }
        }
        self.unclaimed(told)
    }

    /// Deletes that nobody was acknowledged yet.
    fn unclaimed(&self, told: &Told<'_>) -> Result<Origin, Violation> {
        let view = self.state.now();
        let candidates = self.operations.unmarked().filter(|entry| {
            let effect = evaluate(view, &entry.operation.request);
            entry.operation.begun <= told.at
                && effect.is_ok_and(|effect| same(&effect.events, &told.events))
        });
        let first = candidates.map(|entry| entry.operation.begun).min();
        let deleted = told.events.first().and_then(|event| view.get(&event.kv.key));
        let lease = deleted.map_or(0, |kv| kv.lease);
        let ended = lease_end(view, &self.state.attached(lease));
        let ends = lease != 0 && same(&ended, &told.events);
        let (writer, reply) = (None, None);
        if let Some(first) = first {
            // It may as well be the end of the lease, which nobody asks for.
            let asked = if ends { 0 } else { first };
            let events = told.events.iter().map(|event| {
                let prev_kv = view.get(&event.kv.key).cloned();
                Event { prev_kv, ..event.clone() }
            });
            return Ok(Origin { events: events.collect(), writer, reply, lease_end: None, asked });
        }
        if ends {
            return Ok(Origin { events: ended, writer, reply, lease_end: Some(lease), asked: 0 });
        }
        let (revision, events) = (told.revision, &told.events);
        if lease == 0 {
            let text = format!("nobody asked for revision {revision}: {events:?}");
            return Err(Violation::new(Kind::Phantom, text));
        }
        let text =
            format!("revision {revision} is {events:?}; the end of lease {lease} is {ended:?}");
        Err(Violation::new(Kind::LeasePartial, text))
    }

    fn before_is_right(&self, told: &Told<'_>, events: &[Event]) -> Result<(), Violation> {
        for (told, event) in told.events.iter().zip(events) {
            if told.prev_kv.is_some() && told.prev_kv != event.prev_kv {
                let must = &event.prev_kv;
                let text = format!("a witness is told {told:?}, but before it was {must:?}");
                return Err(Violation::new(Kind::WatchPrevKv, text));
            }
        }
        Ok(())
    }

    /// It is known what an operation did.
    fn applied(
        &mut self,
        op: OpId,
        revision: Revision,
        reply: Option<Reply>,
    ) -> Result<(), Violation> {
        let entry = self.operations.get_mut(op).expect("whoever writes is known");
        let over = entry.operation.ended.is_some();
        let unknown = entry.operation.outcome == Outcome::Unknown;
        entry.applied = Some((revision, reply));
        if !over {
            return Ok(());
        }
        if unknown {
            self.counts.unknown_happened += 1;
        } else {
            self.judge_reply(op)?;
        }
        self.operations.resolve(op);
        Ok(())
    }

    /// An answered operation's reply is what its change makes it.
    pub(super) fn judge_reply(&self, op: OpId) -> Result<(), Violation> {
        let entry = self.entry(op);
        if let Some((revision, _)) = &entry.applied {
            self.was_asked(op, *revision)?;
        }
        if let (Some((revision, Some(must))), Some((_, reply))) =
            (&entry.applied, entry.operation.answer())
            && let Some(kind) = differs(must, reply)
        {
            let text = format!("at revision {revision} it must be told {must:?}");
            return Err(Violation::new(kind, text).with(&entry.operation));
        }
        Ok(())
    }

    /// An acknowledged delete whose revision is in the log already.
    pub(super) fn claim(&mut self, op: OpId, revision: Revision) -> Result<(), Violation> {
        let request = self.entry(op).operation.request.clone();
        let marked = !request.puts().is_empty() && !matches!(request, Request::Txn(_));
        let effect = self.state.at(revision - 1).and_then(|view| evaluate(view, &request).ok());
        let (Some(change), Some(effect)) = (self.log.get_mut(revision), effect) else {
            return Err(self.not_its_revision(op, revision));
        };
        let free = change.writer.is_none() && change.lease_end.is_none();
        if marked || !free || !same(&change.events, &effect.events) {
            return Err(self.not_its_revision(op, revision));
        }
        change.writer = Some(op);
        self.applied(op, revision, Some(effect.reply))
    }

    pub(super) fn not_its_revision(&self, op: OpId, revision: Revision) -> Violation {
        let change = self.log.get(revision);
        let is = change.map(|change| &change.events);
        let text = format!("a write was acknowledged at {revision}, but that is {is:?}");
        let violation = Violation::new(Kind::LostWrite, text).with(&self.entry(op).operation);
        let other = change.and_then(|change| change.writer);
        match other.and_then(|other| self.operations.get(other)) {
            Some(other) => violation.with(&other.operation),
            None => violation,
        }
    }

    pub(super) fn shown_by(&self, kind: Kind, text: String, op: Option<OpId>) -> Violation {
        let violation = Violation::new(kind, text);
        match op.and_then(|op| self.operations.get(op)) {
            Some(entry) => violation.with(&entry.operation),
            None => violation,
        }
    }
}
