//! Judges what several processes did and saw of one store that nobody else wrote to.
//!
//! Each event of every watch is put into one history; then: all watches tell the same, each
//! acknowledged write is there once at its revision, each event has somebody who wanted it, no
//! counter lost an increment, no revision is unexplained, and the history leads to what a list
//! finds (kube-apiserver.md §2, §3).

use std::collections::{BTreeMap, BTreeSet};

use kvd_proto::mvccpb::KeyValue;

use super::change::{Change, Held, text};
use super::ledger::{Fate, Intent, Ledger, Op, Watched};
use super::requests::COMPACT_REV_KEY;

/// What whole caches watch.
pub const REGISTRY: &str = "/registry/";
/// Counters: `<number> <who>`, never deleted.
pub const COUNTERS: &str = "/registry/configmaps/";
/// Objects that end with a lease.
pub const EVENTS: &str = "/registry/events/";
/// Keys that move from lease to lease.
pub const MASTERS: &str = "/registry/masterleases/";

/// Breaches that are told; more tell nothing new.
const WRONG_MAX: usize = 50;

/// How far the watches of all processes tell everything together, and from where.
pub fn covered(ledgers: &[Ledger]) -> (i64, i64) {
    let mut spans: Vec<(i64, i64)> = ledgers
        .iter()
        .flat_map(|ledger| &ledger.watches)
        .filter(|watched| watched.prefix == REGISTRY)
        .flat_map(|watched| &watched.segments)
        .map(|segment| (segment.from, segment.to))
        .collect();
    spans.sort_unstable();
    let Some((from, mut to)) = spans.first().copied() else { return (0, 0) };
    for (begins, ends) in spans {
        if begins <= to {
            to = to.max(ends);
        }
    }
    (from, to)
}

/// All breaches; `found` is everything below `/registry/` at the end of [`covered`].
pub fn violations(ledgers: &[Ledger], found: &[KeyValue]) -> Vec<String> {
    let mut judge = Judge::new(ledgers);
    judge.own_breaches();
    judge.watches_agree();
    judge.writes_are_seen();
    judge.changes_are_wanted();
    judge.counters_count();
    judge.revisions_are_explained();
    judge.list_is_replay(found);
    judge.wrong.truncate(WRONG_MAX);
    judge.wrong
}

