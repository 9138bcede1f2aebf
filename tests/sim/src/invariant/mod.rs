//! What must be true at every moment, one property a file; looked at after every tick.
//!
//! - [`one_leader`]: no term has two leaders.
//! - [`log_matching`]: logs that share an entry are alike up to it.
//! - [`leader_complete`]: a leader has all that was committed before.
//! - [`same_state`]: members at one index have one state.
//! - [`forward`]: a running member never goes back.
//! - [`order`]: what is applied is committed, and in the log.
//! - [`trust`]: nobody is accused of a wrong state.

pub mod forward;
pub mod leader_complete;
pub mod log_matching;
pub mod one_leader;
pub mod order;
pub mod same_state;
pub mod trust;

use std::fmt;
use std::sync::Arc;

use kvd_core::view::StateHash;

use crate::machine::NAMES;

/// Whose an entry is: a term and the member that led it (hazard A9). Later ones are greater.
pub type Leadership = (u64, u64);

/// Entries and states that are remembered: who lags further behind is compared when it has caught up.
const REMEMBERED: usize = 4096;

type OfIndex = dyn Fn(u64) -> Option<Leadership> + Send + Sync;

/// The entries of a log: whose they are, by index.
#[derive(Clone)]
pub struct Entries(Arc<OfIndex>);

impl Entries {
    /// They are told by this, as far as they are at hand.
    pub fn new(of: impl Fn(u64) -> Option<Leadership> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// None is at hand.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_index| None)
    }

    /// Whose the entry at an index is, if it is at hand.
    #[must_use]
    pub fn of(&self, index: u64) -> Option<Leadership> {
        (self.0)(index)
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// What a running member shows of itself.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Its place.
    pub member: usize,
    /// How often it was started.
    pub life: u64,
    /// Its term.
    pub term: u64,
    /// Whether it leads this term, as far as it can vouch for it.
    pub leads: bool,
    /// Index of the newest state that can be read.
    pub applied: u64,
    /// Whose the entry at that index is.
    pub applied_of: Leadership,
    /// Its log.
    pub entries: Entries,
    /// Committed index as known to it.
    pub committed: u64,
    /// Last index of its log.
    pub last: u64,
    /// The store's revision.
    pub revision: i64,
    /// Compaction mark.
    pub compacted: i64,
    /// Hash of the state.
    pub hash: StateHash,
    /// Bytes of snapshots that it sent in this life.
    pub snapshot_bytes: u64,
    /// States of other members that it installed in this life.
    pub installs: u64,
    /// It says that its own state or another member's is wrong, or an alarm is raised.
    pub accuses: bool,
}

/// One property.
pub trait Invariant {
    /// Looks at all running members at one moment.
    ///
    /// # Errors
    /// What is wrong.
    fn look(&mut self, members: &[Glance]) -> Result<(), String>;
}

/// All of them.
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    /// How often each was looked at, together.
    pub looks: u64,
}

impl Invariants {
    /// All of them, with nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        let all: Vec<Box<dyn Invariant>> = vec![
            Box::new(one_leader::OneLeader::default()),
            Box::new(log_matching::LogMatching::default()),
            Box::new(leader_complete::LeaderComplete::default()),
            Box::new(same_state::SameState::default()),
            Box::new(forward::Forward::default()),
            Box::<order::Order>::default(),
            Box::new(trust::Trust),
        ];
        Self { all, looks: 0 }
    }

    /// Looks at what running members show.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for invariant in &mut self.all {
            self.looks += 1;
            invariant.look(members)?;
        }
        Ok(())
    }
}

impl Default for Invariants {
    fn default() -> Self {
        Self::new()
    }
}

fn name(member: usize) -> &'static str {
    NAMES.get(member).copied().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::{Entries, Glance, Leadership};

    /// A log of these entries, from index 1 on.
    pub(super) fn log(member: usize, entries: &[Leadership]) -> Glance {
        let (last, entries) = (entries.len() as u64, entries.to_vec());
        let of =
            move |index: u64| entries.get(usize::try_from(index).ok()?.checked_sub(1)?).copied();
        Glance { last, entries: Entries::new(of), ..glance(member) }
    }

    /// A member of which nothing is to be said.
    pub(super) fn glance(member: usize) -> Glance {
        Glance {
            member,
            life: 1,
            term: 1,
            leads: false,
            applied: 1,
            applied_of: (1, 1),
            entries: Entries::none(),
            committed: 1,
            last: 1,
            revision: 1,
            compacted: 0,
            hash: kvd_core::view::StateHash::default(),
            snapshot_bytes: 0,
            installs: 0,
            accuses: false,
        }
    }
}
