//! The store's own history, revision by revision, as witnesses tell it.
//!
//! A witness is a watch of one member for all keys from revision 1 on. Each must be told every revision once,
//! in order, and all must be told the same. Whoever is told of a revision first makes the log. What was compacted
//! before a witness saw it, it is never told; another must have been.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{Event, Response};
use crate::history::{Member, Nanos, OpId};
use crate::request::{LeaseId, Revision};
use crate::violation::{Kind, Violation};

/// What one revision changed, and what is known of it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub revision: Revision,
    /// What it changed, in order; `prev_kv` is what was there one revision before.
    pub events: Arc<[Event]>,
    /// When a witness was first told.
    pub seen: Nanos,
    /// Who asked for it, if a client did.
    pub writer: Option<OpId>,
    /// The lease whose end it is or may be.
    pub lease_end: Option<LeaseId>,
    /// Before this moment, this revision or an older one had not been asked for.
    pub asked: Nanos,
}

/// The newest part of the log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    changes: VecDeque<Change>,
}

impl Log {
    /// A revision, if it is still kept and there already.
    #[must_use]
    pub fn get(&self, revision: Revision) -> Option<&Change> {
        let place = revision - self.changes.front()?.revision;
        self.changes.get(usize::try_from(place).ok()?)
    }

    /// The same, to note what became known of it.
    pub(crate) fn get_mut(&mut self, revision: Revision) -> Option<&mut Change> {
        let place = revision - self.changes.front()?.revision;
        self.changes.get_mut(usize::try_from(place).ok()?)
    }

    /// What is kept, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// The oldest revision that is kept; none if there is none.
    #[must_use]
    pub fn oldest(&self) -> Option<Revision> {
        self.changes.front().map(|change| change.revision)
    }

    pub(crate) fn push(&mut self, change: Change) {
        debug_assert!(self.changes.back().is_none_or(|last| last.revision + 1 == change.revision));
        self.changes.push_back(change);
    }

    pub(crate) fn forget_before(&mut self, revision: Revision) {
        while self.changes.pop_front_if(|change| change.revision < revision).is_some() {}
    }
}

/// How far each witness is.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    cursors: BTreeMap<Member, Cursor>,
    /// Told by a witness that missed some before, which no other has told yet.
    early: BTreeMap<Revision, Told<'static>>,
}

/// A revision as a witness was told of it.
#[derive(Clone, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) member: Member,
    pub(crate) revision: Revision,
    pub(crate) events: Cow<'a, [Event]>,
    pub(crate) at: Nanos,
}

#[derive(Debug)]
struct Cursor {
    /// The revision that it must be told next.
    next: Revision,
    /// The beginning of a revision that was split over responses.
    begun: Vec<Event>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { next: 2, begun: Vec::new() }
    }
}

impl Witnesses {
    pub(crate) fn next(&self, member: Member) -> Revision {
        self.cursors.get(&member).map_or(2, |cursor| cursor.next)
    }

    /// What a response tells, revision by revision. `compacted`: the newest revision that somebody asked to compact
    /// to.
    pub(crate) fn read<'a>(
        &mut self,
        member: Member,
        response: &'a Response,
        compacted: Revision,
    ) -> Result<Vec<Told<'a>>, Violation> {
        let cursor = self.cursors.entry(member).or_default();
        if response.created || response.canceled {
            // A new stream begins at a whole revision.
            cursor.begun.clear();
        }
        if response.canceled {
            return cursor.ended(member, response.compact_revision, compacted).map(|()| Vec::new());
        }
        if response.created {
            return Ok(Vec::new());
        }
        if response.is_progress() {
            return cursor.progress(member, response.revision).map(|()| Vec::new());
        }
        let whole = response.events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision);
        let mut told: Vec<Told<'a>> = Vec::with_capacity(response.events.len());
        for events in whole {
            let revision = events[0].kv.mod_revision;
            told.push(Told { member, revision, events: events.into(), at: response.at });
        }
        cursor.go_on(&mut told);
        if response.fragment
            && let Some(last) = told.pop()
        {
            cursor.begun = last.events.into_owned();
        }
        for told in &told {
            cursor.advance(member, told.revision)?;
        }
        Ok(told)
    }

    /// Keeps what comes too early; gives back what can be appended after `head`.
    pub(crate) fn park(&mut self, told: Told<'_>) {
        let events = Cow::Owned(told.events.into_owned());
        self.early.entry(told.revision).or_insert(Told { events, ..told });
    }

    pub(crate) fn unpark(&mut self, revision: Revision) -> Option<Told<'static>> {
        self.early.remove(&revision)
    }
}

impl Cursor {
    /// Puts what a fragment began before what goes on with it.
    fn go_on(&mut self, told: &mut Vec<Told<'_>>) {
        let Some(first) = told.first_mut().filter(|_| !self.begun.is_empty()) else { return };
        let mut begun = std::mem::take(&mut self.begun);
        let revision = begun[0].kv.mod_revision;
        if first.revision == revision {
            begun.extend(first.events.iter().cloned());
            first.events = Cow::Owned(begun);
            return;
        }
        let (member, at) = (first.member, first.at);
        told.insert(0, Told { member, revision, events: Cow::Owned(begun), at });
    }

    /// History before a compaction is never told: a witness that has not seen it is sent away. None other is.
    fn ended(&mut self, member: Member, to: Revision, asked: Revision) -> Result<(), Violation> {
        let next = self.next;
        if to <= next || to > asked {
            let text = format!(
                "the witness of member {member}, which needs {next} next, is ended for compaction to {to}; \
                 {asked} was asked for at most"
            );
            return Err(Violation::new(Kind::WatchCompaction, text));
        }
        self.next = to;
        Ok(())
    }

    fn progress(&self, member: Member, revision: Revision) -> Result<(), Violation> {
        if revision < self.next {
            return Ok(());
        }
        let next = self.next;
        let text = format!(
            "the witness of member {member} is told that all up to {revision} was sent, but {next} was not"
        );
        Err(Violation::new(Kind::SkippedRevision, text))
    }

    fn advance(&mut self, member: Member, revision: Revision) -> Result<(), Violation> {
        let next = self.next;
        let kind = match revision.cmp(&next) {
            std::cmp::Ordering::Less => Kind::RepeatedRevision,
            std::cmp::Ordering::Greater => Kind::SkippedRevision,
            std::cmp::Ordering::Equal => {
                self.next += 1;
                return Ok(());
            }
        };
        let text =
            format!("the witness of member {member} is told of {revision} when {next} comes next");
        Err(Violation::new(kind, text))
    }
}
