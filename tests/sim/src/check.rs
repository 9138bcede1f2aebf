//! Whether a history can be true: a certificate check, linear in its length.
//!
//! The certificate is the store's own history, read back revision by revision. Values are unique, so a wrong
//! claim collides with content. Holds exactly if the history is strictly serializable with the revisions
//! claimed: every write stands at one revision and does what it says there; every read equals the state at its
//! revision; nobody is told of a past older than what anybody knew before, nor of what was not yet asked.

use std::collections::BTreeMap;

use crate::history::{Call, Op, Outcome, Pair};

/// What a revision changed: the pairs that were put.
pub type Change = Vec<Pair>;

/// The key that marks a deletion.
#[must_use]
pub fn marker(number: usize) -> String {
    format!("gone/{number}")
}

/// Checks a history against the changes at revisions 2, 3, … Returns what is wrong.
pub fn check(calls: &[Call], changes: &[Change]) -> Result<(), String> {
    let certificate = Certificate { calls, writers: writers(calls, changes)? };
    certificate.replay(changes)?;
    certificate.real_time()
}

/// The call that made each change.
fn writers(calls: &[Call], changes: &[Change]) -> Result<Vec<usize>, String> {
    let mut revisions: BTreeMap<usize, i64> = BTreeMap::new();
    let mut writers = Vec::new();
    for (revision, change) in (2..).zip(changes) {
        let number = change.first().and_then(|pair| pair.value.parse::<usize>().ok());
        let number = number.ok_or_else(|| format!("nobody wrote revision {revision}"))?;
        let call = calls.get(number).ok_or_else(|| format!("nobody made call {number}"))?;
        if !call.op.writes() || matches!(call.outcome, Outcome::Failed | Outcome::Read(..)) {
            return Err(format!("revision {revision} is of call {number}, which did not write"));
        }
        if let Some(other) = revisions.insert(number, revision) {
            return Err(format!("call {number} wrote at {other} and at {revision}"));
        }
        writers.push(number);
    }
    for (number, call) in calls.iter().enumerate() {
        if let Outcome::Wrote(told, _) = call.outcome
            && revisions.get(&number) != Some(&told)
        {
            let found = revisions.get(&number);
            return Err(format!(
                "call {number} was told {told}, but stands at {found:?}: {call:?}"
            ));
        }
    }
    Ok(writers)
}

struct Certificate<'a> {
    calls: &'a [Call],
    /// By revision, from 2 on.
    writers: Vec<usize>,
}

