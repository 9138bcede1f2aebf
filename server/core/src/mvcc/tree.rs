//! An ordered map that counts: how many live entries lie between two keys, in O(log n) (hazard D5).
//!
//! ```text
//!            low  live            child i holds the keys from its low up to the next child's;
//!   inner  [ a 41 | k 17 | t 60 ]   live is the number of live entries below it
//!              |      |      |
//!   leaf    a b c   k m p  t x z    entries in order
//! ```
//!
//! A B+tree without parent links: a change runs down from the root and brings the difference in live entries
//! back up. Its invariants, which [`Tree::check`] verifies: all leaves are equally deep; every node but the
//! root has a quarter of `MAX` to `MAX` items; all keys before a child are smaller than its low, all keys in
//! it are not; `live` is what counting gives. What makes an entry live is the value's business.

mod check;
mod search;

use std::ops::Bound;
use std::slice;
use std::sync::Arc;

use self::search::{before, first_not, holder, position};

/// Items of one node at most.
const NODE_MAX: usize = 64;

/// A node grows by so many items at a time, not to twice its size: most of memory is leaves.
const NODE_GROWTH: usize = 8;

/// A value that is live or not.
pub(crate) trait Live {
    /// Whether it is counted.
    fn is_live(&self) -> bool;
}

/// See the module. Tests have smaller nodes, to get higher trees.
#[derive(Debug)]
pub(crate) struct Tree<V, const MAX: usize = NODE_MAX> {
    root: Node<V, MAX>,
}

#[derive(Debug)]
enum Node<V, const MAX: usize> {
    Leaf(Vec<(Arc<[u8]>, V)>),
    Inner(Vec<Child<V, MAX>>),
}

#[derive(Debug)]
struct Child<V, const MAX: usize> {
    low: Arc<[u8]>,
    live: u64,
    node: Node<V, MAX>,
}

/// Entries in order of their keys.
pub(crate) struct Iter<'a, V, const MAX: usize> {
    /// What is still to come of each node above the leaf.
    above: Vec<slice::Iter<'a, Child<V, MAX>>>,
    leaf: slice::Iter<'a, (Arc<[u8]>, V)>,
}

impl<V, const MAX: usize> Default for Tree<V, MAX> {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()) }
    }
}

impl<V: Live, const MAX: usize> Tree<V, MAX> {
    /// The entry of that key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(&Arc<[u8]>, &V)> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[holder(children, key)].node,
                Node::Leaf(entries) => {
                    let (key, value) = &entries[position(entries, key).ok()?];
                    return Some((key, value));
                }
            }
        }
    }

    /// Adds an entry, or replaces the one of that key.
    pub(crate) fn insert(&mut self, key: Arc<[u8]>, value: V) {
        let (_, split) = self.root.insert(key, value);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(2)));
            if let Node::Inner(children) = &mut self.root {
                children.push(left.into_child());
                children.push(right);
            }
        }
    }

    /// Changes the entry of that key, if there is one.
    pub(crate) fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.root.update(key, change).map(|(result, _)| result)
    }

    /// Removes the entry of that key.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let value = self.root.remove(key)?;
        if let Node::Inner(children) = &mut self.root
            && children.len() == 1
            && let Some(only) = children.pop()
        {
            self.root = only.node;
        }
        Some(value)
    }

    /// All entries.
    pub(crate) fn iter(&self) -> Iter<'_, V, MAX> {
        self.iter_from(Bound::Unbounded)
    }

    /// Entries from a bound on.
    pub(crate) fn iter_from(&self, start: Bound<&[u8]>) -> Iter<'_, V, MAX> {
        let (key, included) = match start {
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
            Bound::Unbounded => (&[][..], false),
        };
        let mut above = Vec::new();
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = holder(children, key);
                    above.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
                Node::Leaf(entries) => {
                    let first = first_not(entries, |(k, _)| before(k, key, included));
                    return Iter { above, leaf: entries[first..].iter() };
                }
            }
        }
    }

    /// Live entries between two bounds.
    pub(crate) fn live_between(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> u64 {
        let before_start = match start {
            Bound::Included(key) => self.live_before(key, false),
            Bound::Excluded(key) => self.live_before(key, true),
            Bound::Unbounded => 0,
        };
        let before_end = match end {
            Bound::Included(key) => self.live_before(key, true),
            Bound::Excluded(key) => self.live_before(key, false),
            Bound::Unbounded => self.root.live(),
        };
        before_end.saturating_sub(before_start)
    }

    /// Live entries before a key, or up to it.
    fn live_before(&self, key: &[u8], included: bool) -> u64 {
        let mut live = 0;
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = holder(children, key);
                    live += children[..at].iter().map(|child| child.live).sum::<u64>();
                    node = &children[at].node;
                }
                Node::Leaf(entries) => {
                    let end = first_not(entries, |(k, _)| before(k, key, included));
                    return live + live_entries(&entries[..end]);
                }
            }
        }
    }
}

impl<V: Live, const MAX: usize> Node<V, MAX> {
    /// Items at least, the root apart: a split leaves both halves with more.
    const MIN: usize = {
        assert!(MAX >= 8, "half a node is more than a child needs");
        MAX / 4
    };

