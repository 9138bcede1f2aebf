//! A leader that is heard and hears nothing, then is not heard either; all that was held back comes later.
//!
//! The others have what it said before it fell silent, and commit it under their next leader; the old one never
//! learns so from them. Where they go on for long enough they drop the entries of that time, and it is sent a state
//! in place of them: what its clients asked for has happened, and nobody is left who could tell it so.

use rand::RngExt;
use turmoil::Sim;

use super::{End, Nemesis};
use crate::machine::{Machine, NAMES};

impl Nemesis {
    /// The leader hears nothing any more; unless another does not, or the others cannot go on without it.
    pub(super) fn deafen_leader(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let Some(leader) = self.machines.iter().position(Machine::leads) else { return };
        if now_ms < self.deaf_until_ms || self.down.contains(&true) {
            return;
        }
        self.coverage.count("leaders that heard nothing");
        // After an election timeout it knows that nobody answers.
        let election_ms = self.machines[leader].election_ms();
        let silent_ms = now_ms + self.rng.random_range(20..election_ms);
        self.deaf_until_ms = silent_ms + election_ms + self.rng.random_range(500..2500);
        self.ends.push((silent_ms, End::Deaf));
        for (from, to) in self.links(leader) {
            sim.hold(from, to);
            self.ends.push((self.deaf_until_ms, End::Link(from, to)));
        }
        self.deaf = Some(leader);
    }

    /// What a deaf leader says arrives all the same.
    pub(super) fn let_through(&self, sim: &Sim<'_>) {
        let Some(leader) = self.deaf else { return };
        let own = sim.lookup(NAMES[leader]);
        let others: Vec<_> =
            self.links(leader).into_iter().map(|(_, other)| sim.lookup(other)).collect();
        sim.links(|links| {
            for sent in links.flatten() {
                let (from, to) = sent.pair();
                if from.ip() == own && others.contains(&to.ip()) {
                    sent.deliver();
                }
            }
        });
    }
}
