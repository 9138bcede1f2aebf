//! What must be true at every moment, one property a file; looked at after every tick.
//!
//! - [`one_leader`]: no term has two leaders.
//! - [`same_state`]: members at one index have one state.
//! - [`forward`]: a running member never goes back.
//! - [`order`]: what is applied is committed, and in the log.
//! - [`trust`]: nobody is accused of a wrong state.

pub mod forward;
pub mod one_leader;
pub mod order;
pub mod same_state;
pub mod trust;

use kvd_core::view::StateHash;

use crate::machine::NAMES;

/// What a running member shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            Box::new(same_state::SameState::default()),
            Box::new(forward::Forward::default()),
            Box::new(order::Order),
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
    use super::Glance;

    /// A member of which nothing is to be said.
    pub(super) fn glance(member: usize) -> Glance {
        Glance {
            member,
            life: 1,
            term: 1,
            leads: false,
            applied: 1,
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
