//! Who watches, how far each is, and who is sent what: without waiting and without I/O.
//!
//! A watcher is *live*, which means that everything up to the hub's revision was put into its stream's queue,
//! or *lagging*, with the revision that it needs next. One number decides what it is sent: an event is never
//! delivered below it (hazard B6). Nothing is ever dropped and nobody cut off for being slow (rule W17): who
//! has no room becomes lagging and reads history once its client made some.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::event::{Event, KeyValue};
use kvd_core::ids::Revision;
use kvd_core::watch::encode_event;

use super::classes::{ClassKey, Classes};
use super::lagging::Lagging;
use super::outbox::{Batch, Message, Outbox};
use super::request::{Create, Interest, WatchId};
use crate::limits::{CATCH_UP_REVISIONS, CATCH_UP_WATCHERS, WATCHERS_PER_STREAM_MAX};

/// Names a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamKey(u64);

impl StreamKey {
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// Names a watcher; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WatcherKey(pub(super) u64);

impl WatcherKey {
    /// Smaller than any.
    pub(crate) const FIRST: Self = Self(0);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Live watchers were sent everything up to here.
    revision: Revision,
    last_key: u64,
    streams: HashMap<StreamKey, Stream>,
    watchers: BTreeMap<WatcherKey, Watcher>,
    classes: Classes,
    lagging: Lagging,
}

#[derive(Debug)]
struct Stream {
    outbox: Arc<Outbox>,
    watchers: BTreeMap<WatchId, WatcherKey>,
    next_id: i64,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamKey,
    id: WatchId,
    class: ClassKey,
    /// The start that was asked for; below it there is no progress to tell (rule W20).
    start: Option<Revision>,
    /// Nothing below it is delivered any more.
    next: Revision,
    state: State,
    progress_notify: bool,
    may_fragment: bool,
    /// Was sent events since the last periodic progress (rule W21).
    is_active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At this place of its class.
    Live(usize),
    /// In the line for history, or reading it.
    Lagging,
    /// What it needs is gone; its id stays taken until its client cancels it (rule W25).
    Compacted,
}

/// The events of a slice while they are delivered.
pub(crate) struct Delivering {
    events: Vec<Event>,
    /// What each replaced, once it was looked up.
    pub(crate) previous: Vec<Option<Option<KeyValue>>>,
    plain: Vec<Option<Bytes>>,
    with_prev: Vec<Option<Bytes>>,
}

impl Delivering {
    pub(crate) fn new(events: Vec<Event>) -> Self {
        let count = events.len();
        let (plain, with_prev) = (vec![None; count], vec![None; count]);
        // What replaced nothing needs no look.
        let previous = events.iter().map(|event| event.prev.is_none().then_some(None)).collect();
        Self { events, previous, plain, with_prev }
    }

    pub(crate) fn event(&self, at: usize) -> &Event {
        &self.events[at]
    }

    fn encoded(&mut self, at: usize, prev_kv: bool) -> Bytes {
        let event = &self.events[at];
        if prev_kv {
            let prev = self.previous[at].as_ref().and_then(Option::as_ref);
            return self.with_prev[at].get_or_insert_with(|| encode_event(event, prev)).clone();
        }
        self.plain[at].get_or_insert_with(|| encode_event(event, None)).clone()
    }
}

/// What a lagging watcher needs from history.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) watcher: WatcherKey,
    pub(crate) class: ClassKey,
    pub(crate) interest: Interest,
    pub(crate) next: Revision,
}

/// What history had for it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) watcher: WatcherKey,
    /// The events that it wants, if there were any.
    pub(crate) events: Option<Arc<Batch>>,
    /// How far history was read for it, or the mark below which it is gone.
    pub(crate) read: Result<Revision, Revision>,
}

/// How many watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams.
    pub streams: usize,
    /// Watches on them.
    pub watchers: usize,
    /// Those of them that are behind.
    pub lagging: usize,
}

