//! The store's keys at every revision that is still kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::bytes::Bytes;
use crate::event::{Event, EventKind};
use crate::reply::KeyValue;
use crate::request::{KeyRange, LeaseId, Revision};

/// Keys with their past, up to the newest revision.
#[derive(Clone, Debug)]
pub struct State {
    keys: BTreeMap<Bytes, Versions>,
    /// Those that are there now, so that nobody walks over what was deleted.
    live: BTreeMap<Bytes, KeyValue>,
    revision: Revision,
    oldest: Revision,
    /// Where a key got a new version, oldest first: from that revision on the one before is no use.
    superseded: VecDeque<(Revision, Bytes)>,
    /// Where a key was deleted, oldest first.
    deleted: VecDeque<(Revision, Bytes)>,
    /// The keys that hang on each lease now.
    attached: BTreeMap<LeaseId, BTreeSet<Bytes>>,
}

/// What one key was, oldest first; none where it was deleted.
type Versions = VecDeque<(Revision, Option<KeyValue>)>;

impl Default for State {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            live: BTreeMap::new(),
            revision: 1,
            oldest: 1,
            superseded: VecDeque::new(),
            deleted: VecDeque::new(),
            attached: BTreeMap::new(),
        }
    }
}

impl State {
    /// An empty store at revision 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can still be looked at.
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.oldest
    }

    /// The store as it was at a revision, if that is still kept and there already.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Option<View<'_>> {
        let known = self.oldest <= revision && revision <= self.revision;
        known.then_some(View { state: self, revision })
    }

    /// The store as it is.
    #[must_use]
    pub fn now(&self) -> View<'_> {
        View { state: self, revision: self.revision }
    }

    /// The keys that hang on a lease now, in order.
    #[must_use]
    pub fn attached(&self, lease: LeaseId) -> Vec<Bytes> {
        self.attached.get(&lease).into_iter().flatten().cloned().collect()
    }

    /// Goes on to the next revision, which these events made.
    pub fn apply(&mut self, events: &[Event]) {
        self.revision += 1;
        for event in events {
            let key = &event.kv.key;
            let put = event.kind == EventKind::Put;
            let kv = put.then(|| event.kv.clone());
            let versions = self.keys.entry(key.clone()).or_default();
            let before = versions.back().and_then(|(_, kv)| kv.as_ref()).map_or(0, |kv| kv.lease);
            if before != 0
                && let Some(keys) = self.attached.get_mut(&before)
            {
                keys.remove(key);
                if keys.is_empty() {
                    self.attached.remove(&before);
                }
            }
            if put && event.kv.lease != 0 {
                self.attached.entry(event.kv.lease).or_default().insert(key.clone());
            }
            if let Some(kv) = &kv {
                self.live.insert(key.clone(), kv.clone());
            } else {
                self.live.remove(key);
                self.deleted.push_back((self.revision, key.clone()));
            }
            match versions.back_mut() {
                Some((revision, last)) if *revision == self.revision => *last = kv,
                _ => {
                    versions.push_back((self.revision, kv));
                    self.superseded.push_back((self.revision, key.clone()));
                }
            }
        }
    }

    /// What is before a revision will not be looked at any more.
    pub fn forget_before(&mut self, revision: Revision) {
        self.oldest = revision.clamp(self.oldest, self.revision);
        while self.deleted.pop_front_if(|(at, _)| *at <= self.oldest).is_some() {}
        while let Some((_, key)) = self.superseded.pop_front_if(|(at, _)| *at <= self.oldest) {
            let Some(versions) = self.keys.get_mut(&key) else { continue };
            while versions.get(1).is_some_and(|(at, _)| *at <= self.oldest) {
                versions.pop_front();
            }
            if versions.len() == 1 && versions.front().is_some_and(|(_, kv)| kv.is_none()) {
                self.keys.remove(&key);
            }
        }
    }
}

/// The store at one revision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a State,
    revision: Revision,
}

impl<'a> View<'a> {
    /// Which.
    #[must_use]
    pub fn revision(self) -> Revision {
        self.revision
    }

    /// The same store at another revision.
    #[must_use]
    pub fn at(self, revision: Revision) -> Option<Self> {
        self.state.at(revision)
    }

