//! A member's machine: disk and stores survive a crash as far as they do, everything else is gone.
//!
//! What runs on it is `kvd`: the way from a data directory to a serving member is the product's own. Only what
//! `kvd::run` does with sockets, signals and threads is done here with the simulator's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kvd::bootstrap::{self, MemberConfig, World};
use kvd::fatal::FatalSignal;
use kvd::listen::{self, ConnectionLimits};
use kvd::metrics::Metrics;
use kvd::net::Net;
use kvd::node::{Node, NodeLimits};
use kvd::service;
use kvd::shutdown::Shutdown;
use kvd::stores::Stores;
use kvd::stores::mem::MemStores;
use kvd::threads::Threads;
use kvd_core::checkpoint::mem::Fault;
use kvd_core::ids::{ClusterId, Incarnation, MemberId};
use kvd_storage::fs::{Disk, Operation, SimDisk};
use kvd_storage::space::{Level, SpaceWatch, Thresholds};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::invariant::Glance;
use crate::net::SimNet;

/// Members, by the names of their hosts; a run has the first three of them, or all.
pub const NAMES: [&str; 5] = ["m1", "m2", "m3", "m4", "m5"];

/// Where clients are served.
pub const CLIENT_PORT: u16 = 2379;

const PEER_PORT: u16 = 2380;

/// Bytes of a segment of the log: few, so that many are begun and recycled.
const SEGMENT_BYTES: u64 = 64 << 10;

/// How often a member looks at its device's room.
const SPACE_POLL: Duration = Duration::from_millis(100);

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
    /// Milliseconds that the clock is to jump ahead, once.
    jump_ms: u64,
    /// Microseconds that the clock gains in each ten milliseconds.
    drift_us: u64,
    /// Told to stop in an orderly way.
    asked_to_stop: watch::Sender<bool>,
    /// How often it was started.
    lives: u64,
    /// It asked to be started again, because its state differs from the others'.
    wants_rebuild: bool,
    stopped: Option<Stop>,
    node: Weak<Node>,
}

impl State {
    fn was_cut(&self) -> bool {
        self.cut.lock().is_ok_and(|cut| cut.is_some()) || self.stores.is_cut()
    }
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
    pub fn new(index: usize, flags: Flags, seed: u64) -> Self {
        let state = State {
            disk: SimDisk::new(),
            stores: MemStores::new(),
            broken: None,
            incarnation: index as u64 + 101,
            rng: StdRng::seed_from_u64(seed),
            sync_ms: flags.sync_ms,
            cut: Arc::default(),
            jump_ms: 0,
            drift_us: 0,
            asked_to_stop: watch::Sender::new(false),
            lives: 0,
            wants_rebuild: false,
            stopped: None,
            node: Weak::new(),
        };
        Self { index, flags, state: Arc::new(Mutex::new(state)) }
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
        if state.was_cut() { None } else { state.stopped.clone() }
    }