/// What clients do.
impl Hub {
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            revision,
            last_key: 0,
            streams: HashMap::new(),
            watchers: BTreeMap::new(),
            classes: Classes::default(),
            lagging: Lagging::default(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            lagging: self.lagging.count(),
        }
    }

    pub(crate) fn open(&mut self, outbox: Arc<Outbox>) -> StreamKey {
        let key = StreamKey(self.next_key());
        self.streams.insert(key, Stream { outbox, watchers: BTreeMap::new(), next_id: 0 });
        key
    }

    /// A client is gone: nothing of it stays.
    pub(crate) fn close(&mut self, stream: StreamKey) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        for key in closed.watchers.into_values() {
            self.remove(key);
        }
    }

    /// Creates a watch, or says why not (rules W3 to W7).
    pub(crate) fn create(&mut self, stream: StreamKey, create: Create) {
        let Some(target) = self.streams.get(&stream) else { return };
        let reason = if create.interest.range.is_empty() {
            "mvcc: watcher range is empty"
        } else if create.id.is_some_and(|id| target.watchers.contains_key(&id)) {
            "mvcc: duplicate watch ID provided on the WatchStream"
        } else if target.watchers.len() >= WATCHERS_PER_STREAM_MAX {
            "etcdserver: too many requests"
        } else {
            return self.register(stream, create);
        };
        self.refuse(stream, reason);
    }

    /// A watch is not created.
    pub(crate) fn refuse(&self, stream: StreamKey, reason: &'static str) {
        if let Some(stream) = self.streams.get(&stream) {
            stream.outbox.answer(Message::Refused { revision: self.revision, reason });
        }
    }

    fn register(&mut self, stream: StreamKey, create: Create) {
        let key = WatcherKey(self.next_key());
        let Some(target) = self.streams.get_mut(&stream) else { return };
        let id = create.id.unwrap_or_else(|| {
            while target.watchers.contains_key(&WatchId(target.next_id)) {
                target.next_id += 1;
            }
            target.next_id += 1;
            WatchId(target.next_id - 1)
        });
        target.watchers.insert(id, key);
        target.outbox.answer(Message::Created { id, revision: self.revision });
        let next = create.start.unwrap_or(self.revision.next());
        let has_room = target.outbox.has_room();
        let watcher = Watcher {
            stream,
            id,
            class: self.classes.join(&create.interest),
            start: create.start,
            next,
            state: State::Lagging,
            progress_notify: create.progress_notify,
            may_fragment: create.may_fragment,
            is_active: false,
        };
        self.watchers.insert(key, watcher);
        if next > self.revision {
            self.go_live(key);
        } else {
            self.lagging.put(key, next, has_room);
        }
    }

    /// Ends a watch; an unknown one is no news (rule W8).
    pub(crate) fn cancel(&mut self, stream: StreamKey, id: WatchId) {
        let Some(target) = self.streams.get_mut(&stream) else { return };
        let Some(key) = target.watchers.remove(&id) else { return };
        let outbox = Arc::clone(&target.outbox);
        self.remove(key);
        outbox.answer(Message::Canceled { id, revision: self.revision });
    }

    /// Tells how far a stream is, if all its watches are there; else nothing, and the client asks again (rule
    /// W20).
    pub(crate) fn progress(&self, stream: StreamKey) {
        let Some(target) = self.streams.get(&stream) else { return };
        let watchers = target.watchers.values().filter_map(|key| self.watchers.get(key));
        let all_there = watchers.clone().all(|watcher| self.is_there(watcher));
        if all_there && watchers.count() > 0 {
            let (id, revision) = (WatchId::ALL, self.revision);
            target.outbox.offer(Message::Progress { id, revision });
        }
    }

    /// Tells how far those watches are that asked for it and had no events since the last time (rule W21).
    pub(crate) fn tick(&mut self, stream: StreamKey) {
        let Some(target) = self.streams.get(&stream) else { return };
        let mut told = Vec::new();
        for key in target.watchers.values() {
            let Some(watcher) = self.watchers.get_mut(key) else { continue };
            let was_active = std::mem::take(&mut watcher.is_active);
            if watcher.progress_notify && !was_active {
                told.push(*key);
            }
        }
        for watcher in told.iter().filter_map(|key| self.watchers.get(key)) {
            if self.is_there(watcher) {
                let (id, revision) = (watcher.id, self.revision);
                target.outbox.offer(Message::Progress { id, revision });
            }
        }
    }

    /// A stream's client made room.
    pub(crate) fn drained(&mut self, stream: StreamKey) {
        let Some(target) = self.streams.get(&stream) else { return };
        for key in target.watchers.values() {
            self.lagging.has_room(*key);
        }
    }

    /// Whether the watch was sent everything up to the hub's revision and no further, and began at it or before.
    fn is_there(&self, watcher: &Watcher) -> bool {
        matches!(watcher.state, State::Live(_))
            && watcher.next <= self.revision.next()
            && watcher.start.is_none_or(|start| start <= self.revision)
    }

    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    fn remove(&mut self, key: WatcherKey) {
        self.leave_live(key);
        if let Some(watcher) = self.watchers.remove(&key) {
            self.lagging.remove(key);
            self.classes.leave(watcher.class);
        }
    }

    fn go_live(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        if let Some(class) = self.classes.get_mut(watcher.class) {
            watcher.state = State::Live(class.live.len());
            class.live.push(key);
        }
    }

    fn leave_live(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        let State::Live(place) = watcher.state else { return };
        watcher.state = State::Lagging;
        let Some(class) = self.classes.get_mut(watcher.class) else { return };
        class.live.swap_remove(place);
        if let Some(moved) = class.live.get(place)
            && let Some(moved) = self.watchers.get_mut(moved)
        {
            moved.state = State::Live(place);
        }
    }

    /// A live watcher has to read on in history from this revision, or from where it begins.
    fn fall_behind(&mut self, key: WatcherKey, from: Revision) {
        self.leave_live(key);
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        watcher.next = watcher.next.max(from);
        let has_room =
            self.streams.get(&watcher.stream).is_some_and(|stream| stream.outbox.has_room());
        self.lagging.put(key, watcher.next, has_room);
    }
}