struct Judge<'a> {
    ledgers: &'a [Ledger],
    /// Everything that any watch told, in order.
    history: BTreeSet<&'a Change>,
    from: i64,
    to: i64,
    wrong: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(ledgers: &'a [Ledger]) -> Self {
        let watches = ledgers.iter().flat_map(|ledger| &ledger.watches);
        let segments = watches.flat_map(|watched| &watched.segments);
        let history = segments.flat_map(|segment| &segment.changes).collect();
        let (from, to) = covered(ledgers);
        Self { ledgers, history, from, to, wrong: Vec::new() }
    }

    fn ops(&self) -> impl Iterator<Item = &'a Op> + use<'a> {
        self.ledgers.iter().flat_map(|ledger| &ledger.ops)
    }

    fn accuse(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn own_breaches(&mut self) {
        for (process, ledger) in self.ledgers.iter().enumerate() {
            for wrong in &ledger.wrong {
                self.wrong.push(format!("process {process}: {wrong}"));
            }
        }
    }

    /// Each watch told all of the history that it may not miss, once and in order.
    fn watches_agree(&mut self) {
        for (process, ledger) in self.ledgers.iter().enumerate() {
            for watched in &ledger.watches {
                let differences = self.differences(watched);
                let prefix = &watched.prefix;
                let named = differences.into_iter().take(5);
                self.wrong.extend(named.map(|what| format!("process {process}, {prefix}: {what}")));
            }
        }
    }

    fn differences(&self, watched: &Watched) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut told_to = 0;
        for segment in &watched.segments {
            if segment.from < told_to {
                wrong.push(format!("a list at {} after {told_to}", segment.from));
            }
            told_to = segment.to;
            let mut told = segment.changes.iter().peekable();
            let is_here = |change: &&&Change| {
                change.revision > segment.from
                    && change.revision <= segment.to
                    && change.key.starts_with(&watched.prefix)
            };
            for expected in self.history.iter().filter(is_here) {
                match told.peek() {
                    Some(change) if change == expected => drop(told.next()),
                    Some(change) if *change < *expected => {
                        wrong.push(format!("told out of order or twice: {change:?}"));
                        told.next();
                    }
                    _ => wrong.push(format!("never told: {expected:?}")),
                }
            }
            wrong.extend(told.map(|change| format!("told besides: {change:?}")));
        }
        wrong
    }

    /// Acknowledged writes are there at their revisions, refused ones are not.
    fn writes_are_seen(&mut self) {
        let mut by_value: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
        let mut by_revision: BTreeMap<i64, Vec<&Change>> = BTreeMap::new();
        for change in &self.history {
            by_revision.entry(change.revision).or_default().push(change);
            if let Some(put) = &change.put {
                by_value.entry(&put.value).or_default().push(change);
            }
        }
        let mut acked = BTreeMap::new();
        for op in self.ops() {
            if let Fate::Acked(revision) = op.fate
                && let Some(other) = acked.insert(revision, op)
            {
                self.accuse(format!("one revision for two writes: {other:?} and {op:?}"));
            }
            if op.key == COMPACT_REV_KEY {
                continue;
            }
            let put: &[&Change] = match &op.intent {
                Intent::Put(value) => by_value.get(value.as_str()).map_or(&[], Vec::as_slice),
                Intent::Delete(_) => &[],
            };
            let is_wrong = match op.fate {
                Fate::Acked(revision) => {
                    let at = by_revision.get(&revision).map_or(&[][..], Vec::as_slice);
                    let [change] = at else {
                        self.accuse(format!("acknowledged, but the history has {at:?}: {op:?}"));
                        continue;
                    };
                    !is_done_by(change, op) || put.len() > 1
                }
                Fate::Failed => !put.is_empty(),
                Fate::Unknown => put.len() > 1,
            };
            if is_wrong {
                self.accuse(format!("the history has {put:?} of {op:?}"));
            }
        }
    }

    /// Each change was wanted by somebody who was not told that it failed, or is a lease's end.
    fn changes_are_wanted(&mut self) {
        let mut wanted: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in self.ops() {
            wanted.entry(&op.key).or_default().push(op);
        }
        let mut wrong = Vec::new();
        for change in &self.history {
            let ops = wanted.get(change.key.as_str()).map_or(&[][..], Vec::as_slice);
            let could = |op: &&&Op| {
                let at = op.fate == Fate::Acked(change.revision) || op.fate == Fate::Unknown;
                at && is_done_by(change, op)
            };
            let is_expiry =
                change.put.is_none() && change.before.1 != 0 && change.key.starts_with(EVENTS);
            if !is_expiry && !ops.iter().any(|op| could(&op)) {
                wrong.push(format!("nobody wanted {change:?}"));
            }
        }
        self.wrong.append(&mut wrong);
    }

    /// Each value of a counter is one more than the one before.
    fn counters_count(&mut self) {
        let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        for change in self.history.iter().filter(|change| change.key.starts_with(COUNTERS)) {
            let before = numbers.get(change.key.as_str()).copied();
            let now = change.put.as_ref().and_then(|put| counted(&put.value));
            let Some(now) = now.filter(|now| *now == before.map_or(0, |before| before + 1)) else {
                wrong.push(format!("a lost update: {before:?} before {change:?}"));
                continue;
            };
            numbers.insert(&change.key, now);
        }
        for (key, number) in numbers {
            let increments = self.ops().filter(|op| op.key == key);
            let (mut acked, mut unknown) = (0, 0);
            for op in increments {
                let is_first =
                    matches!(&op.intent, Intent::Put(value) if counted(value) == Some(0));
                match op.fate {
                    Fate::Acked(_) if !is_first => acked += 1,
                    Fate::Unknown if !is_first => unknown += 1,
                    _ => {}
                }
            }
            if !(acked..=acked + unknown).contains(&number) {
                wrong
                    .push(format!("{key} is {number} after {acked} increments, {unknown} unknown"));
            }
        }
        self.wrong.append(&mut wrong);
    }

    /// Each revision is a change that was told, or a claim to compact.
    fn revisions_are_explained(&mut self) {
        let told: BTreeSet<i64> = self.history.iter().map(|change| change.revision).collect();
        let claims = self.ops().filter(|op| op.key == COMPACT_REV_KEY);
        let claims: Vec<Fate> = claims.map(|op| op.fate).collect();
        let is_claim = |revision: &i64| claims.contains(&Fate::Acked(*revision));
        let free: Vec<i64> = (self.from + 1..=self.to)
            .filter(|revision| !told.contains(revision) && !is_claim(revision))
            .collect();
        let unknown = claims.iter().filter(|fate| **fate == Fate::Unknown).count();
        if free.len() > unknown {
            let first = &free[..free.len().min(20)];
            self.accuse(format!("{} revisions that nobody was told of: {first:?}", free.len()));
        }
        let both: Vec<&i64> = told.iter().filter(|revision| is_claim(revision)).collect();
        if !both.is_empty() {
            self.accuse(format!("revisions of claims and of changes: {both:?}"));
        }
    }

    /// Whoever replays the history holds what the list found.
    fn list_is_replay(&mut self, found: &[KeyValue]) {
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        for change in &self.history {
            match change.held() {
                Some(now) => drop(held.insert(change.key.clone(), now)),
                None => drop(held.remove(&change.key)),
            }
        }
        let found: BTreeMap<String, Held> =
            found.iter().map(|kv| (text(&kv.key), Held::of(kv))).collect();
        let keys: BTreeSet<&String> = held.keys().chain(found.keys()).collect();
        for key in keys {
            let (replayed, listed) = (held.get(key), found.get(key));
            if replayed != listed {
                self.wrong.push(format!("{key}: replayed {replayed:?}, listed {listed:?}"));
            }
        }
    }
}

/// Whether a change is what this write does.
fn is_done_by(change: &Change, op: &Op) -> bool {
    let is_same = match (&op.intent, &change.put) {
        (Intent::Put(value), Some(put)) => *value == put.value,
        (Intent::Delete(since), None) => *since == change.before.0,
        _ => false,
    };
    is_same && change.key == op.key
}

/// The number that a counter's value holds.
pub fn counted(value: &str) -> Option<u64> {
    value.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
