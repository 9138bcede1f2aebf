//! What runs on a machine: a member, from its data directory to serving, until it stops or its host is crashed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd::bootstrap::{self, MemberConfig, World};
use kvd::fatal::FatalSignal;
use kvd::listen::{self, ConnectionLimits};
use kvd::metrics::Metrics;
use kvd::net::Net;
use kvd::node::{Node, NodeLimits};
use kvd::service;
use kvd::shutdown::Shutdown;
use kvd::threads::Threads;
use kvd_core::ids::{ClusterId, Incarnation, Index};
use kvd_core::members::Rules;
use kvd_storage::fs::Disk;
use kvd_storage::space::{Level, SpaceWatch, Thresholds};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use super::{CLIENT_PORT, Machine, NAMES, State, Stop, id};
use crate::invariant::Entries;
use crate::net::SimNet;

const PEER_PORT: u16 = 2380;

/// Bytes of a segment of the log: few, so that many are begun and recycled.
const SEGMENT_BYTES: u64 = 64 << 10;

/// How often a member looks at its device's room.
const SPACE_POLL: Duration = Duration::from_millis(100);

impl Machine {
    pub(super) async fn serve(&self) -> Stop {
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
    pub(super) async fn keep_time(self) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let ahead = self.state().clock.take_ahead();
            if !ahead.is_zero() {
                self.gained.add(ahead);
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
        let log = starting.log();
        self.state().entries =
            Entries::new(move |index| log.log_id_at(Index(index)).map(|id| (id.term.0, id.node.0)));
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
            rules: Rules { strict: true, learners_max: 1 },
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
