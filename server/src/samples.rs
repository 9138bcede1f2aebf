//! Samples of the state's hashes, taken by the applier at every so many-th index: what members compare (decision
//! D16, hazard B10).
//!
//! A sample is a fact: the state after exactly that entry. Equal states have equal samples on every member,
//! whatever each of them did to its checkpoints, snapshots and compactions meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_core::ids::{Index, Revision};
use kvd_core::state::State;
use kvd_core::view::StateHash;

use crate::limits::STATE_SAMPLES_KEPT;

/// What the state was like after one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The entry.
    pub(crate) index: Index,
    /// The continuous hashes after it.
    pub(crate) hash: StateHash,
    /// The store's revision after it.
    pub(crate) revision: Revision,
    /// The compaction mark after it.
    pub(crate) compacted: Option<Revision>,
}

/// The newest samples of this member's state; clones share them.
#[derive(Clone)]
pub(crate) struct Samples {
    /// Entries between two samples.
    every: u64,
    kept: Arc<Mutex<VecDeque<Sample>>>,
}

impl Samples {
    /// Samples at each index that this number divides.
    pub(crate) fn new(every: u64) -> Self {
        assert!(every > 0, "a sample is taken at the latest after that many entries");
        Self { every, kept: Arc::default() }
    }

    /// Notes a sample if the entry applied last asks for one. To be called after each entry.
    pub(crate) fn note(&self, state: &State) {
        let index = state.applied().index;
        if !index.0.is_multiple_of(self.every) {
            return;
        }
        let (revision, compacted) = state.marks();
        let sample = Sample { index, hash: state.hash(), revision, compacted };
        let mut kept = self.lock();
        if kept.len() == STATE_SAMPLES_KEPT {
            kept.pop_front();
        }
        kept.push_back(sample);
    }

    /// The state was replaced: what was noted says nothing of the new one.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// All that are kept, oldest first.
    pub(crate) fn all(&self) -> Vec<Sample> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        // A panic aborts the process; either way the content is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
