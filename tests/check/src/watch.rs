//! What etcd promises of a watch, each in one sentence (behaviour.md 3; etcd's robustness suite names them so):
//!
//! | promise | in one sentence |
//! |---|---|
//! | Filter | Every event is of a key, a kind and a revision that was asked for. |
//! | Ordered | Revisions never go back, and within one, events come in the order in which it made them. |
//! | Unique | No event comes twice. |
//! | Atomic | All events of one revision come in one response, unless fragments were asked for. |
//! | Reliable | Nothing between two events that came is left out, and each is as it happened. |
//! | Resumable | A watch that starts at a past revision, or goes on from another watch, begins with the first event from there on. |
//! | Bookmarkable | When progress up to a revision is told, every event up to it came before. |
//! | IsCreate | An event looks like the creation of a key exactly if the key was not there before. |
//! | PrevKV | The key before an event is what it was one revision before; absent only if it was not there, or is compacted. |
//!
//! Besides: a watch is ended for compaction only, and only if something that it still needs was compacted.
//!
//! A watch is followed beside the log: what the log says it must be told is *owed*, in order; what was passed
//! over is *missed*. An event that was missed and comes later is out of order; one that is never told is lost.
//! Linear in events.

mod follow;

use std::collections::{BTreeMap, VecDeque};

use crate::event::{Event, EventKind, Response, WatchId, WatchRequest};
use crate::log::{Change, Log};
use crate::request::Revision;
use crate::violation::{Kind, Violation};

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    watches: BTreeMap<WatchId, Watch>,
    /// Where a watch that is over was, for one that goes on from it.
    ended: BTreeMap<WatchId, Revision>,
    opened: u64,
    events: u64,
    unjudged: u64,
}

/// Watches that are over and may yet be gone on from.
const ENDED_MAX: usize = 10_000;

/// A watch beside the log.
#[derive(Debug)]
struct Watch {
    id: WatchId,
    request: WatchRequest,
    /// From here on everything is owed; none until it is known.
    from: Option<Revision>,
    /// In order.
    owed: VecDeque<Event>,
    /// Passed over.
    missed: Vec<Event>,
    /// Not judged yet: the log is not that far.
    pending: VecDeque<Response>,
    /// The revision of the first event that came.
    first: Option<Revision>,
    /// The newest revision of an event that came.
    last: Revision,
    /// Everything up to here was said to have come.
    told_of: Revision,
    /// The last response goes on in the next one.
    fragment: bool,
    /// From where it would have to go on, by all that came, judged or not.
    position: Revision,
    /// It is over: nothing more comes and nothing more is owed.
    over: bool,
    /// Events may have come before the header of "created" says.
    open_start: bool,
    canceled: bool,
    /// It starts in a past that is not kept, so nothing can be said of it.
    blind: bool,
}

impl Watches {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches that were opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Events that they were sent.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Watches of a past that is not kept.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        self.unjudged
    }

    /// A client opens a watch; `log` is what is known by now.
    pub fn open(&mut self, log: &Log, newest: Revision, request: WatchRequest) -> WatchId {
        let id = WatchId(self.opened);
        self.opened += 1;
        let before = request.resumes.and_then(|before| self.position(before));
        let start = request.start_revision;
        let from = before.unwrap_or(start);
        let mut watch = Watch {
            id,
            from: None,
            owed: VecDeque::new(),
            missed: Vec::new(),
            pending: VecDeque::new(),
            first: None,
            last: 0,
            told_of: 0,
            fragment: false,
            position: from,
            over: false,
            open_start: start == 0,
            canceled: false,
            blind: false,
            request,
        };
        if from > 0 {
            watch.start(log, newest, from);
            self.unjudged += u64::from(watch.blind);
        }
        self.watches.insert(id, watch);
        id
    }

    /// A response came. `compacted`: the newest revision that somebody asked to compact to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn response(
        &mut self,
        log: &Log,
        newest: Revision,
        compacted: Revision,
        id: WatchId,
        response: Response,
    ) -> Result<(), Violation> {
        self.events += response.events.len() as u64;
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.come(&response);
        watch.pending.push_back(response);
        watch.judge(log, newest, compacted)
    }

    /// The log has a new revision.
    ///
    /// # Errors
    /// What is wrong with what watches were sent of it.
    pub fn changed(
        &mut self,
        log: &Log,
        change: &Change,
        compacted: Revision,
    ) -> Result<(), Violation> {
        let mut over = Vec::new();
        for watch in self.watches.values_mut() {
            watch.owe(change);
            watch.judge(log, change.revision, compacted)?;
            if watch.over && watch.pending.is_empty() {
                over.push(watch.id);
            }
        }
        over.into_iter().try_for_each(|id| self.drop_judged(id))
    }

    /// A watch is over; nothing more is owed.
    ///
    /// # Errors
    /// What was left out.
    pub fn end(&mut self, id: WatchId) -> Result<(), Violation> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.over = true;
        // The log may not be as far as the watch was.
        if watch.pending.is_empty() { self.drop_judged(id) } else { Ok(()) }
    }

    fn drop_judged(&mut self, id: WatchId) -> Result<(), Violation> {
        let Some(watch) = self.watches.remove(&id) else { return Ok(()) };
        watch.nothing_missed()?;
        if !watch.blind {
            self.ended.insert(id, watch.position);
        }
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_first();
        }
        Ok(())
    }

    /// All is over; watches were told everything.
    ///
    /// # Errors
    /// What was left out.
    pub fn finish(&self, newest: Revision) -> Result<(), Violation> {
        self.watches.values().try_for_each(|watch| watch.finish(newest))
    }

    /// A watch that is not over and was not yet told of everything that the log has for it.
    #[must_use]
    pub fn behind(&self) -> Option<String> {
        let open = self.watches.values().filter(|watch| !watch.over && !watch.blind);
        open.filter(|watch| !watch.canceled).find_map(Watch::behind)
    }

    /// From where a watch would have to go on.
    fn position(&self, id: WatchId) -> Option<Revision> {
        let open = self.watches.get(&id).map(|watch| watch.position);
        open.or_else(|| self.ended.get(&id).copied()).filter(|position| *position > 0)
    }
}

