//! What goes wrong, and when: drawn from the seed, some kinds of it in each run (a swarm).
//!
//! - [`network`]: links that are cut, hold back, lose, delay.
//! - [`node`]: processes that die, machines that lose power, members that are stopped.
//! - [`disk`]: devices that are slow, fail, fill up, rot, misread; checkpoints that are lost.
//! - [`clock`]: clocks that jump ahead or run fast, or stand still.
//! - [`loss`]: the newest entries rot where few have them.
//! - [`deaf`]: a leader that is heard and hears nothing.
//!
//! Faults stay within what a cluster must survive: bits rot on one member at most, or it loses all of them, and
//! checkpoints are lost on one at a time.

pub mod clock;
pub mod deaf;
pub mod disk;
pub mod loss;
pub mod network;
pub mod node;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use turmoil::Sim;

use crate::client::CLIENTS;
use crate::machine::{Cut, Machine, NAMES, Stop};
use crate::report::Coverage;

/// A kind of fault, named as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the network.
    Network(network::Fault),
    /// Of a machine as a whole.
    Node(node::Fault),
    /// Of a device.
    Disk(disk::Fault),
    /// Of a clock.
    Clock(clock::Fault),
    /// Of the newest entries.
    NewestLost,
    /// Of what a leader hears.
    LeaderDeaf,
}

/// Draws the kinds that a run has, one at least; `apart` draws what came later, so that the runs without it stay
/// what they were.
#[must_use]
pub fn draw(rng: &mut StdRng, apart: &mut StdRng) -> Vec<Kind> {
    let network = network::Fault::ALL.iter().map(|fault| Kind::Network(*fault));
    let node = node::Fault::ALL.iter().map(|fault| Kind::Node(*fault));
    let disk = disk::Fault::ALL.iter().map(|fault| Kind::Disk(*fault));
    let clock = clock::Fault::ALL.iter().map(|fault| Kind::Clock(*fault));
    // Clocks go wrong in few runs: leases may then end early by all that the clocks gained, which hides much.
    let odd_clocks = rng.random_bool(0.2);
    let all: Vec<Kind> = network.chain(node).chain(disk).chain([Kind::NewestLost]).collect();
    let mut kinds: Vec<Kind> = all.iter().filter(|_| rng.random_bool(0.35)).copied().collect();
    if odd_clocks {
        // Few runs have them, so those have them often.
        for _ in 0..3 {
            kinds.extend(clock.clone());
        }
    }
    if kinds.is_empty() {
        kinds.push(all[rng.random_range(0..all.len())]);
    }
    // As with clocks: few runs have it, so those have it often.
    if apart.random_bool(0.25) {
        kinds.extend([Kind::LeaderDeaf; 8]);
    }
    kinds
}

/// The end of a fault, or its second part.
#[derive(Clone, Debug)]
enum End {
    Link(&'static str, &'static str),
    Start(usize),
    FastDisk(usize),
    EmptyDisk(usize),
    TrueClock(usize),
    NewestRots(usize, Vec<usize>),
    Deaf,
}

/// Whether a member may stop by itself: only for a device that fails, and only as long as that can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    /// It may not.
    None,
    /// Its device is to fail.
    Awaited,
    /// Its device failed: it stops by this moment, or not for that.
    Until(u64),
}

/// Simulated time that a member may take to stop for a device that failed: a slow sync, and some.
const EXCUSED_MS: u64 = 1_000;

/// What a member says whose device was exchanged, once it heard of it.
const REFUSED: &str = "already been bootstrapped";

/// What a member says that finds no room for its log.
const FULL: &str = "no storage space";