impl Certificate<'_> {
    /// Every revision does what its call says, and every read equals the state at its revision.
    fn replay(&self, changes: &[Change]) -> Result<(), String> {
        let mut reads: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (number, call) in self.calls.iter().enumerate() {
            if let Outcome::Read(revision, _) = call.outcome {
                reads.entry(revision).or_default().push(number);
            }
        }
        let mut model = Model::default();
        self.check_reads(reads.remove(&1), &model)?;
        for ((revision, change), writer) in (2..).zip(changes).zip(&self.writers) {
            let call = &self.calls[*writer];
            let wrong = |what| format!("revision {revision}: {what}: {call:?}, stored {change:?}");
            let (before, put) = model.write(*writer, &call.op, revision).map_err(wrong)?;
            if *change != [put] {
                return Err(wrong("something else is stored"));
            }
            if let Outcome::Wrote(_, told) = &call.outcome
                && *told != before
            {
                return Err(format!("{} Before it was {before:?}", wrong("the past is another")));
            }
            self.check_reads(reads.remove(&revision), &model)?;
        }
        match reads.pop_first() {
            Some((revision, _)) => Err(format!("read at {revision}, which nobody wrote")),
            None => Ok(()),
        }
    }

    fn check_reads(&self, reads: Option<Vec<usize>>, model: &Model) -> Result<(), String> {
        for number in reads.into_iter().flatten() {
            let call = &self.calls[number];
            let expected = match &call.op {
                Op::Get(key) => model.pairs.get(key).into_iter().cloned().collect(),
                Op::Swap(key, changed) => {
                    let found: Vec<Pair> = model.pairs.get(key).into_iter().cloned().collect();
                    if found.first().map_or(0, |pair| pair.changed) == *changed {
                        return Err(format!("call {number} did not swap, but had to: {call:?}"));
                    }
                    found
                }
                _ => model.pairs.values().cloned().collect::<Vec<_>>(),
            };
            if !matches!(&call.outcome, Outcome::Read(_, told) if *told == expected) {
                return Err(format!("call {number} read {call:?}, but it was {expected:?}"));
            }
        }
        Ok(())
    }

    /// Nobody is told less than was known before it asked, nor of what was asked only later.
    fn real_time(&self) -> Result<(), String> {
        let mut newest_asked = 0;
        let asked_by: Vec<u64> = self
            .writers
            .iter()
            .map(|writer| {
                newest_asked = self.calls[*writer].begun.max(newest_asked);
                newest_asked
            })
            .collect();
        let revision_of: BTreeMap<usize, i64> = self.writers.iter().copied().zip(2..).collect();
        let mut known = Known::of(self.calls);
        let mut order: Vec<usize> = (0..self.calls.len()).collect();
        order.sort_by_key(|number| self.calls[*number].begun);
        for number in order {
            let call = &self.calls[number];
            let floor = known.before(call.begun);
            let (revision, least) = match call.outcome {
                Outcome::Read(revision, _) if call.op == Op::StaleList => (revision, 0),
                Outcome::Read(revision, _) => (revision, floor),
                _ => match revision_of.get(&number) {
                    Some(revision) => (*revision, floor + 1),
                    None => continue,
                },
            };
            if revision < least {
                return Err(format!("call {number} is stale, {floor} was known: {call:?}"));
            }
            let told = usize::try_from(revision - 2).ok().and_then(|at| asked_by.get(at));
            if told.is_some_and(|asked| *asked > call.ended) {
                return Err(format!("call {number} was told of what was not asked yet: {call:?}"));
            }
        }
        Ok(())
    }
}

/// The newest revision that anybody was told, over time.
struct Known {
    /// Ends of calls with their revisions, the next one last.
    told: Vec<(u64, i64)>,
    newest: i64,
}

impl Known {
    fn of(calls: &[Call]) -> Self {
        let mut told: Vec<(u64, i64)> = calls
            .iter()
            .filter_map(|call| match call.outcome {
                Outcome::Wrote(revision, _) | Outcome::Read(revision, _) => {
                    Some((call.ended, revision))
                }
                Outcome::Failed | Outcome::Unknown => None,
            })
            .collect();
        told.sort_unstable_by_key(|(ended, _)| std::cmp::Reverse(*ended));
        Self { told, newest: 1 }
    }

    fn before(&mut self, moment: u64) -> i64 {
        while let Some((_, revision)) = self.told.pop_if(|(ended, _)| *ended < moment) {
            self.newest = self.newest.max(revision);
        }
        self.newest
    }
}

/// The state at one revision.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<String, Pair>,
}

impl Model {
    /// Does a write; returns what it is told of the past, and what it leaves.
    fn write(
        &mut self,
        number: usize,
        op: &Op,
        revision: i64,
    ) -> Result<(Vec<Pair>, Pair), &'static str> {
        let (key, before) = match op {
            Op::Put(key) => (key.clone(), self.pairs.get(key).cloned()),
            Op::Swap(key, changed) => {
                if self.pairs.get(key).map_or(0, |pair| pair.changed) != *changed {
                    return Err("the condition did not hold");
                }
                (key.clone(), None)
            }
            Op::Delete(key) => (marker(number), self.pairs.remove(key)),
            Op::Get(_) | Op::List | Op::StaleList => return Err("a read does not write"),
        };
        let old = self.pairs.get(&key);
        let put = Pair {
            value: number.to_string(),
            created: old.map_or(revision, |old| old.created),
            changed: revision,
            version: old.map_or(1, |old| old.version + 1),
            key: key.clone(),
        };
        self.pairs.insert(key, put.clone());
        Ok((before.into_iter().collect(), put))
    }
}

#[cfg(test)]
mod tests;
