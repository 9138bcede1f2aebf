//! A member's machine: disk and stores survive a crash as far as they do, everything else is gone.

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
use kvd_core::ids::{ClusterId, Incarnation, MemberId};
use kvd_storage::fs::SimDisk;
use kvd_storage::space::Level;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::net::SimNet;

/// Members, by the names of their hosts.
pub const NAMES: [&str; 3] = ["m1", "m2", "m3"];

/// Where clients are served.
pub const CLIENT_PORT: u16 = 2379;

const PEER_PORT: u16 = 2380;

/// What a run's members are told alike.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// Milliseconds.
    pub election_ms: u64,
    /// Milliseconds.
    pub heartbeat_ms: u64,
    /// Entries between checkpoints.
    pub snapshot_count: u64,
    /// Milliseconds that a sync takes at most, while its disk is well.
    pub sync_ms: u64,
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
    rng: StdRng,
    sync_ms: u64,
    /// The disk as of the moment its power was cut, if it was cut in the middle of a sync.
    cut: Arc<Mutex<Option<SimDisk>>>,
    stopped: Option<String>,
    node: Weak<Node>,
}

impl Machine {
    /// A new machine with empty disks.
    #[must_use]
    pub fn new(index: usize, flags: Flags, seed: u64) -> Self {
        let state = State {
            disk: SimDisk::new(),
            stores: MemStores::new(),
            rng: StdRng::seed_from_u64(seed),
            sync_ms: flags.sync_ms,
            cut: Arc::default(),
            stopped: None,
            node: Weak::new(),
        };
        Self { index, flags, state: Arc::new(Mutex::new(state)) }
    }

    /// Runs the member until its host is crashed. A member that stops by itself is noted, and stays silent.
    pub async fn run(self) {
        let reason = self.serve().await;
        self.state().stopped = Some(reason);
        std::future::pending().await
    }

    /// Why it stopped by itself, if it did and nobody cut its power.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let state = self.state();
        let was_cut = state.cut.lock().is_ok_and(|cut| cut.is_some());
        if was_cut { None } else { state.stopped.clone() }
    }

    /// Whether its power was cut in the middle of a sync.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        let cut = Arc::clone(&self.state().cut);
        cut.lock().is_ok_and(|cut| cut.is_some())
    }

    /// From now on, each sync takes up to so many milliseconds.
    pub fn set_sync_ms(&self, sync_ms: u64) {
        self.state().sync_ms = sync_ms;
    }

    /// The disk is well again.
    pub fn heal_disk(&self) {
        self.set_sync_ms(self.flags.sync_ms);
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
        state.stores = state.stores.crash();
        state.cut = Arc::default();
        state.stopped = None;
        state.node = Weak::new();
    }

    /// Whether it believes to lead.
    #[must_use]
    pub fn leads(&self) -> bool {
        let node = self.state().node.upgrade();
        node.is_some_and(|node| node.leader() == Some(id(self.index)))
    }

    /// Whether a checkpoint became durable.
    #[must_use]
    pub fn has_checkpoint(&self) -> bool {
        let stores = self.state().stores.clone();
        stores.live().meta().is_ok_and(|meta| meta.is_some())
    }

    async fn serve(&self) -> String {
        let fatal = FatalSignal::new();
        let served = async {
            match self.start(&fatal).await {
                Ok(node) => {
                    self.state().node = Arc::downgrade(&node);
                    std::future::pending().await
                }
                Err(reason) => reason,
            }
        };
        tokio::select! {
            biased;
            reason = fatal.raised() => reason,
            reason = served => reason,
        }
    }

    async fn start(&self, fatal: &FatalSignal) -> Result<Arc<Node>, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let peers = SimNet.listen(String::new(), PEER_PORT).await.map_err(|e| text(&e))?;
        let clients = SimNet.listen(String::new(), CLIENT_PORT).await.map_err(|e| text(&e))?;
        let shutdown = Shutdown::new();
        let (levels, space) = watch::channel(Level::Plenty);
        let (world, seed) = self.world(fatal, &shutdown, space);
        let starting = bootstrap::open(self.config(), world).map_err(|e| text(&e))?;
        let router = service::peer_router(Arc::clone(&starting.peer_side));
        let limits = ConnectionLimits::of_peers();
        tokio::spawn(listen::serve(peers, router, shutdown.clone(), limits));
        let node = starting.start().await.map_err(|e| text(&e))?;
        let metrics = Arc::new(Metrics::new(NAMES[self.index], "3.6.0"));
        let router = service::router(Arc::clone(&node), metrics, shutdown.clone(), seed);
        let ping = Duration::from_secs(5);
        let limits = ConnectionLimits::new(u32::MAX, Some(ping), ping);
        let serving = listen::serve(clients, router, shutdown, limits);
        tokio::spawn(async move {
            serving.await;
            drop(levels);
        });
        Ok(node)
    }

    fn config(&self) -> MemberConfig {
        let url = |index: usize, port| vec![format!("http://{}:{port}", NAMES[index])];
        let founders: BTreeMap<_, _> =
            (0..NAMES.len()).map(|index| (id(index), url(index, PEER_PORT))).collect();
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
                watch_progress_interval: Duration::from_secs(600),
            },
            snapshot_count: self.flags.snapshot_count,
            snapshot_catchup_entries: self.flags.snapshot_count / 4,
        }
    }

    fn world(
        &self,
        fatal: &FatalSignal,
        shutdown: &Shutdown,
        space: watch::Receiver<Level>,
    ) -> (World, u64) {
        let mut state = self.state();
        let seed = state.rng.random();
        let mut random = StdRng::seed_from_u64(seed);
        let slow = Arc::clone(&self.state);
        let world = World {
            threads: Threads::Simulated,
            net: Arc::new(SimNet),
            disk: Arc::new(state.disk.clone()),
            wal: "wal".into(),
            sync_delay: Arc::new(move || sync_delay(&slow)),
            segment_bytes: 64 << 10,
            incarnation: Incarnation(self.index as u64 + 101),
            stores: Arc::new(state.stores.clone()),
            broken: None,
            space,
            room: Arc::new(|_bytes| true),
            random: Arc::new(Mutex::new(move || random.random())),
            fatal: fatal.clone(),
            shutdown: shutdown.clone(),
        };
        (world, seed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync_delay(state: &Mutex<State>) -> Duration {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let most = state.sync_ms;
    Duration::from_millis(state.rng.random_range(0..=most))
}

fn id(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}
