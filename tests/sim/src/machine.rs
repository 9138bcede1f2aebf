//! A member's machine: disk and stores survive a crash as far as they do, everything else is gone.
//!
//! What runs on it is `kvd`: the way from a data directory to a serving member is the product's own. Only what
//! `kvd::run` does with sockets, signals and threads is done here with the simulator's.

mod clock;
mod life;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvd::node::Node;
use kvd::stores::Stores;
use kvd::stores::mem::MemStores;
use kvd_core::checkpoint::mem::Fault;
use kvd_core::ids::MemberId;
use kvd_storage::fs::{Lie, Operation, SimDisk};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::invariant::{Entries, Glance};
use clock::Clock;
pub use clock::Gained;

/// Members, by the names of their hosts; a run has the first three of them, or all.
pub const NAMES: [&str; 5] = ["m1", "m2", "m3", "m4", "m5"];

/// Where clients are served.
pub const CLIENT_PORT: u16 = 2379;

/// What a run's members are told alike.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// Voting members.
    pub members: usize,
    /// Milliseconds.
    pub election_ms: u64,
    /// Milliseconds.
    pub heartbeat_ms: u64,
    /// Entries between checkpoints.
    pub snapshot_count: u64,
    /// Milliseconds that a sync takes at most, while its disk is well.
    pub sync_ms: u64,
    /// Milliseconds between two notes of progress on a quiet watch.
    pub progress_ms: u64,
    /// Entries between two samples of the state's hashes.
    pub sample_entries: u64,
    /// Milliseconds between two comparisons of them.
    pub compare_ms: u64,
}

/// One machine; clones name the same.
#[derive(Clone)]
pub struct Machine {
    index: usize,
    flags: Flags,
    gained: Gained,
    state: Arc<Mutex<State>>,
}

struct State {
    disk: SimDisk,
    stores: MemStores,
    /// Why the checkpoints are of no use, if so: they were lost.
    broken: Option<String>,
    /// Its data directory's mark.
    incarnation: u64,
    rng: StdRng,
    sync_ms: u64,
    /// The disk as of the moment its power was cut, if it was cut in the middle of a sync.
    cut: Arc<Mutex<Option<SimDisk>>>,
    clock: Clock,
    /// Told to stop in an orderly way.
    asked_to_stop: watch::Sender<bool>,
    /// How often it was started.
    lives: u64,
    /// It was ended, and nobody was told yet.
    ended: bool,
    /// It asked to be started again, because its state differs from the others'.
    wants_rebuild: bool,
    stopped: Option<Stop>,
    node: Weak<Node>,
    /// The log of the member that runs.
    entries: Entries,
}

impl State {
    fn cut(&self) -> Option<Cut> {
        if self.cut.lock().is_ok_and(|cut| cut.is_some()) {
            return Some(Cut::InSync);
        }
        self.stores.is_cut().then_some(Cut::InCheckpoint)
    }
}

/// In the middle of what the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A sync.
    InSync,
    /// A checkpoint.
    InCheckpoint,
}

/// Why a member stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was asked to.
    Asked,
    /// It refused to start.
    Refused(String),
    /// It could not go on.
    Fatal(String),
}

impl Machine {
    /// A new machine with empty disks.
    #[must_use]
    pub fn new(index: usize, flags: Flags, gained: Gained, seed: u64) -> Self {
        let state = State {
            disk: SimDisk::new(),
            stores: MemStores::new(),
            broken: None,
            incarnation: index as u64 + 101,
            rng: StdRng::seed_from_u64(seed),
            sync_ms: flags.sync_ms,
            cut: Arc::default(),
            clock: Clock::default(),
            asked_to_stop: watch::Sender::new(false),
            lives: 0,
            ended: false,
            wants_rebuild: false,
            stopped: None,
            node: Weak::new(),
            entries: Entries::none(),
        };
        Self { index, flags, gained, state: Arc::new(Mutex::new(state)) }
    }

