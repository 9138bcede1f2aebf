//! Clocks that jump ahead or run fast. None goes back: the system's monotonic clock never does.

use rand::RngExt;
use turmoil::Sim;

use super::{End, Nemesis};
use crate::machine::Machine;

/// What can happen to a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It jumps ahead, as after a suspended machine: everything that was to happen later is due at once.
    Jump,
    /// It runs up to 5 % fast.
    Fast,
    /// The leader's stands still for a while, as a suspended machine's, and none of the others hears it: for
    /// them its time as leader is over, for itself it is not.
    LeaderStill,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Jump, Self::Fast, Self::LeaderStill];
}

impl Nemesis {
    pub(super) fn clock(&mut self, sim: &mut Sim<'_>, fault: Fault, until: u64) {
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
            Fault::LeaderStill => {
                let Some(leader) = self.machines.iter().position(Machine::leads) else { return };
                self.coverage.count("leaders' clocks that stood still");
                self.cut_off(sim, leader, until);
                // That one stands still is that all others go ahead: for not so long that all stand for
                // election at once, and nobody wins it.
                let election_ms = self.machines[leader].election_ms();
                let ahead_ms = election_ms * self.rng.random_range(8..22) / 10;
                for (other, machine) in self.machines.iter().enumerate() {
                    if other != leader {
                        machine.jump_clock(ahead_ms);
                    }
                }
            }
        }
    }
}
