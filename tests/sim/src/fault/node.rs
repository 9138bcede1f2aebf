//! Processes that die, machines that lose power, members that are stopped; each comes back after a while.

use rand::RngExt;
use turmoil::Sim;

use super::{End, Excuse, Nemesis};
use crate::machine::NAMES;

/// What can happen to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; what it wrote stays, synced or not.
    Kill,
    /// The power fails: what was not synced is kept or lost, sector by sector.
    PowerCut,
    /// The power fails in the middle of a sync.
    CutInSync,
    /// The power fails in the middle of a checkpoint.
    CutInCheckpoint,
    /// The power fails everywhere.
    Blackout,
    /// It is stopped as an operator does, and started again.
    Restart,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Kill,
        Self::PowerCut,
        Self::CutInSync,
        Self::CutInCheckpoint,
        Self::Blackout,
        Self::Restart,
    ];
}

impl Nemesis {
    pub(super) fn node(&mut self, sim: &mut Sim<'_>, fault: Fault, now_ms: u64) {
        let member = self.any();
        match fault {
            Fault::Kill => self.crash(sim, member, false, now_ms),
            Fault::PowerCut => self.crash(sim, member, true, now_ms),
            Fault::CutInSync if !self.down[member] => {
                self.machines[member].cut_power_at_next_sync(self.rng.random());
            }
            Fault::CutInCheckpoint if !self.down[member] => {
                self.machines[member].cut_power_in_checkpoint();
            }
            Fault::CutInSync | Fault::CutInCheckpoint => {}
            Fault::Blackout => {
                self.coverage.count("blackouts");
                for member in 0..self.machines.len() {
                    self.crash(sim, member, true, now_ms);
                }
            }
            Fault::Restart => self.machines[member].ask_to_stop(),
        }
    }

    /// Ends a process, or cuts its power; it starts again after a while.
    pub(super) fn crash(&mut self, sim: &mut Sim<'_>, member: usize, power: bool, now_ms: u64) {
        if self.down[member] {
            return;
        }
        sim.crash(NAMES[member]);
        let seed = self.rng.random();
        self.machines[member].crash(power.then_some(seed));
        self.down[member] = true;
        self.excuses[member] = Excuse::None;
        self.coverage.count(if power { "power cuts" } else { "kills" });
        let up = now_ms + self.rng.random_range(10..2500);
        self.ends.push((up, End::Start(member)));
    }

    pub(super) fn start(&mut self, sim: &mut Sim<'_>, member: usize) {
        if self.lost != Some(member) && std::mem::take(&mut self.down[member]) {
            self.coverage.count("restarts");
            sim.bounce(NAMES[member]);
        }
    }
}
