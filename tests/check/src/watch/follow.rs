//! One response after the other, held against what is owed.

use crate::event::{Event, Response};
use crate::log::Log;
use crate::request::Revision;
use crate::violation::{Kind, Violation};

use super::{Watch, wants};

impl Watch {
    /// Judges the responses that the log reaches.
    pub(super) fn judge(
        &mut self,
        log: &Log,
        newest: Revision,
        compacted: Revision,
    ) -> Result<(), Violation> {
        while let Some(response) = self.pending.pop_front_if(|next| reaches(next) <= newest) {
            if self.blind {
                continue;
            }
            if response.canceled {
                self.cancel(&response, compacted)?;
            } else if response.created {
                if self.from.is_none() {
                    self.start(log, newest, response.revision + 1);
                }
            } else if response.is_progress() {
                self.progress(response.revision)?;
            } else {
                self.told(log, newest, compacted, &response)?;
            }
        }
        Ok(())
    }

    /// The watch was ended by the store.
    fn cancel(&mut self, response: &Response, compacted: Revision) -> Result<(), Violation> {
        let (to, needed) = (response.compact_revision, self.needed());
        self.canceled = true;
        self.owed.clear();
        if to == 0 {
            return Err(self.wrong(Kind::WatchCompaction, "ended without a reason"));
        }
        if to > compacted {
            let text = format!("ended for compaction to {to}; {compacted} was asked for at most");
            return Err(self.wrong(Kind::WatchCompaction, text));
        }
        if self.from.is_some() && needed >= to {
            let text = format!("ended for compaction to {to}, but it needs {needed} next");
            return Err(self.wrong(Kind::WatchCompaction, text));
        }
        Ok(())
    }

    /// The first revision that it may not have been told of.
    fn needed(&self) -> Revision {
        let last = if self.fragment { self.last } else { self.last + 1 };
        let last = if self.last == 0 { 0 } else { last };
        last.max(self.told_of + 1).max(self.from.unwrap_or(0))
    }

    /// Everything up to a revision is said to have come.
    fn progress(&mut self, revision: Revision) -> Result<(), Violation> {
        self.nothing_missed()?;
        let owed = self.owed.front().filter(|event| event.kv.mod_revision <= revision);
        if let Some(event) = owed {
            let text = format!("told that all up to {revision} came, but not {event:?}");
            return Err(self.wrong(Kind::WatchBookmarkable, text));
        }
        if revision < self.last {
            let text = format!("told of progress to {revision} after an event of {}", self.last);
            return Err(self.wrong(Kind::WatchBookmarkable, text));
        }
        self.told_of = self.told_of.max(revision);
        Ok(())
    }

    fn told(
        &mut self,
        log: &Log,
        newest: Revision,
        compacted: Revision,
        response: &Response,
    ) -> Result<(), Violation> {
        if response.fragment && !self.request.fragment {
            return Err(self.wrong(Kind::WatchAtomic, "a fragment that was not asked for"));
        }
        // A fragment goes on where the one before it ended; any other response begins with a new revision.
        let ended = if self.fragment { 0 } else { self.last };
        for event in &response.events {
            self.within_request(event)?;
            self.at_start(log, newest, event.kv.mod_revision);
            self.event(log, compacted, ended, event)?;
        }
        if response.revision < self.last {
            let text = format!("a header of {} with an event of {}", response.revision, self.last);
            return Err(self.wrong(Kind::WatchBookmarkable, text));
        }
        self.fragment = response.fragment;
        Ok(())
    }

    fn within_request(&self, event: &Event) -> Result<(), Violation> {
        let early = event.kv.mod_revision < self.request.start_revision;
        if early || !wants(&self.request, event) {
            return Err(self.wrong(Kind::WatchFilter, format!("not asked for: {event:?}")));
        }
        Ok(())
    }

    /// A watch "from now on" may begin a little before the revision it was told (behaviour.md W5).
    fn at_start(&mut self, log: &Log, newest: Revision, revision: Revision) {
        let before = self.from.is_none_or(|from| revision < from);
        if self.open_start && self.last == 0 && self.request.resumes.is_none() && before {
            self.owed.clear();
            self.start(log, newest, revision);
        }
    }

    fn event(
        &mut self,
        log: &Log,
        compacted: Revision,
        ended: Revision,
        event: &Event,
    ) -> Result<(), Violation> {
        let revision = event.kv.mod_revision;
        let is = |owed: &Event| owed.kind == event.kind && owed.kv == event.kv;
        let by_then = self.owed.iter().take_while(|owed| owed.kv.mod_revision <= revision);
        let Some(place) = by_then.into_iter().position(is) else {
            return Err(self.not_owed(log, event));
        };
        self.missed.extend(self.owed.drain(..place));
        let owed = self.owed.pop_front().expect("it was just found there");
        if revision == ended {
            let text = format!("{revision} came in part before: {event:?}");
            return Err(self.wrong(Kind::WatchAtomic, text));
        }
        self.first.get_or_insert(revision);
        self.last = revision;
        // What was compacted meanwhile cannot be told (behaviour.md W19).
        let gone = event.prev_kv.is_none() && compacted >= revision;
        let must = if self.request.prev_kv { owed.prev_kv } else { None };
        if event.prev_kv != must && !gone {
            let text = format!("{event:?}, but before it was {must:?}");
            return Err(self.wrong(Kind::WatchPrevKv, text));
        }
        Ok(())
    }

    /// Why an event should not have come.
    fn not_owed(&self, log: &Log, event: &Event) -> Violation {
        let revision = event.kv.mod_revision;
        let is = |other: &Event| other.kind == event.kind && other.kv == event.kv;
        if self.missed.iter().any(is) {
            let text = format!("after an event of {}: {event:?}", self.last);
            return self.wrong(Kind::WatchOrdered, text);
        }
        let happened = log.get(revision).into_iter().flat_map(|change| change.events.iter());
        let mut of_key = happened.filter(|other| other.kv.key == event.kv.key).peekable();
        if of_key.peek().is_none() && log.oldest().is_some_and(|oldest| oldest <= revision) {
            return self.wrong(Kind::WatchReliable, format!("never happened: {event:?}"));
        }
        let candidates: Vec<&Event> = of_key.collect();
        if candidates.is_empty() || candidates.iter().any(|other| is(other)) {
            let again = self.first.is_none() && self.from.is_some_and(|from| revision < from);
            let kind = if again { Kind::WatchResumable } else { Kind::WatchUnique };
            return self.wrong(kind, format!("told again: {event:?}"));
        }
        let create = candidates.iter().all(|other| other.is_create() != event.is_create());
        let kind = if create { Kind::WatchIsCreate } else { Kind::WatchReliable };
        self.wrong(kind, format!("told of {event:?}, but it was {candidates:?}"))
    }
}

/// The revision up to which the log must be known to judge a response.
fn reaches(response: &Response) -> Revision {
    if response.is_progress() {
        return response.revision;
    }
    response.events.iter().map(|event| event.kv.mod_revision).max().unwrap_or(0)
}
