//! Devices that are slow, fail, fill up, rot; checkpoints that are lost.
//!
//! A device that says that a write is durable and loses it, or writes it elsewhere, is not among them: where that
//! hits the log's last frame it is what a power cut leaves of a frame that nobody was told of, so the member cannot
//! know that it forgot something, and Raft promises nothing then.

use kvd_storage::fs::Operation;
use rand::RngExt;
use turmoil::Sim;

use super::{End, Excuse, Nemesis};
use crate::machine::id;

/// What can happen to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Syncs take long.
    Slow,
    /// An operation fails: the member must stop rather than go on with what it does not know.
    Failing,
    /// There is hardly any room, or none.
    Full,
    /// A bit on the medium turns around, at times under a member that runs: whoever reads it later must refuse it,
    /// or not need it.
    Rot,
    /// A bit turns around on its way from the medium while a member starts: it must refuse, read again, or not need
    /// it. What it has is whole, so it is back later.
    Misread,
    /// Everything is gone, as after an exchange of the device: the member must not take part under its old name.
    Wiped,
    /// The checkpoints are gone: the member fetches the state from another.
    NoCheckpoints,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Slow,
        Self::Failing,
        Self::Full,
        Self::Rot,
        Self::Misread,
        Self::Wiped,
        Self::NoCheckpoints,
    ];
}

impl Nemesis {
    pub(super) fn disk(&mut self, sim: &mut Sim<'_>, fault: Fault, now_ms: u64, until: u64) {
        let member = self.any();
        match fault {
            Fault::Slow => {
                self.coverage.count("slow disks");
                self.machines[member].set_sync_ms(self.rng.random_range(20..400));
                self.ends.push((until, End::FastDisk(member)));
            }
            Fault::Failing => {
                self.coverage.count("failing disks");
                let operations = [
                    Operation::Write,
                    Operation::Sync,
                    Operation::Rename,
                    Operation::SyncDir,
                    Operation::Read,
                    Operation::Open,
                ];
                self.excuses[member] = Excuse::Awaited;
                let operation = operations[self.rng.random_range(0..operations.len())];
                self.machines[member].fail_disk(operation);
            }
            Fault::Full => {
                self.coverage.count("full disks");
                self.machines[member].fill_disk(self.rng.random_range(0..(512 << 10)));
                self.ends.push((until, End::EmptyDisk(member)));
            }
            Fault::Rot if self.rotten.is_none() && !self.lacks_checkpoints() => {
                if self.rng.random_bool(0.5) {
                    self.crash(sim, member, false, now_ms);
                }
                if self.machines[member].rot(self.rng.random()) {
                    self.coverage.count("rotten bits");
                    self.rotten = Some(member);
                }
            }
            Fault::Misread => {
                self.crash(sim, member, false, now_ms);
                self.coverage.count("wrong reads");
                self.machines[member].misread(self.rng.random_range(0..8), self.rng.random());
                self.excuses[member] = Excuse::Awaited;
            }
            // Who has not heard a member's name cannot know its disk, and a leader of an older term would take it for one
            // that starts late (seed 5 of the short elections).
            Fault::Wiped
                if self.rotten.is_none() && self.is_whole(member) && self.is_known(member) =>
            {
                self.crash(sim, member, true, now_ms);
                self.machines[member].wipe();
                self.coverage.count("wiped disks");
                (self.rotten, self.wiped) = (Some(member), Some(member));
            }
            // Two without a state could wait for each other.
            Fault::NoCheckpoints if self.rotten.is_none() && self.is_whole(member) => {
                self.crash(sim, member, false, now_ms);
                self.machines[member].lose_checkpoints();
                self.coverage.count("checkpoints lost");
            }
            Fault::Rot | Fault::Wiped | Fault::NoCheckpoints => {}
        }
    }

    /// Whether all others run and know by which data directory a member is known.
    fn is_known(&self, member: usize) -> bool {
        let others = self.machines.iter().enumerate().filter(|(at, _)| *at != member);
        others.map(|(_, machine)| machine.node()).all(|node| {
            let view = node.map(|node| node.view());
            let known = view.as_ref().and_then(|view| view.members().present.get(&id(member)));
            known.is_some_and(|known| known.incarnation.is_some())
        })
    }

    /// Whether a member has a state that it could lose, and all others have one.
    fn is_whole(&self, member: usize) -> bool {
        self.machines[member].has_checkpoint() && !self.lacks_checkpoints()
    }
}
