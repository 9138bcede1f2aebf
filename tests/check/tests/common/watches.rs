//! Watches of the simulated store: each behind in its own way, some cut and gone on with.

use kvd_check::{Event, EventKind, KeyRange, Response, Revision, WatchId, WatchRequest};
use rand::RngExt;

use super::{Feed, MEMBERS, MS, Next, World};

/// A watch as its member has it.
#[derive(Debug)]
pub(super) struct Watch {
    request: WatchRequest,
    /// What it needs next.
    next: Revision,
    /// No event before this one came or will.
    created: bool,
    over: bool,
}

impl World {
    /// Opens a watch, maybe one that goes on from another.
    pub(super) fn open_watch(&mut self, resumes: Option<(WatchId, Revision)>) {
        let member = self.rng.random_range(1..=MEMBERS);
        let keys = match self.rng.random_range(0..4) {
            0 => KeyRange::all(),
            1 => KeyRange::one("k1"),
            2 => KeyRange::between("k0", "k2"),
            _ => KeyRange::prefix(b"k"),
        };
        let newest = self.revision();
        let start = match self.rng.random_range(0..3) {
            0 => 0,
            1 => self.rng.random_range(1..=newest),
            _ => newest + self.rng.random_range(0..4),
        };
        let mut request = WatchRequest {
            no_put: self.rng.random_bool(0.1),
            no_delete: self.rng.random_bool(0.2),
            prev_kv: self.rng.random(),
            fragment: self.rng.random(),
            ..WatchRequest::of(member, keys, start)
        };
        if let Some((before, next)) = resumes {
            let place = usize::try_from(before.0).expect("a watch");
            request = self.watches[place].request.clone();
            request.member = member;
            request.start_revision = next;
            request.resumes = Some(before);
        }
        self.out.push(Feed::Watch(self.now, request.clone()));
        self.watches.push(Watch { request, next: 0, created: false, over: false });
        let place = self.watches.len() - 1;
        self.later(30 * MS, Next::Pump(place));
    }

    /// Sends something to a watch, maybe; says whether it goes on.
    pub(super) fn pump(&mut self, place: usize) -> bool {
        if self.watches[place].over {
            return false;
        }
        let applied = self.applied[&self.watches[place].request.member];
        self.create(place, applied);
        if self.over_for_compaction(place) {
            return false;
        }
        let next = self.watches[place].next;
        if next <= applied {
            let upto = self.rng.random_range(next..=applied);
            self.send(place, upto, applied);
        }
        if self.watches[place].next == applied + 1 && self.rng.random_bool(0.3) {
            let response = Response::progress(self.now, applied);
            self.out.push(Feed::Sent(WatchId(place as u64), response));
        }
        if self.rng.random_bool(0.06) {
            self.cut(place);
            return false;
        }
        true
    }

    fn create(&mut self, place: usize, applied: Revision) {
        let watch = &mut self.watches[place];
        if watch.created {
            return;
        }
        watch.created = true;
        let start = watch.request.start_revision;
        watch.next = if start == 0 { applied + 1 } else { start };
        let response = Response { created: true, ..Response::progress(self.now, applied) };
        self.out.push(Feed::Sent(WatchId(place as u64), response));
    }

    fn over_for_compaction(&mut self, place: usize) -> bool {
        let compacted = self.compacted;
        let watch = &mut self.watches[place];
        if watch.next >= compacted {
            return false;
        }
        watch.over = true;
        let id = WatchId(place as u64);
        let ended = Response::progress(self.now, 0);
        let ended = Response { canceled: true, compact_revision: compacted, ..ended };
        self.out.push(Feed::Sent(id, ended));
        self.out.push(Feed::WatchEnd(self.now, id));
        self.open_watch(Some((id, compacted)));
        true
    }

    /// The connection breaks, and the client goes on.
    fn cut(&mut self, place: usize) {
        self.watches[place].over = true;
        let id = WatchId(place as u64);
        self.out.push(Feed::WatchEnd(self.now, id));
        let next = self.watches[place].next;
        self.open_watch(Some((id, next)));
    }

    /// All events up to a revision.
    fn send(&mut self, place: usize, upto: Revision, applied: Revision) {
        let (next, request) = (self.watches[place].next, self.watches[place].request.clone());
        self.watches[place].next = upto + 1;
        let wants = |event: &&Event| {
            let kind = match event.kind {
                EventKind::Put => !request.no_put,
                EventKind::Delete => !request.no_delete,
            };
            kind && request.keys.contains(&event.kv.key)
        };
        let mut events: Vec<Event> = Vec::new();
        for revision in next.max(2)..=upto {
            events.extend(self.change(revision).iter().filter(wants).cloned());
        }
        for event in &mut events {
            let gone = self.compacted >= event.kv.mod_revision && self.rng.random_bool(0.5);
            if !request.prev_kv || gone {
                event.prev_kv = None;
            }
        }
        while !events.is_empty() {
            let mut len = self.rng.random_range(1..=events.len());
            if !request.fragment {
                // Whole revisions only.
                let last = events[len - 1].kv.mod_revision;
                len = events.iter().take_while(|event| event.kv.mod_revision <= last).count();
            }
            let rest = events.split_off(len);
            let response = Response::events(self.now, applied, events);
            let fragment = request.fragment && !rest.is_empty();
            let response = Response { fragment, ..response };
            self.out.push(Feed::Sent(WatchId(place as u64), response));
            events = rest;
        }
    }

    /// Everything is sent that is owed.
    pub(super) fn drain(&mut self, place: usize) {
        if self.watches[place].over {
            return;
        }
        let newest = self.revision();
        self.create(place, newest);
        let watch = &mut self.watches[place];
        if watch.next < self.compacted {
            watch.over = true;
            let ended = Response::progress(self.now, 0);
            let compact_revision = self.compacted;
            let ended = Response { canceled: true, compact_revision, ..ended };
            self.out.push(Feed::Sent(WatchId(place as u64), ended));
            return;
        }
        if watch.next <= newest {
            self.send(place, newest, newest);
        }
        if self.watches[place].next == newest + 1 {
            let response = Response::progress(self.now, newest);
            self.out.push(Feed::Sent(WatchId(place as u64), response));
        }
    }
}