/// What the store does.
impl Hub {
    /// Whether some watcher wants to know what this event replaced.
    pub(crate) fn wants_prev(&self, event: &Event) -> bool {
        let mut wanted = false;
        if event.prev.is_some() && self.classes.wants_prev() {
            self.classes.visit(&event.kv.key, &mut |_, class| wanted |= wants_prev(class, event));
        }
        wanted
    }

    /// Delivers the events of one revision: a part of those at hand. Says how many responses that made, or which
    /// events must be looked up first; then nothing was delivered.
    pub(crate) fn deliver(
        &mut self,
        delivering: &mut Delivering,
        part: std::ops::Range<usize>,
    ) -> Result<usize, Vec<usize>> {
        let revision = delivering.events[part.start].change.main;
        let mut matched: Vec<(ClassKey, usize)> = Vec::new();
        let mut unknown = Vec::new();
        for at in part {
            let event = &delivering.events[at];
            self.classes.visit(&event.kv.key, &mut |key, class| {
                if class.live.is_empty() || !class.interest.wants(event.kind) {
                    return;
                }
                matched.push((key, at));
                if class.interest.prev_kv && delivering.previous[at].is_none() {
                    unknown.push(at);
                }
            });
        }
        if !unknown.is_empty() {
            unknown.dedup();
            return Err(unknown);
        }
        let mut touched = Vec::new();
        for (key, at) in matched {
            let Some(class) = self.classes.get_mut(key) else { continue };
            if class.matched.is_empty() {
                touched.push(key);
            }
            class.matched.push(at);
        }
        let mut delivered = 0;
        for key in touched {
            delivered += self.deliver_to_class(key, revision, delivering);
        }
        self.revision = self.revision.max(revision);
        Ok(delivered)
    }