/// Who breaks things. Times are in simulated milliseconds.
pub struct Nemesis {
    rng: StdRng,
    kinds: Vec<Kind>,
    /// What a message takes at most while its link is well.
    latency_max: Duration,
    period_ms: u64,
    next_ms: u64,
    /// What ends when.
    ends: Vec<(u64, End)>,
    machines: Vec<Machine>,
    down: Vec<bool>,
    /// Whose device fails, so that it may stop by itself.
    excuses: Vec<Excuse>,
    /// Whose bits rot, or are all gone.
    rotten: Option<usize>,
    /// Whose device was exchanged: it may start while nobody tells it that it is refused.
    wiped: Option<usize>,
    /// Gone for good: what it had left was refused.
    lost: Option<usize>,
    /// The leader that hears nothing and is heard.
    deaf: Option<usize>,
    /// Until when it hears nothing.
    deaf_until_ms: u64,
    /// What happened so far.
    pub coverage: Coverage,
}

impl Nemesis {
    /// Breaks these machines in these ways.
    #[must_use]
    pub fn new(seed: u64, kinds: Vec<Kind>, machines: Vec<Machine>, latency_max: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let period_ms = rng.random_range(200..1200);
        // Some runs have time to come up, others begin in trouble.
        let next_ms = rng.random_range(0..3000);
        let (down, excuses) = (vec![false; machines.len()], vec![Excuse::None; machines.len()]);
        let (ends, coverage) = (Vec::new(), Coverage::default());
        let (rotten, wiped, lost) = (None, None, None);
        Self {
            rng,
            kinds,
            latency_max,
            period_ms,
            next_ms,
            ends,
            machines,
            down,
            excuses,
            rotten,
            wiped,
            lost,
            deaf: None,
            deaf_until_ms: 0,
            coverage,
        }
    }

