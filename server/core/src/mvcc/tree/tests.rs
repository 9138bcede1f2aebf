//! The tree against the standard library's, which cannot count but is right.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

impl Live for u32 {
    fn is_live(&self) -> bool {
        self.is_multiple_of(2)
    }
}

/// Runs of neighbouring keys, so that nodes fill, split, run empty and join.
#[derive(Clone, Debug)]
enum Step {
    Insert { keys: RangeInclusive<u16>, stride: u16, descending: bool, value: u32 },
    Update { keys: RangeInclusive<u16> },
    Remove { keys: RangeInclusive<u16>, stride: u16 },
    Look { start: Bound<u16>, end: Bound<u16> },
}

fn keys() -> BoxedStrategy<RangeInclusive<u16>> {
    (0_u16..1500, 0_u16..700).prop_map(|(first, number)| first..=first + number).boxed()
}

fn bound() -> BoxedStrategy<Bound<u16>> {
    prop_oneof![
        3 => (0_u16..2300).prop_map(Bound::Included),
        3 => (0_u16..2300).prop_map(Bound::Excluded),
        1 => Just(Bound::Unbounded),
    ]
    .boxed()
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        3 => (keys(), 1_u16..9, any::<bool>(), any::<u32>()).prop_map(
            |(keys, stride, descending, value)| Step::Insert { keys, stride, descending, value }
        ),
        1 => keys().prop_map(|keys| Step::Update { keys }),
        2 => (keys(), 1_u16..4).prop_map(|(keys, stride)| Step::Remove { keys, stride }),
        4 => (bound(), bound()).prop_map(|(start, end)| Step::Look { start, end }),
    ]
    .boxed()
}

/// Of different lengths, in the order of their numbers.
fn key(number: u16) -> Arc<[u8]> {
    let [high, low] = number.to_be_bytes();
    if low % 3 == 0 { Arc::from([high, low]) } else { Arc::from([high, low, 0xff]) }
}

fn bytes(bound: Bound<&Arc<[u8]>>) -> Bound<&[u8]> {
    bound.map(AsRef::as_ref)
}

fn within(key: &Arc<[u8]>, start: Bound<&Arc<[u8]>>, end: Bound<&Arc<[u8]>>) -> bool {
    let after = match start {
        Bound::Included(start) => start <= key,
        Bound::Excluded(start) => start < key,
        Bound::Unbounded => true,
    };
    let before = match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    };
    after && before
}

/// Takes a step on both.
fn take<const MAX: usize>(
    tree: &mut Tree<u32, MAX>,
    map: &mut BTreeMap<Arc<[u8]>, u32>,
    step: &Step,
) {
    match step {
        Step::Insert { keys, stride, descending, value } => {
            let mut numbers: Vec<u16> = keys.clone().step_by(usize::from(*stride)).collect();
            if *descending {
                numbers.reverse();
            }
            for number in numbers {
                let value = value.wrapping_mul(u32::from(number)) >> 3;
                tree.insert(key(number), value);
                map.insert(key(number), value);
            }
        }
        Step::Update { keys } => {
            for number in keys.clone() {
                let old = tree.update(&key(number), |value| {
                    *value = value.wrapping_add(1);
                    value.wrapping_sub(1)
                });
                assert_eq!(old, map.get(&key(number)).copied());
                map.entry(key(number)).and_modify(|value| *value = value.wrapping_add(1));
            }
        }
        Step::Remove { keys, stride } => {
            for number in keys.clone().step_by(usize::from(*stride)) {
                assert_eq!(tree.remove(&key(number)), map.remove(&key(number)));
            }
        }
        Step::Look { start, end } => {
            let (start, end) = (start.map(key), end.map(key));
            let (start, end) = (start.as_ref(), end.as_ref());
            let live = map.iter().filter(|(key, value)| within(key, start, end) && value.is_live());
            assert_eq!(tree.live_between(bytes(start), bytes(end)), live.count() as u64);
            let rest = map.iter().filter(|(key, _)| within(key, start, Bound::Unbounded));
            assert!(tree.iter_from(bytes(start)).eq(rest));
        }
    }
}

fn run<const MAX: usize>(steps: &[Step]) {
    let (mut tree, mut map) = (Tree::<u32, MAX>::default(), BTreeMap::new());
    for step in steps {
        take(&mut tree, &mut map, step);
        tree.check().unwrap();
        for number in (0..2300).step_by(97) {
            assert_eq!(tree.get(&key(number)), map.get_key_value(&key(number)));
        }
    }
    assert!(tree.iter().eq(map.iter()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_is_the_map_that_counts(steps in vec(step(), 1..30)) {
        run::<8>(&steps);
        run::<NODE_MAX>(&steps);
    }
}

#[test]
fn ascending_keys_leave_nodes_mostly_full() {
    let mut tree = Tree::<u32>::default();
    for number in 0..10_000 {
        tree.insert(key(number), 0);
    }
    tree.check().unwrap();
    let Node::Inner(children) = &tree.root else { panic!("10000 keys are no leaf") };
    let leaves: usize = children.iter().map(|child| child.node.len()).sum();
    assert!(leaves * (NODE_MAX - NODE_MAX / 4) < 10_000 + 2 * NODE_MAX, "{leaves} leaves");
}

#[test]
fn an_emptied_tree_is_empty() {
    let mut tree = Tree::<u32>::default();
    for number in 0..5_000 {
        tree.insert(key(number), u32::from(number));
    }
    for number in (0..5_000).rev() {
        tree.remove(&key(number));
    }
    tree.check().unwrap();
    assert!(tree.iter().next().is_none() && tree.get(&key(7)).is_none());
    assert_eq!(tree.live_between(Bound::Unbounded, Bound::Unbounded), 0);
}