    /// Adds an entry; gives the difference in live entries, and the new right neighbour after a split.
    fn insert(&mut self, key: Arc<[u8]>, value: V) -> (i64, Option<Child<V, MAX>>) {
        match self {
            Self::Leaf(entries) => match position(entries, &key) {
                Ok(at) => {
                    let old = std::mem::replace(&mut entries[at].1, value);
                    (live_difference(old.is_live(), entries[at].1.is_live()), None)
                }
                Err(at) => {
                    let difference = i64::from(value.is_live());
                    (difference, self.place(at, (key, value), Self::leaf_mut))
                }
            },
            Self::Inner(children) => {
                let at = holder(children, &key);
                let child = &mut children[at];
                if key < child.low {
                    child.low = Arc::clone(&key);
                }
                let (difference, split) = child.node.insert(key, value);
                child.live = child.live.wrapping_add_signed(difference);
                let Some(right) = split else { return (difference, None) };
                child.live -= right.live;
                (difference, self.place(at + 1, right, Self::inner_mut))
            }
        }
    }

    /// Puts an item into its place, splitting the node first where it is full.
    fn place<T>(
        &mut self,
        at: usize,
        item: T,
        items: impl Fn(&mut Self) -> &mut Vec<T>,
    ) -> Option<Child<V, MAX>> {
        if items(self).len() < MAX {
            push_at(items(self), at, item);
            return None;
        }
        // Whoever appends goes on to append: the left node keeps most, or ascending keys leave it half empty.
        let middle = if at == MAX { MAX - Self::MIN } else { MAX / 2 };
        let mut right = self.split_off(middle);
        if at <= middle {
            push_at(items(self), at, item);
        } else {
            push_at(items(&mut right), at - middle, item);
        }
        Some(right.into_child())
    }

    /// Changes an entry; gives what the change gave and the difference in live entries.
    fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<(R, i64)> {
        match self {
            Self::Leaf(entries) => {
                let at = position(entries, key).ok()?;
                let value = &mut entries[at].1;
                let was_live = value.is_live();
                let result = change(value);
                Some((result, live_difference(was_live, value.is_live())))
            }
            Self::Inner(children) => {
                let at = holder(children, key);
                let child = &mut children[at];
                let (result, difference) = child.node.update(key, change)?;
                child.live = child.live.wrapping_add_signed(difference);
                Some((result, difference))
            }
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<V> {
        match self {
            Self::Leaf(entries) => {
                let at = position(entries, key).ok()?;
                Some(entries.remove(at).1)
            }
            Self::Inner(children) => {
                let at = holder(children, key);
                let child = &mut children[at];
                let value = child.node.remove(key)?;
                child.live -= u64::from(value.is_live());
                if child.node.len() < Self::MIN {
                    mend(children, at);
                }
                Some(value)
            }
        }
    }

    fn split_off(&mut self, at: usize) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(entries.split_off(at)),
            Self::Inner(children) => Self::Inner(children.split_off(at)),
        }
    }

    /// Takes over all that its right neighbour holds.
    fn append(&mut self, right: Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(mut right)) => left.append(&mut right),
            (Self::Inner(left), Self::Inner(mut right)) => left.append(&mut right),
            _ => unreachable!("neighbours are equally high, as only the root grows"),
        }
    }

    fn into_child(self) -> Child<V, MAX> {
        let low = match &self {
            Self::Leaf(entries) => Arc::clone(&entries[0].0),
            Self::Inner(children) => Arc::clone(&children[0].low),
        };
        Child { low, live: self.live(), node: self }
    }

    fn leaf_mut(&mut self) -> &mut Vec<(Arc<[u8]>, V)> {
        match self {
            Self::Leaf(entries) => entries,
            Self::Inner(_) => unreachable!("asked of leaves and what is split off them"),
        }
    }

    fn inner_mut(&mut self) -> &mut Vec<Child<V, MAX>> {
        match self {
            Self::Inner(children) => children,
            Self::Leaf(_) => unreachable!("asked of inner nodes and what is split off them"),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn live(&self) -> u64 {
        match self {
            Self::Leaf(entries) => live_entries(entries),
            Self::Inner(children) => children.iter().map(|child| child.live).sum(),
        }
    }
}

impl<'a, V, const MAX: usize> Iterator for Iter<'a, V, MAX> {
    type Item = (&'a Arc<[u8]>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next().map(|child| &child.node) {
                Some(Node::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Node::Inner(children)) => self.above.push(children.iter()),
                None => {
                    self.above.pop();
                }
            }
        }
    }
}

fn live_entries<V: Live>(entries: &[(Arc<[u8]>, V)]) -> u64 {
    entries.iter().map(|(_, value)| u64::from(value.is_live())).sum()
}

fn live_difference(was: bool, is: bool) -> i64 {
    i64::from(is) - i64::from(was)
}

fn push_at<T>(items: &mut Vec<T>, at: usize, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(NODE_GROWTH);
    }
    items.insert(at, item);
}

/// A child became too small: it is joined with a neighbour, and if that is too much for one, both share.
fn mend<V: Live, const MAX: usize>(children: &mut Vec<Child<V, MAX>>, at: usize) {
    let left = at.saturating_sub(1);
    let right = children.remove(left + 1);
    let child = &mut children[left];
    child.live += right.live;
    child.node.append(right.node);
    if child.node.len() > MAX {
        let right = child.node.split_off(child.node.len() / 2).into_child();
        child.live -= right.live;
        children.insert(left + 1, right);
    }
}

#[cfg(test)]
mod tests;
