//! Links that are cut, hold messages back, lose or delay them.

use std::time::Duration;

use rand::RngExt;
use turmoil::Sim;

use super::{End, Nemesis};
use crate::client::CLIENTS;
use crate::machine::{Machine, NAMES};

/// What can happen to links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes between two hosts.
    Cut,
    /// Nothing passes in one direction.
    CutOneWay,
    /// What is sent between two hosts waits, and comes all at once.
    Hold,
    /// The leader hears no other member.
    LeaderAlone,
    /// A leader is held back wholly: others elect another, and then hear what it said meanwhile.
    LeaderHeld,
    /// Now and then something is lost.
    Lossy,
    /// Everything takes long.
    Slow,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Cut,
        Self::CutOneWay,
        Self::Hold,
        Self::LeaderAlone,
        Self::LeaderHeld,
        Self::Lossy,
        Self::Slow,
    ];
}

impl Nemesis {
    pub(super) fn network(&mut self, sim: &mut Sim<'_>, fault: Fault, until: u64) {
        let (from, to) = self.pair();
        match fault {
            Fault::Cut => {
                self.coverage.count("cut links");
                sim.partition(from, to);
            }
            Fault::CutOneWay => {
                self.coverage.count("links cut in one direction");
                sim.partition_oneway(from, to);
            }
            Fault::Hold => {
                self.coverage.count("links held back");
                sim.hold(from, to);
            }
            Fault::LeaderAlone | Fault::LeaderHeld => {
                // Now and then for long enough that the others drop the log that it would need.
                let longer = if self.rng.random_bool(0.4) { 2500 } else { 0 };
                return self.leader(sim, fault == Fault::LeaderHeld, until + longer);
            }
            Fault::Lossy => {
                self.coverage.count("lossy links");
                sim.set_link_fail_rate(from, to, 0.02);
            }
            Fault::Slow => {
                self.coverage.count("slow links");
                let latency = Duration::from_millis(self.rng.random_range(20..200));
                sim.set_link_max_message_latency(from, to, latency);
            }
        }
        self.ends.push((until, End::Link(from, to)));
    }

    /// Cuts the leader off from the other members, or holds back all that it says and hears.
    fn leader(&mut self, sim: &mut Sim<'_>, hold: bool, until: u64) {
        let Some(leader) = self.machines.iter().position(Machine::leads) else { return };
        if !hold {
            self.coverage.count("leaders cut off");
            return self.cut_off(sim, leader, until);
        }
        self.coverage.count("leaders held back");
        for (from, to) in self.links(leader) {
            sim.hold(from, to);
            self.ends.push((until, End::Link(from, to)));
        }
    }

    /// Cuts a member off from the others; clients reach it.
    pub(super) fn cut_off(&mut self, sim: &mut Sim<'_>, member: usize, until: u64) {
        for (from, to) in self.links(member) {
            sim.partition(from, to);
            self.ends.push((until, End::Link(from, to)));
        }
    }

    /// A member's links to the others.
    pub(super) fn links(&self, member: usize) -> Vec<(&'static str, &'static str)> {
        let others = (0..self.machines.len()).filter(|other| *other != member);
        others.map(|other| (NAMES[member], NAMES[other])).collect()
    }

    /// Two hosts, one of them a member.
    fn pair(&mut self) -> (&'static str, &'static str) {
        let members = self.machines.len();
        let from = self.any();
        if self.rng.random_bool(0.3) {
            return (NAMES[from], CLIENTS[self.rng.random_range(0..CLIENTS.len())]);
        }
        let to = (from + self.rng.random_range(1..members)) % members;
        (NAMES[from], NAMES[to])
    }

    /// A link works again as it did.
    pub(super) fn mend(&mut self, sim: &mut Sim<'_>, from: &'static str, to: &'static str) {
        sim.release(from, to);
        sim.repair(from, to);
        sim.set_link_fail_rate(from, to, 0.0);
        sim.set_link_max_message_latency(from, to, self.latency_max);
    }
}
