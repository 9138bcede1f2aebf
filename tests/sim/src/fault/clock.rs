//! Clocks that jump ahead or run fast. None goes back: the system's monotonic clock never does.

use rand::RngExt;

use super::{End, Nemesis};

/// What can happen to a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It jumps ahead, as after a suspended machine: everything that was to happen later is due at once.
    Jump,
    /// It runs up to 5 % fast.
    Fast,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Jump, Self::Fast];
}

impl Nemesis {
    pub(super) fn clock(&mut self, fault: Fault, until: u64) {
        let member = self.any();
        match fault {
            Fault::Jump => {
                self.coverage.count("clock jumps");
                self.machines[member].jump_clock(self.rng.random_range(20..3000));
            }
            Fault::Fast => {
                self.coverage.count("fast clocks");
                self.machines[member].set_drift_us(self.rng.random_range(50..500));
                self.ends.push((until, End::TrueClock(member)));
            }
        }
    }
}
