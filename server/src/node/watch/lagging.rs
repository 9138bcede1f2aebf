//! Watchers that are behind, in the order in which they get their turn to read history.
//!
//! First come, first served, and everybody else who needs the same part of history comes along. A watcher whose
//! stream has no room gets no turn: history is not read for a client that does not read.

use std::collections::{BTreeSet, HashMap, VecDeque};

use kvd_core::ids::Revision;

use super::hub::WatcherKey;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lagging {
    /// What each needs next, and whether its stream has room.
    next: HashMap<WatcherKey, (Revision, bool)>,
    /// Those with room, by what they need next.
    ready: BTreeSet<(Revision, WatcherKey)>,
    /// Whose turn it is; some of them may have gone or lost their room meanwhile.
    turns: VecDeque<WatcherKey>,
}

impl Lagging {
    /// Adds a watcher, or moves it; one without room waits for [`Lagging::has_room`].
    pub(crate) fn put(&mut self, key: WatcherKey, next: Revision, has_room: bool) {
        self.remove(key);
        self.next.insert(key, (next, has_room));
        if has_room {
            self.ready.insert((next, key));
            self.turns.push_back(key);
        }
    }

    /// Their stream has room now.
    pub(crate) fn have_room(&mut self, keys: impl Iterator<Item = WatcherKey>) {
        let stuck = keys.filter_map(|key| match self.next.get(&key) {
            Some((next, false)) => Some((*next, key)),
            _ => None,
        });
        let mut stuck: Vec<_> = stuck.collect();
        stuck.sort_unstable();
        for (next, key) in stuck {
            self.put(key, next, true);
        }
    }

    /// Takes out those with room that need nothing before this revision.
    pub(crate) fn take_near(&mut self, from: Revision, max: usize) -> Vec<(WatcherKey, Revision)> {
        let near = self.ready.range((from, WatcherKey::FIRST)..).take(max).copied();
        let near: Vec<_> = near.collect();
        for (next, key) in &near {
            self.next.remove(key);
            self.ready.remove(&(*next, *key));
        }
        near.into_iter().map(|(next, key)| (key, next)).collect()
    }

    /// Takes a watcher out.
    pub(crate) fn remove(&mut self, key: WatcherKey) {
        if let Some((next, true)) = self.next.remove(&key) {
            self.ready.remove(&(next, key));
        }
        // Entries of turns without meaning are skipped when they come up; they must not pile up.
        if self.turns.len() > 64 + 2 * self.ready.len() {
            let ready = &self.ready;
            let next = &self.next;
            self.turns.retain(|key| {
                next.get(key).is_some_and(|(revision, _)| ready.contains(&(*revision, *key)))
            });
        }
    }

    /// Takes out whoever has the next turn, and at most `max` in all who need the history that begins there and
    /// has `span` revisions.
    pub(crate) fn take_turn(&mut self, span: i64, max: usize) -> Vec<(WatcherKey, Revision)> {
        let (owner, first) = loop {
            let Some(key) = self.turns.pop_front() else { return Vec::new() };
            if let Some((next, true)) = self.next.get(&key) {
                break (key, *next);
            }
        };
        let to = Revision(first.0.saturating_add(span));
        let from = (first, WatcherKey::FIRST);
        let along: Vec<_> =
            self.ready.range(from..(to, WatcherKey::FIRST)).take(max).copied().collect();
        if !along.contains(&(first, owner)) {
            self.turns.push_front(owner);
        }
        for (next, key) in &along {
            self.next.remove(key);
            self.ready.remove(&(*next, *key));
        }
        along.into_iter().map(|(next, key)| (key, next)).collect()
    }

    /// Whether somebody could read.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many are behind.
    pub(crate) fn count(&self) -> usize {
        self.next.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> WatcherKey {
        WatcherKey(number)
    }

    #[test]
    fn each_gets_a_turn_and_takes_along_who_needs_the_same() {
        let mut lagging = Lagging::default();
        lagging.put(key(1), Revision(500), true);
        lagging.put(key(2), Revision(10), true);
        lagging.put(key(3), Revision(510), true);
        lagging.put(key(4), Revision(505), false);
        let turn = lagging.take_turn(100, 8);
        assert_eq!(turn, [(key(1), Revision(500)), (key(3), Revision(510))]);
        // It is not done and goes to the end of the line.
        lagging.put(key(1), Revision(600), true);
        assert_eq!(lagging.take_turn(100, 8), [(key(2), Revision(10))]);
        assert_eq!(lagging.take_turn(100, 8), [(key(1), Revision(600))]);
        assert!(lagging.take_turn(100, 8).is_empty() && !lagging.is_waiting());
        lagging.have_room([key(4)].into_iter());
        assert_eq!(lagging.take_turn(100, 8), [(key(4), Revision(505))]);
    }

    #[test]
    fn turns_do_not_pile_up() {
        let mut lagging = Lagging::default();
        for _ in 0..10_000 {
            lagging.put(key(7), Revision(1), true);
        }
        assert!(lagging.turns.len() < 100, "{}", lagging.turns.len());
        assert_eq!(lagging.take_turn(1, 8), [(key(7), Revision(1))]);
        assert!(lagging.take_turn(1, 8).is_empty());
    }
}
