//! The store's time: ours and all that any of its clocks gained on it.

use std::collections::VecDeque;

use crate::history::Nanos;

/// What the store's clocks gained, by when it was noticed.
#[derive(Debug)]
pub(crate) struct StoreTime {
    /// For so long after a renewal went through the log, the store may renew without it.
    fresh: Nanos,
    /// When something was gained, and how much was by then; what is older than `fresh` only once.
    steps: VecDeque<(Nanos, Nanos)>,
}

impl StoreTime {
    /// No clock gained anything yet.
    pub(crate) fn new(fresh: Nanos) -> Self {
        Self { fresh, steps: VecDeque::new() }
    }

    /// By now the clocks gained so much, all of them together, since the beginning.
    pub(crate) fn gained(&mut self, at: Nanos, gained: Nanos) {
        if gained <= self.all() {
            return;
        }
        self.steps.push_back((at, gained));
        let old = at.saturating_sub(self.fresh);
        while self.steps.get(1).is_some_and(|(step, _)| *step <= old) {
            self.steps.pop_front();
        }
    }

    /// The store's time at our time.
    pub(crate) fn at(&self, at: Nanos) -> Nanos {
        at.saturating_add(self.all())
    }

    /// The store's time from which a renewal counts that was sent then. The member that ends the lease may know of
    /// none but the one before it that went through the log: what its clock gained between the two counts as well.
    pub(crate) fn of_renewal(&self, at: Nanos) -> Nanos {
        let known = at.saturating_sub(self.fresh);
        let step = self.steps.iter().rev().find(|(step, _)| *step <= known);
        at.saturating_add(step.map_or(0, |(_, gained)| *gained))
    }

    fn all(&self) -> Nanos {
        self.steps.back().map_or(0, |(_, gained)| *gained)
    }
}
