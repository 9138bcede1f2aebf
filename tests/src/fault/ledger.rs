//! What became of each write, and whether a store agrees with it.
//!
//! Each write creates a key of its own, so a store can be judged without searching for an order:
//! acknowledged keys are there at the revision that was told, keys of refused writes are not,
//! nothing else is there but writes of unknown outcome, and the revisions are 2, 3, … without a
//! hole (behaviour.md §1). Knows nothing of processes.

use std::collections::BTreeMap;

use anyhow::ensure;
use kvd_client::proto::mvccpb::KeyValue;

/// How a write ended for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged at this revision.
    Acknowledged(i64),
    /// No answer tells.
    Unknown,
    /// The answer says that nothing happened.
    Refused,
}

/// All writes to one store.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// How each ended, and the bytes of its value.
    writes: BTreeMap<String, (Fate, usize)>,
    value_bytes: usize,
}

impl Ledger {
    /// An empty one, of writes with values of this size.
    pub fn new(value_bytes: usize) -> Self {
        Self { writes: BTreeMap::new(), value_bytes }
    }

    /// Notes a write.
    pub fn note(&mut self, key: String, fate: Fate) {
        let before = self.writes.insert(key, (fate, self.value_bytes));
        assert!(before.is_none(), "each write has a key of its own");
    }

    /// Takes over the writes of another.
    pub fn merge(&mut self, other: Self) {
        for (key, write) in other.writes {
            let before = self.writes.insert(key, write);
            assert!(before.is_none(), "each write has a key of its own");
        }
    }

    /// The value that is written to a key.
    pub fn value_of(key: &str, value_bytes: usize) -> Vec<u8> {
        let mut value = format!("value of {key} ").into_bytes();
        let pattern: Vec<u8> = value.clone();
        while value.len() < value_bytes {
            let missing = value_bytes - value.len();
            value.extend_from_slice(&pattern[..pattern.len().min(missing)]);
        }
        value
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.count(|fate| matches!(fate, Fate::Acknowledged(_)))
    }

    /// How many writes have an unknown outcome.
    pub fn unknown(&self) -> usize {
        self.count(|fate| fate == Fate::Unknown)
    }

    fn count(&self, is_one: impl Fn(Fate) -> bool) -> usize {
        self.writes.values().filter(|(fate, _)| is_one(*fate)).count()
    }

    /// Proves that a store which nobody else wrote to, at `revision`, agrees.
    pub fn ensure_holds(&self, kvs: &[KeyValue], revision: i64) -> anyhow::Result<()> {
        let wrong = self.violations(kvs, revision);
        let first = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
        ensure!(
            wrong.is_empty(),
            "{} violations ({} acknowledged, {} unknown, {} keys, revision {revision}):\n  {first}",
            wrong.len(),
            self.acknowledged(),
            self.unknown(),
            kvs.len()
        );
        Ok(())
    }

    fn violations(&self, kvs: &[KeyValue], revision: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut found = BTreeMap::new();
        for kv in kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            match self.writes.get(&key) {
                None => wrong.push(format!("{key} was never written")),
                Some((_, bytes)) if kv.value != Self::value_of(&key, *bytes) => {
                    wrong.push(format!("{key} has another value"));
                }
                Some(_) => {}
            }
            if kv.version != 1 || kv.create_revision != kv.mod_revision {
                wrong.push(format!("{key} was written twice: {kv:?}"));
            }
            found.insert(key, kv.mod_revision);
        }
        for (key, (fate, _)) in &self.writes {
            match (fate, found.get(key)) {
                (Fate::Acknowledged(told), None) => {
                    wrong.push(format!("{key}, acknowledged at {told}, is lost"));
                }
                (Fate::Acknowledged(told), Some(at)) if told != at => {
                    wrong.push(format!("{key}, acknowledged at {told}, is at {at}"));
                }
                (Fate::Refused, Some(at)) => {
                    wrong.push(format!("{key}, refused, is at {at}"));
                }
                _ => {}
            }
        }
        let mut revisions: Vec<i64> = found.into_values().collect();
        revisions.sort_unstable();
        if !revisions.iter().copied().eq(2..=revision) {
            wrong.push(format!("{} keys make no revision {revision}", revisions.len()));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: Ledger::value_of(key, 40).into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            ..Default::default()
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(40);
        ledger.note("a".into(), Fate::Acknowledged(2));
        ledger.note("b".into(), Fate::Unknown);
        ledger.note("c".into(), Fate::Refused);
        ledger
    }

    #[test]
    fn what_may_have_happened_is_right_either_way() {
        assert_eq!(ledger().violations(&[kv("a", 2)], 2), Vec::<String>::new());
        assert_eq!(ledger().violations(&[kv("a", 2), kv("b", 3)], 3), Vec::<String>::new());
    }

    #[test]
    fn each_planted_violation_is_found() {
        let mut twice = kv("a", 2);
        twice.version = 2;
        let mut other = kv("a", 2);
        other.value = "other".into();
        for (kvs, revision) in [
            (vec![], 1),
            (vec![kv("a", 3)], 3),
            (vec![kv("b", 2)], 2),
            (vec![kv("a", 2), kv("c", 3)], 3),
            (vec![kv("a", 2), kv("d", 3)], 3),
            (vec![kv("a", 2)], 3),
            (vec![kv("a", 2), kv("b", 4)], 4),
            (vec![twice], 2),
            (vec![other], 2),
        ] {
            assert!(!ledger().violations(&kvs, revision).is_empty(), "{kvs:?} passes");
        }
    }
}
