//! Live watchers by what they want: an event is matched, and a batch of events built, once for all that want
//! the same.

use std::collections::HashMap;

use kvd_core::watch::Matcher;

use super::hub::WatcherKey;
use super::request::Interest;

/// Names a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey(u64);

/// Watchers that want the same.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) interest: Interest,
    /// Those that are sent events as they happen.
    pub(crate) live: Vec<WatcherKey>,
    /// All of them.
    members: usize,
    /// Events of the revision that is being delivered, by their place in it.
    pub(crate) matched: Vec<usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    by_key: HashMap<ClassKey, Class>,
    by_interest: HashMap<Interest, ClassKey>,
    matcher: Matcher<Vec<ClassKey>>,
    last: u64,
    with_prev: usize,
}

impl Classes {
    /// The class for an interest, with one more member.
    pub(crate) fn join(&mut self, interest: &Interest) -> ClassKey {
        if let Some(key) = self.by_interest.get(interest) {
            if let Some(class) = self.by_key.get_mut(key) {
                class.members += 1;
            }
            return *key;
        }
        self.last += 1;
        let key = ClassKey(self.last);
        let class =
            Class { interest: interest.clone(), live: Vec::new(), members: 1, matched: Vec::new() };
        self.by_key.insert(key, class);
        self.by_interest.insert(interest.clone(), key);
        self.with_prev += usize::from(interest.prev_kv);
        let mut same_range = self.matcher.remove(&interest.range).unwrap_or_default();
        same_range.push(key);
        self.matcher.insert(&interest.range, same_range);
        key
    }

    /// Takes one member away; it must not be live.
    pub(crate) fn leave(&mut self, key: ClassKey) {
        let Some(class) = self.by_key.get_mut(&key) else { return };
        class.members -= 1;
        if class.members > 0 {
            return;
        }
        let Some(class) = self.by_key.remove(&key) else { return };
        self.by_interest.remove(&class.interest);
        self.with_prev -= usize::from(class.interest.prev_kv);
        let range = &class.interest.range;
        let mut same_range = self.matcher.remove(range).unwrap_or_default();
        same_range.retain(|other| *other != key);
        if !same_range.is_empty() {
            self.matcher.insert(range, same_range);
        }
    }

    /// A class.
    pub(crate) fn get(&self, key: ClassKey) -> Option<&Class> {
        self.by_key.get(&key)
    }

    /// A class, to be changed.
    pub(crate) fn get_mut(&mut self, key: ClassKey) -> Option<&mut Class> {
        self.by_key.get_mut(&key)
    }

    /// Whether any class wants what was before.
    pub(crate) fn wants_prev(&self) -> bool {
        self.with_prev > 0
    }

    /// Visits the classes whose range holds a key.
    pub(crate) fn visit(&self, key: &[u8], visit: &mut dyn FnMut(ClassKey, &Class)) {
        self.matcher.visit(key, &mut |classes| {
            for key in classes {
                if let Some(class) = self.by_key.get(key) {
                    visit(*key, class);
                }
            }
        });
    }
}
