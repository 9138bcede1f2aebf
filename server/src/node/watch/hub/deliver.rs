//! What the hub does with what happened: hands it to live watchers, or to those behind what history had.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::event::{Event, KeyValue};
use kvd_core::ids::Revision;
use kvd_core::mutants::{Mutant, active};
use kvd_core::watch::encode_event;

use super::{Found, Hub, State, Wanted, Watcher, WatcherKey};
use crate::limits::{CATCH_UP_NEAR, CATCH_UP_REVISIONS, CATCH_UP_WATCHERS};
use crate::node::watch::classes::{Class, ClassKey};
use crate::node::watch::outbox::{Batch, Message};

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
        part: Range<usize>,
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
            if revision < watcher.next && !active(Mutant::EventTwice) {
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
        if active(Mutant::GapIgnored) {
            return;
        }
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
        self.wanted(turn)
    }

    /// Who lacks only the last few revisions.
    pub(crate) fn nearly_there(&mut self) -> Vec<Wanted> {
        let from = Revision(self.revision.0 - CATCH_UP_NEAR + 1);
        let near = self.lagging.take_near(from, CATCH_UP_WATCHERS);
        self.wanted(near)
    }

    /// What could not be read: they get another turn.
    pub(crate) fn not_read(&mut self, wanted: impl Iterator<Item = (WatcherKey, Revision)>) {
        for (key, next) in wanted {
            self.lagging.put(key, next, true);
        }
    }

    fn wanted(&self, turn: Vec<(WatcherKey, Revision)>) -> Vec<Wanted> {
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

fn wants_prev(class: &Class, event: &Event) -> bool {
    class.interest.prev_kv && class.interest.wants(event.kind)
}
