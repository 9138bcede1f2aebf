//! From a key to everybody who watches it.
//!
//! Single keys are looked up; ranges stand in a treap ordered by their start, in which each node knows the
//! furthest end below it, so that a key finds its ranges in O(log n + matches) however they overlap.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::range::KeyRange;

/// Ranges with a value for each; a range stands in it once.
#[derive(Debug)]
pub struct Matcher<T> {
    keys: BTreeMap<Bytes, T>,
    root: Link<T>,
    /// Priorities of the treap's nodes: their shape needs to be random, not unpredictable.
    seed: u64,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    start: Bytes,
    /// The first key behind the range; `None` where it has no end.
    end: Option<Bytes>,
    value: T,
    priority: u64,
    /// The furthest end of this node and all below it.
    furthest: Option<Bytes>,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), root: None, seed: 0 }
    }
}

impl<T> Matcher<T> {
    /// Adds a range; answers the value that stood there before.
    pub fn insert(&mut self, range: &KeyRange, value: T) -> Option<T> {
        let (start, end) = match range {
            KeyRange::Key(key) => return self.keys.insert(key.clone(), value),
            KeyRange::Between { start, end } => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        let before = self.remove(range);
        let priority = self.next_priority();
        let node = Node {
            start: start.clone(),
            end: end.cloned(),
            value,
            priority,
            furthest: end.cloned(),
            left: None,
            right: None,
        };
        let root = self.root.take();
        self.root = Some(insert(root, Box::new(node)));
        before
    }

    /// Removes a range; answers its value, if it was there.
    pub fn remove(&mut self, range: &KeyRange) -> Option<T> {
        let (start, end) = match range {
            KeyRange::Key(key) => return self.keys.remove(key),
            KeyRange::Between { start, end } => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        let (root, removed) = remove(self.root.take(), start, end);
        self.root = root;
        removed
    }

    /// Visits the value of every range that holds this key.
    pub fn visit(&self, key: &[u8], visit: &mut dyn FnMut(&T)) {
        if let Some(value) = self.keys.get(key) {
            visit(value);
        }
        stab(&self.root, key, visit);
    }

    fn next_priority(&mut self) -> u64 {
        // The finaliser of splitmix64 over a counter.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// An end compares as the key behind the range; none is behind every key.
fn further(one: Option<&Bytes>, other: Option<&Bytes>) -> Ordering {
    match (one, other) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(one), Some(other)) => one.cmp(other),
    }
}

impl<T> Node<T> {
    fn order(&self, start: &Bytes, end: Option<&Bytes>) -> Ordering {
        self.start.cmp(start).then_with(|| further(self.end.as_ref(), end))
    }

    fn refresh(mut self: Box<Self>) -> Box<Self> {
        let mut furthest = self.end.clone();
        for child in [&self.left, &self.right].into_iter().flatten() {
            if further(child.furthest.as_ref(), furthest.as_ref()).is_gt() {
                furthest.clone_from(&child.furthest);
            }
        }
        self.furthest = furthest;
        self
    }
}

/// Puts a node where its order and priority want it.
fn insert<T>(root: Link<T>, mut node: Box<Node<T>>) -> Box<Node<T>> {
    let Some(mut top) = root else { return node.refresh() };
    if node.priority > top.priority {
        (node.left, node.right) = split(Some(top), &node.start, node.end.as_ref());
        return node.refresh();
    }
    if top.order(&node.start, node.end.as_ref()).is_gt() {
        top.left = Some(insert(top.left.take(), node));
    } else {
        top.right = Some(insert(top.right.take(), node));
    }
    top.refresh()
}

/// Splits into what is ordered before a range and the rest.
fn split<T>(root: Link<T>, start: &Bytes, end: Option<&Bytes>) -> (Link<T>, Link<T>) {
    let Some(mut top) = root else { return (None, None) };
    if top.order(start, end).is_lt() {
        let (before, rest) = split(top.right.take(), start, end);
        top.right = before;
        (Some(top.refresh()), rest)
    } else {
        let (before, rest) = split(top.left.take(), start, end);
        top.left = rest;
        (before, Some(top.refresh()))
    }
}

/// Joins two treaps of which the first is ordered before the second.
fn merge<T>(before: Link<T>, rest: Link<T>) -> Link<T> {
    match (before, rest) {
        (None, other) | (other, None) => other,
        (Some(mut before), Some(rest)) if before.priority > rest.priority => {
            before.right = merge(before.right.take(), Some(rest));
            Some(before.refresh())
        }
        (before, Some(mut rest)) => {
            rest.left = merge(before, rest.left.take());
            Some(rest.refresh())
        }
    }
}

fn remove<T>(root: Link<T>, start: &Bytes, end: Option<&Bytes>) -> (Link<T>, Option<T>) {
    let Some(mut top) = root else { return (None, None) };
    let removed;
    match top.order(start, end) {
        Ordering::Equal => {
            let Node { value, left, right, .. } = *top;
            return (merge(left, right), Some(value));
        }
        Ordering::Greater => (top.left, removed) = remove(top.left.take(), start, end),
        Ordering::Less => (top.right, removed) = remove(top.right.take(), start, end),
    }
    (Some(top.refresh()), removed)
}

fn stab<T>(link: &Link<T>, key: &[u8], visit: &mut dyn FnMut(&T)) {
    let Some(node) = link else { return };
    let is_before = |end: &Option<Bytes>| end.as_ref().is_none_or(|end| key < end.as_ref());
    if !is_before(&node.furthest) {
        return;
    }
    stab(&node.left, key, visit);
    // All that is ordered after it starts there or later.
    if node.start.as_ref() > key {
        return;
    }
    if is_before(&node.end) {
        visit(&node.value);
    }
    stab(&node.right, key, visit);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = proptest::collection::vec(0u8..4, 0..3).prop_map(Bytes::from);
        prop_oneof![
            key.clone().prop_map(KeyRange::Key),
            key.clone().prop_map(KeyRange::From),
            (key.clone(), key).prop_map(|(start, end)| KeyRange::Between { start, end }),
        ]
    }

    proptest! {
        /// Whatever was added and removed, a key finds exactly the ranges that hold it.
        #[test]
        fn a_key_finds_its_ranges(steps in proptest::collection::vec((range(), any::<bool>()), 0..80)) {
            let mut matcher = Matcher::default();
            let mut ranges: Vec<(KeyRange, usize)> = Vec::new();
            for (number, (range, add)) in steps.into_iter().enumerate() {
                let at = ranges.iter().position(|(known, _)| *known == range);
                let before = at.map(|at| ranges.swap_remove(at).1);
                if add {
                    prop_assert_eq!(matcher.insert(&range, number), before);
                    ranges.push((range, number));
                } else {
                    prop_assert_eq!(matcher.remove(&range), before);
                }
            }
            for key in [&b""[..], b"\0", b"\x01", b"\x01\x02", b"\x02\0", b"\x03\x03", b"\x04"] {
                let mut found = Vec::new();
                matcher.visit(key, &mut |value| found.push(*value));
                found.sort_unstable();
                let holding = ranges.iter().filter(|(range, _)| range.contains(key));
                let mut expected: Vec<usize> = holding.map(|(_, number)| *number).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    /// Nested and chained ranges, in the order that would make a plain tree a list.
    #[test]
    fn many_ranges_do_not_make_it_deep() {
        let mut matcher = Matcher::default();
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..50_000 {
            matcher.insert(&KeyRange::Between { start: key(n), end: key(n + 2) }, n);
        }
        fn depth<T>(link: &Link<T>) -> usize {
            link.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        assert!(depth(&matcher.root) < 80, "{}", depth(&matcher.root));
        let mut found = Vec::new();
        matcher.visit(&key(30_000), &mut |n| found.push(*n));
        assert_eq!(found, [29_999, 30_000]);
    }
}
