//! From a data directory and flags to a running member: new cluster, restart, or a state fetched from a peer.
//!
//! Every refusal is one line that says what is wrong and what to do.

mod addresses;
mod join;
mod log;
mod recover;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvd_core::checkpoint::Meta;
use kvd_core::ids::{ClusterId, Incarnation, MemberId};
use kvd_core::members::Rules;
use kvd_core::state::{Options as StateOptions, State};
use kvd_storage::fs::Disk;
use kvd_storage::log::RaftLog;
use kvd_storage::space::Level;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use self::addresses::{KnownAddresses, directory};
pub use self::join::{Joined, join, members_now};
use self::log::open_log;
use crate::apply::Applier;
use crate::checkpoint_lane::{CheckpointLane, Room};
use crate::fatal::FatalSignal;
use crate::fence::Fence;
use crate::lease_clock::LeaseClock;
use crate::log_lane::{Random, SyncDelay};
use crate::net::Net;
use crate::node::agreement;
use crate::node::contact;
use crate::node::leases::{Leases, Parts as LeaseParts};
use crate::node::members;
use crate::node::peer_side::{PeerSide, Telling};
use crate::node::propose::Proposer;
use crate::node::reads::{Addresses, ReadRounds};
use crate::node::removal;
use crate::node::upkeep::{self, Retention};
use crate::node::watch::Watches;
use crate::node::{Node, NodeLimits};
use crate::peer::identity::Identity;
use crate::peer::pool::Peers;
use crate::raft::{Checkpoints, Installer, Parts, Raft, RaftConfig, SnapshotSender};
use crate::samples::Samples;
use crate::shutdown::Shutdown;
use crate::stores::Stores;
use crate::threads::{ReaderPool, Threads};

/// Bytes a second of one snapshot transfer: what leaves a gigabit network room for the rest (hazard F26).
const SNAPSHOT_BYTES_PER_SECOND: u64 = 100 << 20;

/// Checkpoints that became durable and were not followed up yet; one is in flight at most.
const DURABLE_QUEUE: usize = 16;