    /// A key, if it is there.
    #[must_use]
    pub fn get(self, key: &[u8]) -> Option<&'a KeyValue> {
        let live = self.state.live.get(key);
        if self.revision == self.state.revision {
            return live;
        }
        if let Some(same) = live.and_then(|kv| self.unless_later(kv)) {
            return Some(same);
        }
        self.state.keys.get(key).and_then(|versions| self.pick(versions))
    }

    /// The keys of a range that are there, in order.
    #[must_use]
    pub fn range(self, keys: &KeyRange) -> Vec<&'a KeyValue> {
        if let Some(key) = keys.single() {
            return self.get(key).into_iter().collect();
        }
        let live = self.state.live.range(keys.key.clone()..);
        let live = live.take_while(|(key, _)| keys.contains(key));
        let mut found: Vec<&KeyValue> =
            live.filter_map(|(key, kv)| self.unless_later(kv).or_else(|| self.get(key))).collect();
        // Those that are gone now were there, maybe.
        let live_now = found.len();
        let gone = self.state.deleted.iter().rev();
        for (_, key) in gone.take_while(|(at, _)| *at > self.revision) {
            if keys.contains(key) && !self.state.live.contains_key(key) {
                found.extend(self.get(key));
            }
        }
        if found.len() > live_now {
            found.sort_unstable_by_key(|kv| &kv.key);
            found.dedup_by_key(|kv| &kv.key);
        }
        found
    }

    /// What a key is now, if it was that already.
    fn unless_later(self, kv: &'a KeyValue) -> Option<&'a KeyValue> {
        (kv.mod_revision <= self.revision).then_some(kv)
    }

    fn pick(self, versions: &'a Versions) -> Option<&'a KeyValue> {
        // Mostly the newest one or nearly so is meant.
        let found = versions.iter().rev().take(4).find(|(at, _)| *at <= self.revision);
        let found = found.or_else(|| {
            let after = versions.partition_point(|(at, _)| *at <= self.revision);
            versions.get(after.checked_sub(1)?)
        });
        found.and_then(|(_, kv)| kv.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, at: Revision, lease: LeaseId) -> Event {
        let key = key.into();
        let kv = KeyValue { key, mod_revision: at, lease, ..KeyValue::default() };
        Event { kind: EventKind::Put, kv, prev_kv: None }
    }

    fn delete(key: &str, at: Revision) -> Event {
        Event { kind: EventKind::Delete, ..put(key, at, 0) }
    }

    #[test]
    fn the_past_is_there_until_it_is_forgotten() {
        let mut state = State::new();
        for at in 2..12 {
            state.apply(&[put("a", at, 0)]);
        }
        state.apply(&[delete("a", 12), put("b", 12, 7)]);
        let seen =
            |state: &State, at| state.at(at).map(|view| view.get(b"a").map(|kv| kv.mod_revision));
        for at in 2..12 {
            assert_eq!(seen(&state, at), Some(Some(at)));
        }
        assert_eq!(
            (seen(&state, 1), seen(&state, 12), seen(&state, 13)),
            (Some(None), Some(None), None)
        );
        state.forget_before(5);
        assert_eq!((seen(&state, 4), seen(&state, 5)), (None, Some(Some(5))));
        state.forget_before(12);
        assert_eq!(state.keys.len(), 1, "a deleted key is forgotten: {state:?}");
        assert_eq!(state.now().range(&KeyRange::all()).len(), 1);
    }

    #[test]
    fn views_of_the_past_have_what_was_there() {
        let mut state = State::new();
        let mut known = vec![BTreeSet::new(); 2];
        for at in 2..1_000 {
            let key = format!("{}", at * at % 17);
            let there = known.last().is_some_and(|keys: &BTreeSet<String>| keys.contains(&key));
            let mut keys = known.last().cloned().unwrap_or_default();
            if there && at % 3 == 0 {
                keys.remove(&key);
                state.apply(&[delete(&key, at)]);
            } else {
                keys.insert(key.clone());
                state.apply(&[put(&key, at, 0)]);
            }
            known.push(keys);
        }
        for (at, keys) in (0..).zip(&known).skip(1) {
            let view = state.at(at).expect("all is kept");
            let found = view.range(&KeyRange::all()).into_iter();
            let found: Vec<Bytes> = found.map(|kv| kv.key.clone()).collect();
            let expected: Vec<Bytes> = keys.iter().map(|key| key.as_str().into()).collect();
            assert_eq!(found, expected, "at {at}");
        }
    }

    #[test]
    fn keys_hang_on_their_last_lease() {
        let mut state = State::new();
        state.apply(&[put("a", 2, 7), put("b", 2, 7)]);
        state.apply(&[put("a", 3, 8)]);
        assert_eq!(state.attached(7), ["b".into()]);
        state.apply(&[delete("a", 4)]);
        assert!(state.attached(8).is_empty());
    }
}
