//! What goes wrong, and when: drawn from the seed, some kinds of it in each run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use turmoil::Sim;

use crate::machine::{Machine, NAMES};

/// Kinds of faults; a run has some of them.
const KINDS: u32 = 8;

/// Hosts of clients, by name.
pub const CLIENTS: [&str; 3] = ["c1", "c2", "c3"];

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Processes that died.
    pub kills: u64,
    /// Machines that lost power.
    pub power_cuts: u64,
    /// Of those, in the middle of a sync.
    pub cuts_in_sync: u64,
    /// All machines at once.
    pub blackouts: u64,
    /// Members started again.
    pub restarts: u64,
    /// Pairs cut off, in both directions.
    pub partitions: u64,
    /// In one direction only.
    pub one_way_cuts: u64,
    /// Messages held back, then let go.
    pub holds: u64,
    /// Leaders cut off from the other members.
    pub leaders_cut_off: u64,
    /// Disks that became slow.
    pub slow_disks: u64,
    /// Terms seen by clients.
    pub terms: usize,
    /// Members with a durable checkpoint at the end.
    pub checkpoints: u64,
}

impl Coverage {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.cuts_in_sync += other.cuts_in_sync;
        self.blackouts += other.blackouts;
        self.restarts += other.restarts;
        self.partitions += other.partitions;
        self.one_way_cuts += other.one_way_cuts;
        self.holds += other.holds;
        self.leaders_cut_off += other.leaders_cut_off;
        self.slow_disks += other.slow_disks;
        self.terms += other.terms;
        self.checkpoints += other.checkpoints;
    }
}

/// Who breaks things. Times are in simulated milliseconds.
pub struct Nemesis {
    rng: StdRng,
    /// Which kinds this run has.
    kinds: Vec<u32>,
    period_ms: u64,
    next_ms: u64,
    /// What ends when.
    ends: Vec<(u64, End)>,
    machines: Vec<Machine>,
    down: [bool; NAMES.len()],
    /// What happened so far.
    pub coverage: Coverage,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum End {
    Link(&'static str, &'static str),
    Start(usize),
    FastDisk(usize),
}

impl Nemesis {
    /// Draws what this run has of everything.
    #[must_use]
    pub fn new(seed: u64, machines: Vec<Machine>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn: u32 = rng.random_range(1..1 << KINDS);
        let kinds = (0..KINDS).filter(|kind| drawn & (1 << kind) != 0).collect();
        let period_ms = rng.random_range(200..1200);
        // Some runs have time to come up, others begin in trouble.
        let next_ms = rng.random_range(0..3000);
        let (ends, down, coverage) = (Vec::new(), [false; NAMES.len()], Coverage::default());
        Self { rng, kinds, period_ms, next_ms, ends, machines, down, coverage }
    }

    /// Does what is due; called once a tick.
    pub fn tick(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.notice_cuts(sim, now_ms);
        let mut due = Vec::new();
        self.ends.retain(|(at, end)| {
            let ends = *at <= now_ms;
            if ends {
                due.push(*end);
            }
            !ends
        });
        for end in due {
            self.end(sim, end);
        }
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + self.rng.random_range(1..=2 * self.period_ms);
            self.strike(sim, now_ms);
        }
    }

    /// Ends everything: links work, members run, disks are fast.
    pub fn heal(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for machine in 0..self.machines.len() {
            self.machines[machine].heal_disk();
            if self.machines[machine].was_cut() {
                self.crash(sim, machine, true, now_ms);
            }
            // Takes away what waits for a next sync.
            self.machines[machine].disarm();
            self.start(sim, machine);
        }
        self.ends.clear();
        let hosts: Vec<&str> = NAMES.iter().chain(&CLIENTS).copied().collect();
        for (at, from) in hosts.iter().enumerate() {
            for to in &hosts[at + 1..] {
                sim.release(*from, *to);
                sim.repair(*from, *to);
            }
        }
    }

    /// A machine whose power was cut in the middle of a sync must not go on.
    fn notice_cuts(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for machine in 0..self.machines.len() {
            if !self.down[machine] && self.machines[machine].was_cut() {
                self.coverage.cuts_in_sync += 1;
                self.crash(sim, machine, true, now_ms);
            }
        }
    }

    fn strike(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let machine = self.rng.random_range(0..NAMES.len());
        let until = now_ms + self.rng.random_range(50..2500);
        match self.kinds[self.rng.random_range(0..self.kinds.len())] {
            0 => self.crash(sim, machine, false, now_ms),
            1 => self.crash(sim, machine, true, now_ms),
            2 if !self.down[machine] => {
                self.machines[machine].cut_power_at_next_sync(self.rng.random());
            }
            3 => {
                self.coverage.blackouts += 1;
                for machine in 0..NAMES.len() {
                    self.crash(sim, machine, true, now_ms);
                }
            }
            4 => {
                let (from, to) = self.pair();
                self.coverage.partitions += 1;
                sim.partition(from, to);
                self.ends.push((until, End::Link(from, to)));
            }
            5 => {
                let (from, to) = self.pair();
                self.coverage.one_way_cuts += 1;
                sim.partition_oneway(from, to);
                self.ends.push((until, End::Link(from, to)));
            }
            6 => {
                let (from, to) = self.pair();
                self.coverage.holds += 1;
                sim.hold(from, to);
                self.ends.push((until, End::Link(from, to)));
            }
            _ if self.rng.random_bool(0.4) => {
                self.coverage.slow_disks += 1;
                self.machines[machine].set_sync_ms(self.rng.random_range(20..400));
                self.ends.push((until, End::FastDisk(machine)));
            }
            _ => self.cut_off_leader(sim, until),
        }
    }

    /// Two hosts, one of them a member.
    fn pair(&mut self) -> (&'static str, &'static str) {
        let from = self.rng.random_range(0..NAMES.len());
        if self.rng.random_bool(0.3) {
            return (NAMES[from], CLIENTS[self.rng.random_range(0..CLIENTS.len())]);
        }
        let to = (from + self.rng.random_range(1..NAMES.len())) % NAMES.len();
        (NAMES[from], NAMES[to])
    }

    fn cut_off_leader(&mut self, sim: &mut Sim<'_>, until: u64) {
        let Some(leader) = self.machines.iter().position(Machine::leads) else { return };
        self.coverage.leaders_cut_off += 1;
        for other in NAMES.iter().filter(|name| **name != NAMES[leader]) {
            sim.partition(NAMES[leader], *other);
            self.ends.push((until, End::Link(NAMES[leader], other)));
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, machine: usize, power_fails: bool, now_ms: u64) {
        if self.down[machine] {
            return;
        }
        sim.crash(NAMES[machine]);
        let seed = self.rng.random();
        self.machines[machine].crash(power_fails.then_some(seed));
        self.down[machine] = true;
        let counter =
            if power_fails { &mut self.coverage.power_cuts } else { &mut self.coverage.kills };
        *counter += 1;
        let up = now_ms + self.rng.random_range(10..2500);
        self.ends.push((up, End::Start(machine)));
    }

    fn start(&mut self, sim: &mut Sim<'_>, machine: usize) {
        if std::mem::take(&mut self.down[machine]) {
            self.coverage.restarts += 1;
            sim.bounce(NAMES[machine]);
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, end: End) {
        match end {
            End::Link(from, to) => {
                sim.release(from, to);
                sim.repair(from, to);
            }
            End::Start(machine) => self.start(sim, machine),
            End::FastDisk(machine) => self.machines[machine].heal_disk(),
        }
    }
}