    /// The members whose bits are all in place: the others may be gone for good, or find out any time.
    #[must_use]
    pub fn whole(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|member| self.rotten != Some(*member)).collect()
    }

    /// The member that either stops or is as right as the others.
    #[must_use]
    pub fn doubtful(&self) -> Option<usize> {
        self.rotten
    }

    /// All is well since long.
    ///
    /// # Errors
    /// If the member whose device was exchanged is not gone: all others know it by another one.
    pub fn finish(&self) -> Result<(), String> {
        match self.wiped {
            Some(wiped) if self.lost != Some(wiped) => {
                Err(format!("{} lost its device and was never refused", NAMES[wiped]))
            }
            _ => Ok(()),
        }
    }

    /// The member that has nothing of what it was, and must not be taken for it.
    #[must_use]
    pub fn wiped(&self) -> Option<usize> {
        self.wiped
    }

    /// Notices what became of the members, and ends what is due; called after each tick.
    ///
    /// # Errors
    /// If a member stopped that had no reason to.
    pub fn tick(&mut self, sim: &mut Sim<'_>, now_ms: u64) -> Result<(), String> {
        for member in 0..self.machines.len() {
            self.notice(sim, member, now_ms)?;
            self.excuse(member, now_ms);
        }
        let mut due = Vec::new();
        self.ends.retain(|(at, end)| {
            let ends = *at <= now_ms;
            if ends {
                due.push(end.clone());
            }
            !ends
        });
        for end in due {
            self.end(sim, end, now_ms);
        }
        self.let_through(sim);
        Ok(())
    }

    /// Breaks something, if it is time to.
    pub fn strike(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + self.rng.random_range(1..=2 * self.period_ms);
        let until = now_ms + self.rng.random_range(50..2500);
        let kind = self.kinds[self.rng.random_range(0..self.kinds.len())];
        tracing::info!(?kind, until, "fault");
        match kind {
            Kind::Network(fault) => self.network(sim, fault, until),
            Kind::Node(fault) => self.node(sim, fault, now_ms),
            Kind::Disk(fault) => self.disk(sim, fault, now_ms, until),
            Kind::Clock(fault) => self.clock(sim, fault, until),
            Kind::NewestLost => self.lose_newest(sim, now_ms),
            Kind::LeaderDeaf => self.deafen_leader(sim, now_ms),
        }
    }

    /// Ends everything: links work, members run, disks are fast.
    pub fn heal(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for member in 0..self.machines.len() {
            self.machines[member].heal();
            if let Some(cut) = self.machines[member].cut() {
                self.count_cut(cut);
                self.crash(sim, member, true, now_ms);
            }
            // Takes away what waits for a next sync.
            self.machines[member].disarm();
            self.start(sim, member);
        }
        self.ends.clear();
        self.deaf = None;
        let members = &NAMES[..self.machines.len()];
        let hosts: Vec<&str> = members.iter().chain(&CLIENTS).copied().collect();
        for (at, from) in hosts.iter().enumerate() {
            for to in &hosts[at + 1..] {
                self.mend(sim, from, to);
            }
        }
    }

    /// What became of a member by itself.
    fn notice(&mut self, sim: &mut Sim<'_>, member: usize, now_ms: u64) -> Result<(), String> {
        if self.down[member] {
            return Ok(());
        }
        if let Some(cut) = self.machines[member].cut() {
            self.count_cut(cut);
            self.crash(sim, member, true, now_ms);
            return Ok(());
        }
        match self.machines[member].stopped() {
            None => {}
            Some(Stop::Asked) => {
                self.coverage.count("orderly stops");
                self.crash(sim, member, false, now_ms);
            }
            Some(Stop::Refused(reason) | Stop::Fatal(reason))
                if self.rotten == Some(member) && self.excuses[member] == Excuse::None =>
            {
                if self.wiped == Some(member) && reason.contains(FULL) {
                    // Its new device is full already: it hears that it is refused when it starts again.
                    self.crash(sim, member, false, now_ms);
                    return Ok(());
                }
                if self.wiped == Some(member) && !reason.contains(REFUSED) {
                    return Err(format!("{} lost its device and says: {reason}", NAMES[member]));
                }
                tracing::info!(reason, "gone for good");
                self.coverage.count("members gone for good");
                self.lost = Some(member);
                sim.crash(NAMES[member]);
                self.down[member] = true;
            }
            Some(Stop::Refused(_) | Stop::Fatal(_)) if self.excuses[member] != Excuse::None => {
                self.coverage.count("stops for a failed device");
                self.crash(sim, member, true, now_ms);
            }
            Some(Stop::Refused(reason)) => {
                return Err(format!("{} refused to start: {reason}", NAMES[member]));
            }
            Some(Stop::Fatal(reason)) => {
                return Err(format!("{} stopped by itself: {reason}", NAMES[member]));
            }
        }
        Ok(())
    }

    fn count_cut(&mut self, cut: Cut) {
        self.coverage.count(match cut {
            Cut::InSync => "power cuts in a sync",
            Cut::InCheckpoint => "power cuts in a checkpoint",
        });
    }

    /// An excuse ends a while after its fault happened.
    fn excuse(&mut self, member: usize, now_ms: u64) {
        let excuse = &mut self.excuses[member];
        match *excuse {
            Excuse::Awaited if !self.machines[member].disk_is_to_fail() => {
                *excuse = Excuse::Until(now_ms + EXCUSED_MS);
            }
            Excuse::Until(until) if until < now_ms => *excuse = Excuse::None,
            Excuse::None | Excuse::Awaited | Excuse::Until(_) => {}
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, end: End, now_ms: u64) {
        match end {
            End::Link(from, to) => self.mend(sim, from, to),
            End::Start(member) => self.start(sim, member),
            End::FastDisk(member) => self.machines[member].be_fast(),
            End::EmptyDisk(member) => self.machines[member].empty_disk(),
            End::TrueClock(member) => self.machines[member].set_drift_us(0),
            End::NewestRots(victim, lacking) => {
                self.newest_rots(sim, victim, &lacking, now_ms);
            }
            End::Deaf => self.deaf = None,
        }
    }

    /// Whether some member lost its checkpoints and has no others yet: another's state must stay whole, or the
    /// third may be behind what both knew to be committed.
    fn lacks_checkpoints(&self) -> bool {
        self.machines.iter().any(Machine::lacks_checkpoints)
    }

    /// Any member.
    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.machines.len())
    }
}