impl Watch {
    /// From this revision on, everything is owed.
    fn start(&mut self, log: &Log, newest: Revision, from: Revision) {
        self.from = Some(from);
        if from > newest {
            return;
        }
        // Nothing was at revision 1, so nothing of it is missing.
        let oldest = log.oldest().unwrap_or(newest + 1);
        self.blind = from.max(2) < oldest;
        let past = log.changes().skip_while(|change| change.revision < from);
        for change in past.take_while(|change| change.revision <= newest) {
            self.owe(change);
        }
    }

    fn owe(&mut self, change: &Change) {
        if self.canceled || self.blind || self.from.is_none_or(|from| change.revision < from) {
            return;
        }
        let request = &self.request;
        let wanted = change.events.iter().filter(|event| wants(request, event));
        self.owed.extend(wanted.cloned());
    }

    /// A response came.
    fn come(&mut self, response: &Response) {
        let events = response.events.iter().map(|event| event.kv.mod_revision);
        // The revision that a fragment ends with is not whole yet.
        let last = events.max().map_or(0, |last| if response.fragment { last } else { last + 1 });
        let told = if response.is_progress() { response.revision + 1 } else { 0 };
        let start = self.request.start_revision == 0 && response.created;
        let created = if start && self.position == 0 { response.revision + 1 } else { 0 };
        let come = [last, told, created, response.compact_revision];
        self.position = come.into_iter().fold(self.position, Revision::max);
    }

    /// Nothing was passed over.
    fn nothing_missed(&self) -> Result<(), Violation> {
        match self.missed.first() {
            Some(event) => Err(self.passed_over(event)),
            None => Ok(()),
        }
    }

    fn behind(&self) -> Option<String> {
        let what = match (self.from, self.owed.front()) {
            (None, _) => "was not created".to_owned(),
            (Some(_), Some(event)) => format!("was not told of {event:?}"),
            (Some(_), None) => return None,
        };
        Some(format!("watch {} ({:?}) {what}", self.id.0, self.request))
    }

    fn finish(&self, newest: Revision) -> Result<(), Violation> {
        self.nothing_missed()?;
        let front = self.owed.front().filter(|_| !self.over);
        if let Some(event) = front {
            let skipped = event.kv.mod_revision < self.request.start_revision;
            let kind = if skipped { Kind::WatchResumable } else { Kind::WatchReliable };
            return Err(self.wrong(kind, format!("never told of {event:?}")));
        }
        if !self.blind && !self.pending.is_empty() {
            let text = format!("told of what is not in the log, which ends at {newest}");
            return Err(self.wrong(Kind::WatchReliable, text));
        }
        Ok(())
    }

    fn passed_over(&self, event: &Event) -> Violation {
        let revision = event.kv.mod_revision;
        // Before anything came in its place, the beginning is missing; after, something in between.
        let beginning = self.request.start_revision > 0 || self.request.resumes.is_some();
        let first = self.first.is_none_or(|first| revision < first);
        let kind = if beginning && first { Kind::WatchResumable } else { Kind::WatchReliable };
        self.wrong(kind, format!("passed over {event:?}"))
    }

    fn wrong(&self, kind: Kind, what: impl std::fmt::Display) -> Violation {
        Violation::new(kind, format!("watch {} ({:?}): {what}", self.id.0, self.request))
    }
}

/// Whether a watch asks for an event, apart from its revision.
fn wants(request: &WatchRequest, event: &Event) -> bool {
    let kind = match event.kind {
        EventKind::Put => !request.no_put,
        EventKind::Delete => !request.no_delete,
    };
    kind && request.keys.contains(&event.kv.key)
}
