//! The newest entries rot on one member, while no more members than a majority have them.
//!
//! What is acknowledged is on a majority: to lose one copy must not lose it. It would, if that member took its
//! damaged log for a shorter one and found a majority with those who never had the rest. So some are cut off for a
//! while, then the processes of all others die, and this member is the first to come back.

use rand::RngExt;
use turmoil::Sim;

use super::{End, Nemesis};
use crate::machine::{Machine, NAMES};

impl Nemesis {
    /// Cuts off those who are to lack what is written from now on.
    pub(super) fn lose_newest(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let Some(leader) = self.machines.iter().position(Machine::leads) else { return };
        if self.rotten.is_some() || self.down.contains(&true) {
            return;
        }
        let members = self.machines.len();
        let lacking: Vec<usize> =
            (1..=(members - 1) / 2).map(|further| (leader + further) % members).collect();
        let having: Vec<usize> = (0..members).filter(|at| !lacking.contains(at)).collect();
        let then = now_ms + self.rng.random_range(100..800);
        let victim = having[self.rng.random_range(0..having.len())];
        self.ends.push((then, End::NewestRots(victim, lacking.clone())));
        for (one, other) in lacking.iter().flat_map(|one| having.iter().map(move |at| (*one, *at)))
        {
            sim.partition(NAMES[one], NAMES[other]);
            self.ends.push((then, End::Link(NAMES[one], NAMES[other])));
        }
    }

    /// All who have what was written end; the newest of one of them rots.
    pub(super) fn newest_rots(
        &mut self,
        sim: &mut Sim<'_>,
        victim: usize,
        lacking: &[usize],
        now_ms: u64,
    ) {
        if self.rotten.is_some() || self.down[victim] || self.lacks_checkpoints() {
            return;
        }
        for member in (0..self.machines.len()).filter(|member| !lacking.contains(member)) {
            self.crash(sim, member, false, now_ms);
            let pause_ms = if member == victim { 10 } else { self.rng.random_range(1500..3000) };
            self.ends.retain(|(_, end)| !matches!(end, End::Start(other) if *other == member));
            self.ends.push((now_ms + pause_ms, End::Start(member)));
        }
        if self.machines[victim].rot_newest(self.rng.random()) {
            self.coverage.count("newest entries that rotted");
            self.rotten = Some(victim);
        }
    }
}
