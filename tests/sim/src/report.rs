//! What a run was like: printed as JSON, added up over a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often what happened, by its name: faults, and what the cluster did about them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// One more of these.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// So many more of these.
    pub fn add(&mut self, what: &str, times: u64) {
        *self.0.entry(what.to_owned()).or_default() += times;
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Both together.
    pub fn join(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, times)| (what.as_str(), *times))
    }
}

/// What a run was like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Members of the cluster.
    pub members: usize,
    /// Calls that clients made.
    pub calls: u64,
    /// Revisions that came of them.
    pub revisions: u64,
    /// Times that an invariant was looked at.
    pub looks: u64,
    /// Simulated time of the whole run.
    pub simulated: Duration,
    /// Simulated time from health to answers of all members.
    pub converged_after: Duration,
    /// What went wrong on the way, and what was done about it.
    pub coverage: Coverage,
}
