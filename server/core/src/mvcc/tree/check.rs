//! The invariants of the tree, all verified from scratch. Tests and the simulator ask for it.

use std::sync::Arc;

use super::{Live, Node, Tree, live_entries};
use crate::outcome::Fatal;

impl<V: Live, const MAX: usize> Tree<V, MAX> {
    /// Verifies the invariants; takes time in proportion to the tree.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        self.root.check(true, None).map(|_| ())
    }
}

impl<V: Live, const MAX: usize> Node<V, MAX> {
    /// Gives height and live entries, or what is wrong. `low` is what no key may be below.
    fn check(&self, is_root: bool, low: Option<&[u8]>) -> Result<(usize, u64), Fatal> {
        let least = match self {
            Self::Leaf(_) if is_root => 0,
            Self::Inner(_) if is_root => 2,
            _ => Self::MIN,
        };
        ensure((least..=MAX).contains(&self.len()), "a node has too few or too many items")?;
        let (height, live) = match self {
            Self::Leaf(entries) => {
                ensure(entries.is_sorted_by(|(a, _), (b, _)| a < b), "keys are out of order")?;
                let first = entries.first().map(|(key, _)| key.as_ref());
                ensure(
                    first.is_none_or(|first| low.is_none_or(|low| low <= first)),
                    "a key is below its low",
                )?;
                (0, live_entries(entries))
            }
            Self::Inner(children) => {
                ensure(children.is_sorted_by(|a, b| a.low < b.low), "lows are out of order")?;
                let below = low.is_some_and(|low| children[0].low.as_ref() < low);
                ensure(!below, "a child begins before its parent")?;
                let mut heights = Vec::new();
                for (at, child) in children.iter().enumerate() {
                    let (height, live) = child.node.check(false, Some(&child.low))?;
                    ensure(live == child.live, "a child's live entries are miscounted")?;
                    let next = children.get(at + 1).map(|next| &next.low);
                    let ends = next.is_none_or(|next| child.node.last() < Some(next));
                    ensure(ends, "a key is not before the next child")?;
                    heights.push(height);
                }
                ensure(heights.iter().all(|height| *height == heights[0]), "leaves at two depths")?;
                (heights[0] + 1, self.live())
            }
        };
        Ok((height, live))
    }

    fn last(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Leaf(entries) => entries.last().map(|(key, _)| key),
            Self::Inner(children) => children.last()?.node.last(),
        }
    }
}

fn ensure(holds: bool, broken: &str) -> Result<(), Fatal> {
    if holds { Ok(()) } else { Err(Fatal::Invariant(format!("tree of keys: {broken}"))) }
}