    /// Whether its power was cut in the middle of a sync.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.state().was_cut()
    }

    /// From now on, each sync takes up to so many milliseconds.
    pub fn set_sync_ms(&self, sync_ms: u64) {
        self.state().sync_ms = sync_ms;
    }

    /// Disk and clock are well again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.sync_ms = self.flags.sync_ms;
        state.drift_us = 0;
        state.disk.set_capacity(None);
        state.disk.heal();
        state.stores.heal();
    }

    /// The next operation of this kind fails, as a dying device's does.
    pub fn fail_disk(&self, operation: Operation) {
        self.state().disk.fail(&[operation], "", 1, ErrorKind::Other);
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

    /// Turns one bit of what lies on the device around; false if there is nothing yet. Its host must not run.
    pub fn rot(&self, seed: u64) -> bool {
        self.state().disk.rot("wal", seed).is_some()
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
        self.state().jump_ms += jump_ms;
    }

    /// From now on the clock gains so many microseconds in each ten milliseconds.
    pub fn set_drift_us(&self, drift_us: u64) {
        self.state().drift_us = drift_us;
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
        state.asked_to_stop.send_replace(false);
        state.wants_rebuild = false;
        state.node = Weak::new();
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
        Some(Glance {
            member: self.index,
            life: self.state().lives,
            term: status.header.term.0,
            leads: status.leader == Some(id(self.index)),
            applied: view.at().index.0,
            committed: status.committed.0,
            last: status.last.0,
            revision: view.revision().0,
            compacted: view.compacted().map_or(0, |revision| revision.0),
            hash: view.state_hash(),
            snapshot_bytes: status.snapshot_sent_bytes,
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

    async fn serve(&self) -> Stop {
        let fatal = FatalSignal::new();
        let shutdown = Shutdown::new();
        let mut asked = self.state().asked_to_stop.subscribe();
        let served = async {
            let node = match self.start(&fatal, &shutdown).await {
                Ok(node) => node,
                Err(reason) => return Stop::Refused(reason),
            };
            self.state().node = Arc::downgrade(&node);
            tokio::select! {
                biased;
                // The sender lives as long as the machine.
                _asked = asked.wait_for(|asked| *asked) => {}
                () = node.fence().rebuild_asked() => {
                    self.state().wants_rebuild = true;
                    // Whoever runs it starts it again.
                    std::future::pending::<()>().await;
                }
            }
            node.drain().await;
            shutdown.begin();
            node.stop().await;
            Stop::Asked
        };
        tokio::select! {
            biased;
            reason = fatal.raised() => Stop::Fatal(reason),
            stop = served => stop,
        }
    }

    /// Its clock's faults.
    async fn keep_time(self) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut state = self.state();
            let jump_ms = std::mem::take(&mut state.jump_ms);
            let ahead = Duration::from_millis(jump_ms) + Duration::from_micros(state.drift_us);
            drop(state);
            if !ahead.is_zero() {
                tokio::time::advance(ahead).await;
            }
        }
    }

    async fn start(&self, fatal: &FatalSignal, shutdown: &Shutdown) -> Result<Arc<Node>, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let peers = SimNet.listen(String::new(), PEER_PORT).await.map_err(|e| text(&e))?;
        let clients = SimNet.listen(String::new(), CLIENT_PORT).await.map_err(|e| text(&e))?;
        let (world, seed) = self.world(fatal, shutdown).map_err(|e| text(&e))?;
        let starting = bootstrap::open(self.config(), world).map_err(|e| text(&e))?;
        let router = service::peer_router(Arc::clone(&starting.peer_side));
        let limits = ConnectionLimits::of_peers();
        tokio::spawn(listen::serve(peers, router, shutdown.clone(), limits));
        let node = starting.start().await.map_err(|e| text(&e))?;
        let metrics = Arc::new(Metrics::new(NAMES[self.index], "3.6.0"));
        let router = service::router(Arc::clone(&node), metrics, shutdown.clone(), seed);
        let ping = Duration::from_secs(5);
        let limits = ConnectionLimits::new(u32::MAX, Some(ping), ping);
        tokio::spawn(listen::serve(clients, router, shutdown.clone(), limits));
        self.state().broken = None;
        Ok(node)
    }

    fn config(&self) -> MemberConfig {
        let url = |index: usize, port| vec![format!("http://{}:{port}", NAMES[index])];
        let founders: BTreeMap<_, _> =
            (0..self.flags.members).map(|index| (id(index), url(index, PEER_PORT))).collect();
        MemberConfig {
            name: NAMES[self.index].to_owned(),
            member_id: id(self.index),
            cluster_id: ClusterId(7),
            founders,
            may_found: true,
            client_urls: url(self.index, CLIENT_PORT),
            limits: NodeLimits {
                request_bytes_max: 3 << 19,
                txn_ops_max: 128,
                quota_bytes: 0,
                election_ms: self.flags.election_ms,
                heartbeat_ms: self.flags.heartbeat_ms,
                watch_progress_interval: Duration::from_millis(self.flags.progress_ms),
                state_sample_entries: self.flags.sample_entries,
                state_compare_interval: Duration::from_millis(self.flags.compare_ms),
            },
            snapshot_count: self.flags.snapshot_count,
            snapshot_catchup_entries: self.flags.snapshot_count / 4,
        }
    }

    fn world(&self, fatal: &FatalSignal, shutdown: &Shutdown) -> std::io::Result<(World, u64)> {
        let mut state = self.state();
        state.lives += 1;
        let seed = state.rng.random();
        let mut random = StdRng::seed_from_u64(seed);
        let slow = Arc::clone(&self.state);
        let disk: Arc<dyn Disk> = Arc::new(state.disk.clone());
        let (room, space) = watch_space(&disk)?;
        let world = World {
            threads: Threads::Simulated,
            net: Arc::new(SimNet),
            disk,
            wal: "wal".into(),
            sync_delay: Arc::new(move || sync_delay(&slow)),
            segment_bytes: SEGMENT_BYTES,
            incarnation: Incarnation(state.incarnation),
            stores: Arc::new(state.stores.clone()),
            broken: state.broken.clone(),
            space,
            room: Arc::new(move |bytes| room.make_room(bytes).unwrap_or(false)),
            random: Arc::new(Mutex::new(move || random.random())),
            fatal: fatal.clone(),
            shutdown: shutdown.clone(),
        };
        Ok((world, seed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the device's room now and then, as a server does.
fn watch_space(disk: &Arc<dyn Disk>) -> std::io::Result<(Arc<SpaceWatch>, watch::Receiver<Level>)> {
    let thresholds = Thresholds { low_bytes: 6 * SEGMENT_BYTES, critical_bytes: 3 * SEGMENT_BYTES };
    let space = SpaceWatch::new(Arc::clone(disk), "ballast".into(), thresholds, SPACE_POLL)?;
    let space = Arc::new(space);
    let (levels, receiver) = watch::channel(space.level());
    let polled = Arc::clone(&space);
    tokio::spawn(async move {
        let started = tokio::time::Instant::now();
        loop {
            if let Ok(Some(level)) = polled.poll(started.elapsed()) {
                tracing::info!(?level, "room on the device");
                levels.send_replace(level);
            }
            tokio::time::sleep(SPACE_POLL).await;
        }
    });
    Ok((space, receiver))
}

fn sync_delay(state: &Mutex<State>) -> Duration {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let most = state.sync_ms;
    Duration::from_millis(state.rng.random_range(0..=most))
}

/// The id of the member with this number.
#[must_use]
pub fn id(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}
