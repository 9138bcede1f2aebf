//! Locks and elections: their safety is not mutual exclusion, which no lock with a lease can promise, but
//! fencing.
//!
//! Whoever holds a lock owns the oldest key below its prefix; the revision that created it is the token.
//!
//! 1. Tokens of successive holders grow.
//! 2. Whoever is told to hold it owned the oldest key at the revision he was told.
//! 3. A write guarded by "my key was created at this revision" does not happen once that key is gone.

use std::collections::BTreeMap;

use crate::bytes::Bytes;
use crate::checker::Acquisition;
use crate::request::{KeyRange, Relation, Request, Revision, Target};
use crate::state::{State, View};
use crate::violation::{Kind, Violation};

/// Holders of one lock that are remembered.
const HOLDERS_MAX: usize = 1_000;

/// A lock key that guards this request and is not held at this point any more.
#[must_use]
pub fn lost_guard(view: View<'_>, request: &Request) -> Option<Bytes> {
    let Request::Txn(txn) = request else { return None };
    txn.compares.iter().find_map(|compare| {
        let (Target::Create(token), Some(key)) = (&compare.target, compare.keys.single()) else {
            return None;
        };
        let held = view.get(key).is_some_and(|kv| kv.create_revision == *token);
        (compare.result == Relation::Equal && *token > 0 && !held).then(|| key.clone())
    })
}

/// Who held what.
#[derive(Debug, Default)]
pub struct Holders {
    /// Tokens by the revision at which each was told, of each lock.
    told: BTreeMap<Bytes, BTreeMap<Revision, Revision>>,
    /// Told of a revision that the log does not have yet.
    waiting: BTreeMap<Revision, Vec<Acquisition>>,
    /// Of a past that is not kept.
    unjudged: u64,
}

impl Holders {
    /// Nobody held anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers of a past that is not kept.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        self.unjudged
    }

    /// Somebody was told that it holds a lock.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn acquired(&mut self, state: &State, told: Acquisition) -> Result<(), Violation> {
        self.in_order(&told)?;
        if told.revision > state.revision() {
            self.waiting.entry(told.revision).or_default().push(told);
            return Ok(());
        }
        self.judge(state, &told)
    }

    /// The log has a new revision.
    ///
    /// # Errors
    /// What is wrong with what was told of it.
    pub fn changed(&mut self, state: &State, revision: Revision) -> Result<(), Violation> {
        let told = self.waiting.remove(&revision);
        told.into_iter().flatten().try_for_each(|told| self.judge(state, &told))
    }

    fn in_order(&mut self, told: &Acquisition) -> Result<(), Violation> {
        let tokens = self.told.entry(told.prefix.clone()).or_default();
        let before = tokens.range(..=told.revision).next_back();
        let after = tokens.range(told.revision..).next();
        let older = before.filter(|(_, token)| **token > told.create_revision);
        let younger = after.filter(|(_, token)| **token < told.create_revision);
        if let Some((at, token)) = older.or(younger) {
            let text = format!("at {at} the holder's token was {token}; then {told:?}");
            return Err(Violation::new(Kind::HoldersOutOfOrder, text));
        }
        tokens.insert(told.revision, told.create_revision);
        if tokens.len() > HOLDERS_MAX {
            tokens.pop_first();
        }
        Ok(())
    }

    fn judge(&mut self, state: &State, told: &Acquisition) -> Result<(), Violation> {
        let Some(view) = state.at(told.revision) else {
            self.unjudged += 1;
            return Ok(());
        };
        let waiting = view.range(&KeyRange::prefix(&told.prefix));
        let oldest = waiting.into_iter().min_by_key(|kv| kv.create_revision);
        let held = oldest
            .is_some_and(|kv| kv.key == told.key && kv.create_revision == told.create_revision);
        if held {
            return Ok(());
        }
        let text = format!("{told:?}, but the holder's key was {oldest:?}");
        Err(Violation::new(Kind::NotTheHolder, text))
    }
}