/// Why a member does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory or the log cannot be used.
    #[error("{0}")]
    Storage(String),
    /// The flags do not fit the cluster.
    #[error("{0}")]
    Cluster(String),
    /// Consensus cannot be recovered.
    #[error("consensus cannot start: {0}")]
    Raft(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a member is told and where it lives.
pub struct MemberConfig {
    /// Its name.
    pub name: String,
    /// Its id.
    pub member_id: MemberId,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The founding members with their peer URLs; used only while the log is empty.
    pub founders: BTreeMap<MemberId, Vec<String>>,
    /// Found a cluster if there is none.
    pub may_found: bool,
    /// Where clients are told to find it.
    pub client_urls: Vec<String>,
    /// What its flags allow.
    pub limits: NodeLimits,
    /// What they allow of changes of the membership.
    pub rules: Rules,
    /// How long the log is kept.
    pub snapshot_count: u64,
    /// Entries that the log keeps below the applied one.
    pub snapshot_catchup_entries: u64,
}

/// The world of a member: real in production, simulated in the simulator.
pub struct World {
    /// Where blocking work runs.
    pub threads: Threads,
    /// The network.
    pub net: Arc<dyn Net>,
    /// The data directory's files.
    pub disk: Arc<dyn Disk>,
    /// Where the log is on that disk.
    pub wal: PathBuf,
    /// How long a simulated disk's syncs take.
    pub sync_delay: SyncDelay,
    /// Bytes of one segment of the log.
    pub segment_bytes: u64,
    /// Its data directory's mark.
    pub incarnation: Incarnation,
    /// The checkpoint stores.
    pub stores: Arc<dyn Stores>,
    /// Why the checkpoints that were there are of no use, if so: they are fetched from a peer.
    pub broken: Option<String>,
    /// How much room the device has.
    pub space: watch::Receiver<Level>,
    /// Whether a checkpoint of so many bytes can be written.
    pub room: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// Random numbers.
    pub random: Random,
    /// Told why the member must stop.
    pub fatal: FatalSignal,
    /// Told to stop.
    pub shutdown: Shutdown,
}

/// A member on its way up: its peer port can be served.
pub struct Starting {
    config: MemberConfig,
    world: World,
    own: Identity,
    peers: Peers,
    readers: ReaderPool,
    log: RaftLog,
    sender: SnapshotSender,
    fence: Fence,
    /// What peers talk to.
    pub peer_side: Arc<PeerSide>,
}

/// Opens the log. After this the peer port may be served: peers may ask who is there.
pub fn open(config: MemberConfig, world: World) -> Result<Starting, StartError> {
    let own = Identity {
        cluster_id: config.cluster_id,
        member_id: config.member_id,
        incarnation: world.incarnation,
    };
    let log = open_log(&world)?;
    let readers = ReaderPool::start(world.threads)?;
    let fence = Fence::new();
    let sender = SnapshotSender::new(readers.clone(), SNAPSHOT_BYTES_PER_SECOND, fence.clone());
    let peers = Peers::new(own, Arc::clone(&world.net));
    let (space, fatal) = (world.space.clone(), world.fatal.clone());
    let peer_side = PeerSide::new(own, sender.clone(), space, fatal, fence.clone());
    let peer_side = Arc::new(peer_side);
    Ok(Starting { config, world, own, peers, readers, log, sender, fence, peer_side })
}

impl Starting {
    /// Testing only: the log, for who looks at its entries while the member runs.
    #[cfg(any(test, feature = "testing"))]
    pub fn log(&self) -> RaftLog {
        self.log.clone()
    }

    /// Recovers the state, founds or rejoins the cluster, and returns the running member.
    pub async fn start(self) -> Result<Arc<Node>, StartError> {
        let log_is_empty = self.log.state().last.is_none();
        let is_new = log_is_empty && self.world.broken.is_none();
        if log_is_empty {
            self.check_log_was_never_used()?;
            self.greet_peers().await?;
        }
        let (durable, checkpoints_durable) = mpsc::channel(DURABLE_QUEUE);
        let installer = Installer::new(
            Arc::clone(&self.world.stores),
            self.log.clone(),
            self.readers.clone(),
            StateOptions::DEFAULT,
        );
        let state = self.recover(&installer).await?;
        if state.view().members().removed.contains(&self.own.member_id) {
            return Err(self.was_removed());
        }
        recover::fit_log(&self.log, &self.readers, state.applied())
            .await
            .map_err(StartError::Storage)?;
        let room: Room = Arc::clone(&self.world.room);
        let fatal = self.world.fatal.clone();
        let log = self.log.clone();
        let durable_log = Arc::new(move || log.durable());
        let lane =
            CheckpointLane::new(self.world.threads, durable_log, room, durable, fatal.clone());
        lane.follow(&self.log);
        lane.replace(self.world.stores.live())?;
        let clock = LeaseClock::new(Duration::from_millis(self.config.limits.election_ms));
        let applier = self.applier(state, &lane, fatal.clone(), clock.clone())?;
        self.peer_side.has_state(applier.clone());
        self.peers.insist_on(directory(&applier));
        let last = self.last_checkpoint()?;
        let checkpoints = Checkpoints::new(last);
        let noted =
            upkeep::note_checkpoints(applier.clone(), checkpoints.clone(), checkpoints_durable);
        let raft = self.raft(&applier, &checkpoints, installer.with_lane(lane)).await?;
        // Of their own: watches must not wait behind large reads.
        let watch_readers = ReaderPool::start(self.world.threads)?;
        let node = self.node(raft, applier, checkpoints, clock, watch_readers);
        self.run(&node, noted, is_new).await?;
        Ok(node)
    }

    /// A checkpoint has a log beside it that holds a vote at least. A member that forgot its vote could give it
    /// twice in a term.
    fn check_log_was_never_used(&self) -> Result<(), StartError> {
        match (self.log.state().vote, self.last_checkpoint()?) {
            (None, Some(meta)) => Err(StartError::Storage(format!(
                "the log is missing beside a checkpoint at index {}: restore the data directory \
                 from a backup, or remove the member from the cluster and add it anew",
                meta.applied.index
            ))),
            _ => Ok(()),
        }
    }

    fn applier(
        &self,
        state: State,
        lane: &CheckpointLane,
        fatal: FatalSignal,
        leases: LeaseClock,
    ) -> Result<Applier, StartError> {
        let lane = lane.clone();
        let send = Box::new(move |generation, checkpoint| lane.send(generation, checkpoint));
        let entries_max = self.config.snapshot_count;
        let fatal = Box::new(move |reason| fatal.raise(reason));
        let samples = Samples::new(self.config.limits.state_sample_entries);
        Ok(Applier::start(self.world.threads, state, send, entries_max, fatal, leases, samples)?)
    }

    fn last_checkpoint(&self) -> Result<Option<Meta>, StartError> {
        let meta = self.world.stores.live().meta();
        meta.map_err(|error| StartError::Storage(error.to_string()))
    }

    async fn raft(
        &self,
        applier: &Applier,
        checkpoints: &Checkpoints,
        installer: Installer,
    ) -> Result<Raft, StartError> {
        let parts = Parts {
            config: RaftConfig {
                member_id: self.own.member_id,
                heartbeat_ms: self.config.limits.heartbeat_ms,
                election_ms: self.config.limits.election_ms,
            },
            log: self.log.clone(),
            applier: applier.clone(),
            checkpoints: checkpoints.clone(),
            installer,
            snapshot_sender: self.sender.clone(),
            peers: self.peers.clone(),
            readers: self.readers.clone(),
        };
        Raft::build(parts).await.map_err(StartError::Raft)
    }

    fn node(
        &self,
        raft: Raft,
        applier: Applier,
        checkpoints: Checkpoints,
        clock: LeaseClock,
        watch_readers: ReaderPool,
    ) -> Arc<Node> {
        let addresses: Arc<dyn Addresses> = Arc::new(KnownAddresses(applier.clone()));
        let timeout = Duration::from_millis(5000 + 2 * self.config.limits.election_ms);
        let proposer = Arc::new(Proposer {
            raft: raft.clone(),
            peers: self.peers.clone(),
            published: applier.published().clone(),
            addresses: Arc::clone(&addresses),
            request_bytes_max: self.config.limits.request_bytes_max,
            rules: self.config.rules,
            timeout,
            last_word: Duration::from_millis(self.config.limits.election_ms / 10),
            space: self.world.space.clone(),
            in_flight: Proposer::admission(),
            counters: crate::node::propose::Counters::default(),
        });
        let reads = ReadRounds::start(raft.clone(), self.peers.clone(), Arc::clone(&addresses));
        let parts = LeaseParts {
            raft: raft.clone(),
            peers: self.peers.clone(),
            addresses,
            published: applier.published().clone(),
            reads: reads.clone(),
            clock,
            fence: self.fence.clone(),
            timeout,
        };
        let leases = Leases::start(parts, self.world.shutdown.clone());
        let telling = Telling::of(self.config.limits.state_compare_interval, &self.config.founders);
        self.peer_side.runs(raft.clone(), Arc::clone(&proposer), Arc::clone(&leases), telling);
        let stores = Arc::clone(&self.world.stores);
        let watches = Watches::new(
            applier.feed().clone(),
            applier.published().clone(),
            watch_readers,
            self.world.fatal.clone(),
        );
        Arc::new(Node {
            own: self.own,
            limits: self.config.limits.clone(),
            reads,
            leases,
            raft,
            proposer,
            readers: self.readers.clone(),
            published: applier.published().clone(),
            applier,
            checkpoints,
            snapshots: self.sender.clone(),
            db_size: Box::new(move || stores.live().size_bytes().unwrap_or(0)),
            space: self.world.space.clone(),
            ready: watch::Sender::new(false),
            leader_changes: AtomicU64::new(0),
            fatal: self.world.fatal.clone(),
            watches: Arc::new(watches),
            fence: self.fence.clone(),
            removed: Shutdown::new(),
            odd_members: Mutex::default(),
        })
    }

    /// Takes part, founds the cluster if there is none, and starts the member's own duties.
    async fn run(
        &self,
        node: &Arc<Node>,
        checkpoints_noted: watch::Receiver<()>,
        is_new: bool,
    ) -> Result<(), StartError> {
        node.raft.run();
        if is_new && self.config.may_found {
            node.raft.initialize(&self.config.founders).await.map_err(StartError::Raft)?;
        }
        let shutdown = self.world.shutdown.clone();
        let retention =
            Retention::from_flags(self.config.snapshot_count, self.config.snapshot_catchup_entries);
        let applier = node.applier.clone();
        tokio::spawn(upkeep::follow_checkpoints(
            Arc::clone(node),
            self.log.clone(),
            retention,
            checkpoints_noted,
        ));
        tokio::spawn(upkeep::checkpoint_regularly(applier, shutdown.clone()));
        tokio::spawn(upkeep::follow_leadership(Arc::clone(node), shutdown.clone()));
        tokio::spawn(upkeep::set_cluster_version(Arc::clone(node), shutdown.clone()));
        let stores = Arc::clone(&self.world.stores);
        tokio::spawn(members::seat_members(Arc::clone(node), shutdown.clone()));
        tokio::spawn(contact::tell_silence(Arc::clone(node), shutdown.clone()));
        tokio::spawn(removal::notice(Arc::clone(node), shutdown.clone()));
        tokio::spawn(agreement::compare(Arc::clone(node), stores, shutdown.clone()));
        tokio::spawn(upkeep::become_ready(
            Arc::clone(node),
            self.config.name.clone(),
            self.config.client_urls.clone(),
            shutdown,
        ));
        let (watched, fatal) = (node.raft.clone(), self.world.fatal.clone());
        let shutdown = self.world.shutdown.clone();
        tokio::spawn(async move {
            let reason = watched.failed().await;
            if !shutdown.is_begun() {
                fatal.raise(reason);
            }
        });
        Ok(())
    }
}
