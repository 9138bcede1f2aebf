//! The store's keys at every revision that is still kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use crate::bytes::Bytes;
use crate::event::{Event, EventKind};
use crate::reply::KeyValue;
use crate::request::{KeyRange, LeaseId, Revision};
use crate::spread::BySpread;

/// Keys with their past, up to the newest revision.
#[derive(Clone, Debug)]
pub struct State {
    /// All that are kept, and between them places that are free.
    keys: Vec<Key>,
    /// Places to use again.
    free: Vec<Place>,
    /// Where each of them is.
    places: HashMap<Bytes, Place, BySpread>,
    /// Those that are there now, so that nobody walks over what was deleted.
    live: BTreeMap<Bytes, Place>,
    revision: Revision,
    oldest: Revision,
    /// Where a key got a new version, oldest first: from that revision on the one before is no use.
    superseded: VecDeque<(Revision, Place)>,
    /// Where a key was deleted, oldest first.
    deleted: VecDeque<(Revision, Place)>,
    /// The keys that hang on each lease now.
    attached: BTreeMap<LeaseId, BTreeSet<Bytes>>,
}

/// Where a key is among all that are kept, so that it is looked for by name once.
type Place = usize;

/// What one key was, oldest first.
#[derive(Clone, Debug, Default)]
struct Key {
    name: Bytes,
    /// Apart from what is there since, so that a search walks over numbers only.
    since: VecDeque<Revision>,
    /// As many; none where it was deleted.
    versions: VecDeque<Option<KeyValue>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            free: Vec::new(),
            places: HashMap::default(),
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
            let name = &event.kv.key;
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            let place = self.place(name);
            self.attach(place, name, kv.as_ref().map_or(0, |kv| kv.lease));
            match (self.keys[place].newest(), &kv) {
                (None, Some(_)) => drop(self.live.insert(name.clone(), place)),
                (Some(_), None) => drop(self.live.remove(name)),
                _ => {}
            }
            if kv.is_none() {
                self.deleted.push_back((self.revision, place));
            }
            if self.keys[place].set(self.revision, kv) {
                self.superseded.push_back((self.revision, place));
            }
        }
    }

    /// Where a key is from now on.
    fn place(&mut self, name: &Bytes) -> Place {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.keys.push(Key::default());
            self.keys.len() - 1
        });
        self.keys[place].name = name.clone();
        self.places.insert(name.clone(), place);
        place
    }

    /// A key hangs on this lease from now on, and on no other; 0 is none.
    fn attach(&mut self, place: Place, name: &Bytes, lease: LeaseId) {
        let before = self.keys[place].newest().map_or(0, |kv| kv.lease);
        if before != 0
            && let Some(names) = self.attached.get_mut(&before)
        {
            names.remove(name);
            if names.is_empty() {
                self.attached.remove(&before);
            }
        }
        if lease != 0 {
            self.attached.entry(lease).or_default().insert(name.clone());
        }
    }

    /// What is before a revision will not be looked at any more.
    pub fn forget_before(&mut self, revision: Revision) {
        self.oldest = revision.clamp(self.oldest, self.revision);
        while self.deleted.pop_front_if(|(at, _)| *at <= self.oldest).is_some() {}
        while let Some((_, place)) = self.superseded.pop_front_if(|(at, _)| *at <= self.oldest) {
            let key = &mut self.keys[place];
            key.forget_before(self.oldest);
            // Once only: a place that is free has no versions.
            if key.versions.len() == 1 && key.newest().is_none() {
                key.clear();
                self.places.remove(&key.name);
                self.free.push(place);
            }
        }
    }
}

impl Key {
    fn newest(&self) -> Option<&KeyValue> {
        self.versions.back()?.as_ref()
    }

    /// What it is from a revision on. Says whether that revision had not touched it yet.
    fn set(&mut self, revision: Revision, kv: Option<KeyValue>) -> bool {
        if self.since.back() == Some(&revision) {
            self.versions.pop_back();
            self.versions.push_back(kv);
            return false;
        }
        self.since.push_back(revision);
        self.versions.push_back(kv);
        true
    }

    fn at(&self, revision: Revision) -> Option<&KeyValue> {
        // Mostly the newest one or nearly so is meant.
        let near = self.since.iter().rev().take(16).position(|since| *since <= revision);
        let later = near.unwrap_or_else(|| {
            self.since.len() - self.since.partition_point(|since| *since <= revision)
        });
        self.versions.get(self.versions.len().checked_sub(later + 1)?)?.as_ref()
    }

    /// What is no use from a revision on is forgotten.
    fn forget_before(&mut self, revision: Revision) {
        while self.since.get(1).is_some_and(|since| *since <= revision) {
            self.since.pop_front();
            self.versions.pop_front();
        }
    }

    fn clear(&mut self) {
        self.since.clear();
        self.versions.clear();
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
        self.state.keys[*self.state.places.get(key)?].at(self.revision)
    }

    /// The keys of a range that are there, in order.
    #[must_use]
    pub fn range(self, keys: &KeyRange) -> Vec<&'a KeyValue> {
        if let Some(key) = keys.single() {
            return self.get(key).into_iter().collect();
        }
        let first = Bound::Included(&*keys.key);
        let end = match keys.is_open() {
            true => Bound::Unbounded,
            false if keys.key < keys.range_end => Bound::Excluded(&*keys.range_end),
            false => return Vec::new(),
        };
        let live = self.state.live.range::<[u8], _>((first, end));
        let kept = &self.state.keys;
        // Room for a list of usual length, so that it does not grow step by step.
        let mut found: Vec<&KeyValue> = Vec::with_capacity(self.state.live.len().min(16));
        found.extend(live.filter_map(|(_, place)| kept[*place].at(self.revision)));
        // Those that are gone now were there, maybe.
        let live_now = found.len();
        let deleted = self.state.deleted.iter().rev();
        for (_, place) in deleted.take_while(|(at, _)| *at > self.revision) {
            let key = &kept[*place];
            if keys.contains(&key.name) && key.newest().is_none() {
                found.extend(key.at(self.revision));
            }
        }
        if found.len() > live_now {
            found.sort_unstable_by_key(|kv| &kv.key);
            found.dedup_by_key(|kv| &kv.key);
        }
        found
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
        assert!(state.places.len() == 1, "a deleted key is forgotten: {state:?}");
        assert_eq!(state.now().range(&KeyRange::all()).len(), 1);
    }

    #[test]
    fn a_key_in_the_place_of_a_forgotten_one_has_no_past() {
        let mut state = State::new();
        state.apply(&[put("a", 2, 0), put("b", 2, 0)]);
        state.apply(&[delete("a", 3), delete("b", 3)]);
        state.forget_before(3);
        assert_eq!((state.free.len(), state.places.len()), (2, 0), "each once: {state:?}");
        state.apply(&[put("c", 4, 0)]);
        state.apply(&[put("d", 5, 0), delete("c", 5)]);
        assert_eq!(state.keys.len(), 2, "places are used again: {state:?}");
        let known = |at: Revision| {
            let found = state.at(at).expect("it is kept").range(&KeyRange::all()).into_iter();
            found.map(|kv| (kv.key.clone(), kv.mod_revision)).collect::<Vec<_>>()
        };
        assert_eq!((known(3), known(4)), (vec![], vec![("c".into(), 4)]));
        assert_eq!(known(5), [("d".into(), 5)]);
        assert_eq!(state.at(4).and_then(|view| view.get(b"d")), None);
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
