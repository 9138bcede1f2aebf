//! The search itself.
//!
//! Beginnings and ends of operations stand in a list in the order of time. The search walks it from the front: at
//! a beginning it tries to take the operation out, next in the order; an end means that its operation should have
//! been taken before, so it takes back the last one taken and tries the next. What it tried, it remembers as a
//! number of the set of operations taken and the store after them.

use std::collections::HashSet;

use crate::history::{Nanos, OpId};
use crate::reply::Reply;
use crate::request::Request;

use super::model::{Store, numbers, without_revisions};
use super::partition::Part;
use super::{Counterexample, Fate, Step, Verdict};

/// Operations of the longest order that are shown.
const SHOWN_MAX: usize = 10;

/// The list of beginnings and ends; the last two are its head and its tail.
struct Timeline {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation of each, and whether it is its end.
    what: Vec<(usize, bool)>,
    begins: Vec<usize>,
    ends: Vec<usize>,
}

impl Timeline {
    fn new(steps: &[&Step]) -> Self {
        let mut moments: Vec<(Nanos, bool, usize)> = Vec::with_capacity(steps.len() * 2);
        for (place, step) in steps.iter().enumerate() {
            moments.push((step.begun, false, place));
            moments.push((deadline(step), true, place));
        }
        // At one moment, beginnings come before ends: such operations may stand in either order.
        moments.sort_unstable();
        let len = moments.len();
        let (mut begins, mut ends) = (vec![0; steps.len()], vec![0; steps.len()]);
        for (at, (_, is_end, place)) in moments.iter().enumerate() {
            if *is_end { ends[*place] = at } else { begins[*place] = at }
        }
        let mut next: Vec<usize> = (1..=len + 2).collect();
        let mut previous: Vec<usize> = (0..len + 2).map(|at| at.saturating_sub(1)).collect();
        let (head, tail) = (len, len + 1);
        next[head] = if len == 0 { tail } else { 0 };
        previous[0] = head;
        if len > 0 {
            next[len - 1] = tail;
            previous[tail] = len - 1;
        }
        let what = moments.into_iter().map(|(_, is_end, place)| (place, is_end)).collect();
        Self { next, previous, what, begins, ends }
    }

    fn head(&self) -> usize {
        self.what.len()
    }

    fn tail(&self) -> usize {
        self.what.len() + 1
    }

    fn take_out(&mut self, place: usize) {
        for at in [self.begins[place], self.ends[place]] {
            let (before, after) = (self.previous[at], self.next[at]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    fn put_back(&mut self, place: usize) {
        for at in [self.ends[place], self.begins[place]] {
            let (before, after) = (self.previous[at], self.next[at]);
            self.next[before] = at;
            self.previous[after] = at;
        }
    }

    /// Operations that have begun before the first end that is left.
    fn begun(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = self.next[self.head()];
        while at != self.tail() {
            let (place, is_end) = self.what[at];
            if is_end {
                break;
            }
            found.push(place);
            at = self.next[at];
        }
        found
    }
}

/// When an operation had happened.
fn deadline(step: &Step) -> Nanos {
    match &step.fate {
        Fate::Answered { ended, .. } | Fate::HappenedBefore(ended) => *ended,
        Fate::Happened | Fate::Open => Nanos::MAX,
    }
}

/// Searches for an order of one part.
pub(super) fn search(part: &Part<'_>, steps_left: &mut u64) -> Verdict {
    let steps = &part.steps;
    let answers: Vec<Option<Reply>> = steps.iter().map(|step| answer(step)).collect();
    let mut timeline = Timeline::new(steps);
    let mut store = Store::new(&part.initial);
    let numbers: Vec<[u64; 2]> = (0..steps.len()).map(|place| numbers(&place)).collect();
    // Each with the store before it, if it may have changed that.
    let mut taken: Vec<(usize, Option<Store>)> = Vec::new();
    let mut taken_set = [0u64; 2];
    let mut tried: HashSet<[u64; 2]> = HashSet::new();
    let mut left = steps.iter().filter(|step| step.fate != Fate::Open).count();
    let mut longest = Counterexample::default();
    let mut depth_max = 0;
    let mut at = timeline.next[timeline.head()];
    while left > 0 {
        if *steps_left == 0 {
            return Verdict::GaveUp;
        }
        *steps_left -= 1;
        let begins = (at != timeline.tail()).then(|| timeline.what[at]).filter(|(_, end)| !end);
        if let Some((place, _)) = begins {
            let (reply, after) = match &steps[place].request {
                Request::Range(range) => (store.range(range), None),
                request => {
                    let mut after = store.clone();
                    (after.run(request, &part.names), Some(after))
                }
            };
            let fits = answers[place].as_ref().is_none_or(|answer| *answer == reply);
            let set = toggled(taken_set, numbers[place]);
            if fits && tried.insert(mixed(set, after.as_ref().unwrap_or(&store))) {
                taken.push((place, after.map(|after| std::mem::replace(&mut store, after))));
                taken_set = set;
                timeline.take_out(place);
                left -= usize::from(steps[place].fate != Fate::Open);
                at = timeline.next[timeline.head()];
            } else {
                at = timeline.next[at];
            }
            continue;
        }
        if taken.len() >= depth_max {
            depth_max = taken.len();
            longest = shown(steps, &taken, &timeline.begun());
        }
        let Some((place, before)) = taken.pop() else { return Verdict::NotLinearizable(longest) };
        store = before.unwrap_or(store);
        taken_set = toggled(taken_set, numbers[place]);
        timeline.put_back(place);
        left += usize::from(steps[place].fate != Fate::Open);
        at = timeline.next[timeline.begins[place]];
    }
    Verdict::Linearizable
}

fn answer(step: &Step) -> Option<Reply> {
    match &step.fate {
        Fate::Answered { reply, .. } => Some(without_revisions(reply.clone())),
        _ => None,
    }
}

/// The number of a set with one more or less in it.
fn toggled(set: [u64; 2], number: [u64; 2]) -> [u64; 2] {
    [set[0] ^ number[0], set[1] ^ number[1]]
}

fn mixed(set: [u64; 2], store: &Store) -> [u64; 2] {
    let digest = store.digest();
    [set[0].wrapping_add(digest[0]), set[1].wrapping_add(digest[1])]
}

fn shown(steps: &[&Step], taken: &[(usize, Option<Store>)], begun: &[usize]) -> Counterexample {
    let from = taken.len().saturating_sub(SHOWN_MAX);
    let names = |place: &usize| -> Option<OpId> { steps[*place].id };
    Counterexample {
        order: taken[from..].iter().filter_map(|(place, _)| names(place)).collect(),
        stuck: begun.iter().filter_map(names).collect(),
    }
}