    fn deliver_to_class(
        &mut self,
        key: ClassKey,
        revision: Revision,
        delivering: &mut Delivering,
    ) -> usize {
        let Some(class) = self.classes.get_mut(key) else { return 0 };
        let prev_kv = class.interest.prev_kv;
        let events = class.matched.drain(..).map(|at| delivering.encoded(at, prev_kv)).collect();
        let batch = Batch::new(events);
        let mut behind = Vec::new();
        for key in &class.live {
            let Some(watcher) = self.watchers.get_mut(key) else { continue };
            let Some(stream) = self.streams.get(&watcher.stream) else { continue };
            if revision < watcher.next {
                continue;
            }
            let message = Message::Events {
                id: watcher.id,
                revision,
                batch: Arc::clone(&batch),
                may_fragment: watcher.may_fragment,
            };
            if stream.outbox.offer(message) {
                watcher.is_active = true;
            } else {
                behind.push(*key);
            }
        }
        let count = class.live.len();
        for key in behind {
            self.fall_behind(key, revision);
        }
        count
    }

    /// Everything up to this revision happened, and its events are not at hand.
    pub(crate) fn gap(&mut self, to: Revision) {
        if to <= self.revision {
            return;
        }
        let from = self.revision.next();
        self.revision = to;
        let is_missing_out =
            |watcher: &Watcher| matches!(watcher.state, State::Live(_)) && watcher.next <= to;
        let missing_out = self.watchers.iter().filter(|(_, watcher)| is_missing_out(watcher));
        let missing_out: Vec<_> = missing_out.map(|(key, _)| *key).collect();
        for key in missing_out {
            self.fall_behind(key, from);
        }
    }

    /// Everything up to this revision was handed over, whatever it held.
    pub(crate) fn reached(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Whether somebody wants to read history.
    pub(crate) fn is_anyone_behind(&self) -> bool {
        self.lagging.is_waiting()
    }

    /// Who reads history next, and what.
    pub(crate) fn next_turn(&mut self) -> Vec<Wanted> {
        let span = i64::try_from(CATCH_UP_REVISIONS).unwrap_or(i64::MAX);
        let turn = self.lagging.take_turn(span, CATCH_UP_WATCHERS);
        let wanted = turn.into_iter().filter_map(|(key, next)| {
            let watcher = self.watchers.get(&key)?;
            let interest = self.classes.get(watcher.class)?.interest.clone();
            Some(Wanted { watcher: key, class: watcher.class, interest, next })
        });
        wanted.collect()
    }

    /// Hands over what history had; `current` is the store's revision as the scan saw it, which headers state
    /// (rule W16).
    pub(crate) fn found(&mut self, found: Found, current: Revision) {
        let key = found.watcher;
        // It may have been cancelled meanwhile.
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        let Some(stream) = self.streams.get(&watcher.stream) else { return };
        let id = watcher.id;
        let read = match found.read {
            Ok(read) => read,
            Err(mark) => {
                if stream.outbox.offer(Message::Compacted { id, mark }) {
                    watcher.state = State::Compacted;
                } else {
                    self.lagging.put(key, watcher.next, false);
                }
                return;
            }
        };
        if let Some(batch) = found.events {
            let may_fragment = watcher.may_fragment;
            let events = Message::Events { id, revision: current, batch, may_fragment };
            if !stream.outbox.offer(events) {
                // Not before the client took something: what does not fit now will not fit sooner.
                self.lagging.put(key, watcher.next, false);
                return;
            }
            watcher.is_active = true;
        }
        watcher.next = watcher.next.max(read.next());
        if watcher.next > self.revision {
            self.go_live(key);
        } else {
            let has_room = stream.outbox.has_room();
            self.lagging.put(key, watcher.next, has_room);
        }
    }
}

fn wants_prev(class: &super::classes::Class, event: &Event) -> bool {
    class.interest.prev_kv && class.interest.wants(event.kind)
}
