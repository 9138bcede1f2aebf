//! Who watches, how far each is, and who is sent what: without waiting and without I/O.
//!
//! A watcher is *live*, which means that everything up to the hub's revision was put into its stream's queue,
//! or *lagging*, with the revision that it needs next. One number decides what it is sent: an event is never
//! delivered below it (hazard B6). Nothing is ever dropped and nobody cut off for being slow (rule W17): who
//! has no room becomes lagging and reads history once its client made some.

mod deliver;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kvd_core::ids::Revision;
use kvd_core::mutants::{Mutant, active};

use super::classes::{ClassKey, Classes};
use super::lagging::Lagging;
use super::outbox::{Batch, Message, Outbox};
use super::request::{Create, Interest, WatchId};
use crate::limits::WATCHERS_PER_STREAM_MAX;

pub(crate) use self::deliver::Delivering;

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
        let late = i64::from(active(Mutant::EventLostOnResume));
        let next = create.start.map_or(self.revision.next(), |start| Revision(start.0 + late));
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
        let all_there = active(Mutant::ProgressOvertakes)
            || watchers.clone().all(|watcher| self.is_there(watcher));
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
        // Who is furthest behind first, or one that is ahead would take the room each time.
        self.lagging.have_room(target.watchers.values().copied());
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