    /// Runs the member until its host is crashed. A member that stops by itself is noted, and stays silent.
    pub async fn run(self) {
        let keeps_time = self.clone().keep_time();
        let stop = tokio::select! {
            biased;
            stop = self.serve() => stop,
            () = keeps_time => unreachable!("time does not end"),
        };
        tracing::info!(?stop, "stopped");
        self.state().stopped = Some(stop);
        std::future::pending().await
    }

    /// Why it stopped by itself, if it did and nobody cut its power.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        let state = self.state();
        if state.cut().is_some() { None } else { state.stopped.clone() }
    }

    /// In the middle of what its power was cut, if it was.
    #[must_use]
    pub fn cut(&self) -> Option<Cut> {
        self.state().cut()
    }

    /// From now on, each sync takes up to so many milliseconds.
    pub fn set_sync_ms(&self, sync_ms: u64) {
        self.state().sync_ms = sync_ms;
    }

    /// Disk and clock are well again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.sync_ms = self.flags.sync_ms;
        state.clock.drift_us = 0;
        state.disk.set_capacity(None);
        state.disk.heal();
        state.stores.heal();
    }

    /// The next operation of this kind fails, as a dying device's does.
    pub fn fail_disk(&self, operation: Operation) {
        self.state().disk.fail(&[operation], "", 1, ErrorKind::Other);
    }

    /// Whether an operation is still to fail.
    #[must_use]
    pub fn disk_is_to_fail(&self) -> bool {
        self.state().disk.is_to_fail()
    }

    /// Syncs take as long again as they do on a disk that is well.
    pub fn be_fast(&self) {
        self.set_sync_ms(self.flags.sync_ms);
    }

    /// The device has room for only so many bytes more.
    pub fn fill_disk(&self, free_bytes: u64) {
        self.state().disk.set_free(free_bytes);
    }

    /// There is room again.
    pub fn empty_disk(&self) {
        self.state().disk.set_capacity(None);
    }

    /// Turns one bit of what lies on the device around; false if there is nothing yet.
    pub fn rot(&self, seed: u64) -> bool {
        self.state().disk.rot("wal", seed).is_some()
    }

    /// One bit of what is read of the log is turned around, after so many right reads; the medium has it right.
    pub fn misread(&self, after: u64, seed: u64) {
        self.state().disk.lie(Lie::ReadsOther, "wal", after..after + 1, seed);
    }

    /// The same in what its log wrote last.
    pub fn rot_newest(&self, seed: u64) -> bool {
        self.state().disk.rot_newest("wal", seed).is_some()
    }

    /// Everything is lost, as after an exchange of the device. Its host must not run.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.disk = SimDisk::new();
        state.stores = MemStores::new();
        state.broken = None;
        state.incarnation += NAMES.len() as u64;
    }

    /// All checkpoints are lost; the log stays. Its host must not run.
    pub fn lose_checkpoints(&self) {
        let mut state = self.state();
        let reason = "lost by the simulator";
        state.stores = state.stores.crash_broken(reason);
        state.broken = Some(reason.to_owned());
    }

    /// Whether its checkpoints were lost and no others fetched yet.
    #[must_use]
    pub fn lacks_checkpoints(&self) -> bool {
        self.state().broken.is_some()
    }

    /// The clock jumps ahead: for this member, the others stood still.
    pub fn jump_clock(&self, jump_ms: u64) {
        self.state().clock.jump_ms += jump_ms;
    }

    /// From now on the clock gains so many microseconds in each ten milliseconds.
    pub fn set_drift_us(&self, drift_us: u64) {
        self.state().clock.drift_us = drift_us;
    }

    /// Asks it to stop in an orderly way, as SIGTERM does.
    pub fn ask_to_stop(&self) {
        self.state().asked_to_stop.send_replace(true);
    }

    /// Cuts the power in the middle of the next sync: what is being synced may be kept or lost, sector by
    /// sector. No sync succeeds from that moment, so nobody is told of anything later.
    pub fn cut_power_at_next_sync(&self, seed: u64) {
        let state = self.state();
        let (disk, cut) = (state.disk.clone(), Arc::clone(&state.cut));
        state.disk.on_sync(move || {
            let mut cut = cut.lock().unwrap_or_else(PoisonError::into_inner);
            if cut.is_none() {
                *cut = Some(disk.crash(seed));
                disk.fail_syncs(u64::MAX, ErrorKind::Other);
            }
        });
    }

    /// Cuts the power in the middle of the next checkpoint: rows are written, their meta is not.
    pub fn cut_power_in_checkpoint(&self) {
        self.state().stores.fail_next_commit(Fault::BeforeMeta);
    }

    /// Lets the next sync succeed.
    pub fn disarm(&self) {
        self.state().disk.on_sync(|| {});
    }

    /// What is left when the power fails, or only the process dies. Its host must not run.
    pub fn crash(&self, power_fails: Option<u64>) {
        let mut state = self.state();
        let cut = state.cut.lock().ok().and_then(|mut cut| cut.take());
        let disk = match (cut, power_fails) {
            (Some(disk), _) => disk,
            (None, Some(seed)) => state.disk.crash(seed),
            (None, None) => state.disk.kill(),
        };
        // The hook holds its disk.
        state.disk.on_sync(|| {});
        state.disk = disk;
        state.stores = match &state.broken {
            None => state.stores.crash(),
            Some(reason) => state.stores.crash_broken(reason),
        };
        state.cut = Arc::default();
        state.stopped = None;
        state.ended = true;
        state.asked_to_stop.send_replace(false);
        state.wants_rebuild = false;
        state.node = Weak::new();
        state.entries = Entries::none();
    }

    /// Its election timeout.
    #[must_use]
    pub fn election_ms(&self) -> u64 {
        self.flags.election_ms
    }

    /// Whether it was ended since this was last asked.
    #[must_use]
    pub fn take_ended(&self) -> bool {
        std::mem::take(&mut self.state().ended)
    }

    /// Whether it found that its state differs from the majority's, and waits to be started again.
    #[must_use]
    pub fn wants_rebuild(&self) -> bool {
        self.state().wants_rebuild
    }

    /// How often in a row its state was rebuilt.
    #[must_use]
    pub fn rebuilds(&self) -> u32 {
        let noted = self.state().stores.divergence();
        noted.map_or(0, |noted| noted.rebuilds)
    }

    /// The member, while it runs and is up.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.state().node.upgrade()
    }

    /// What it shows of itself, while it is up.
    #[must_use]
    pub fn glance(&self) -> Option<Glance> {
        let node = self.node()?;
        let (status, view) = (node.status(), node.view());
        let (applied, state) = (view.at(), self.state());
        Some(Glance {
            member: self.index,
            life: state.lives,
            term: status.header.term.0,
            leads: status.leader == Some(id(self.index)),
            applied: applied.index.0,
            applied_of: (applied.term.0, applied.node.0),
            entries: state.entries.clone(),
            committed: status.committed.0,
            last: status.last.0,
            revision: view.revision().0,
            compacted: view.compacted().map_or(0, |revision| revision.0),
            hash: view.state_hash(),
            snapshot_bytes: status.snapshot_sent_bytes,
            installs: state.stores.installs(),
            accuses: node.fence().is_raised()
                || status.state_differs.values().any(|differs| *differs)
                || !view.alarms().is_empty(),
        })
    }

    /// Whether it believes to lead.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.node().is_some_and(|node| node.leader() == Some(id(self.index)))
    }

    /// Whether a checkpoint became durable.
    #[must_use]
    pub fn has_checkpoint(&self) -> bool {
        let stores = self.state().stores.clone();
        stores.live().meta().is_ok_and(|meta| meta.is_some())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id of the member with this number.
#[must_use]
pub fn id(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}
