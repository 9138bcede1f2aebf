//! The member's handle: what services use. Parts do the work; this file names them and hands on.

pub(crate) mod agreement;
pub(crate) mod contact;
mod handover;
pub(crate) mod leases;
pub(crate) mod members;
pub(crate) mod peer_side;
pub(crate) mod propose;
pub(crate) mod reads;
pub(crate) mod removal;
pub mod request;
pub(crate) mod upkeep;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvd_core::command::{AlarmChange, AlarmKind, Command};
use kvd_core::ids::{LeaseId, MemberId, RequestId, Revision};
use kvd_core::mutants::{Mutant, active};
use kvd_core::outcome::{Applied, Rejection};
use kvd_core::view::{Access, ReadError, View};
use kvd_storage::space::Level;
use tokio::sync::watch as channel;
use tokio::time::Instant;

pub use self::leases::LeaseFound;
use self::leases::Leases;
use self::propose::Proposer;
use self::reads::ReadRounds;
pub use self::request::{Consistency, Header, MoveRefused, RequestError, Status, Unavailable};
use self::watch::{WatchMessages, WatchStream, Watches};
use crate::apply::{Applier, Published};
use crate::fatal::FatalSignal;
use crate::fence::Fence;
use crate::peer::identity::Identity;
use crate::raft::{Checkpoints, Raft, SnapshotSender};
use crate::shutdown::Shutdown;
use crate::threads::ReaderPool;

/// etcd's default for a quota of zero (rule F15).
const QUOTA_DEFAULT: i64 = 2 << 30;

/// How long a member that stops waits for its last checkpoint; one of the usual size takes a fraction of it.
const LAST_CHECKPOINT_LIMIT: Duration = Duration::from_secs(3);

/// What this member's flags allow.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Bytes of one encoded proposal.
    pub request_bytes_max: usize,
    /// Operations of one transaction, counted through nesting (rule KV-T3).
    pub txn_ops_max: usize,
    /// Bytes of the store; 0 is the default, negative means none.
    pub quota_bytes: i64,
    /// Election timeout in milliseconds; lease minimum and request time-out follow from it.
    pub election_ms: u64,
    /// Heartbeat interval in milliseconds.
    pub heartbeat_ms: u64,
    /// Pause between two notes of progress on a quiet watch (rule W21).
    pub watch_progress_interval: Duration,
    /// Entries between two samples of the state's hashes; the same on all members.
    pub state_sample_entries: u64,
    /// How often the samples of all members are compared.
    pub state_compare_interval: Duration,
}

/// One member of the cluster.
pub struct Node {
    pub(crate) own: Identity,
    pub(crate) limits: NodeLimits,
    pub(crate) raft: Raft,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) reads: ReadRounds,
    pub(crate) leases: Arc<Leases>,
    pub(crate) readers: ReaderPool,
    pub(crate) published: Published,
    pub(crate) applier: Applier,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) snapshots: SnapshotSender,
    /// Bytes that the state occupies on the device.
    pub(crate) db_size: Box<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) space: channel::Receiver<Level>,
    pub(crate) ready: channel::Sender<bool>,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) fatal: FatalSignal,
    pub(crate) watches: Arc<Watches>,
    /// Raised once this member's state is known to be wrong.
    pub(crate) fence: Fence,
    /// Given once this member is known to belong to the cluster no more.
    pub(crate) removed: Shutdown,
    /// Other members whose state is known to be wrong.
    pub(crate) odd_members: Mutex<BTreeSet<MemberId>>,
}

impl Node {
    /// Who answers.
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.own.cluster_id,
            member_id: self.own.member_id,
            term: self.raft.term(),
        }
    }

    /// What this member's flags allow.
    pub fn limits(&self) -> &NodeLimits {
        &self.limits
    }

    /// Admits a request that would grow the store by this much (behaviour.md 6.4, check 1); zero always passes.
    ///
    /// Compared with the bytes in use: what compaction freed counts as free (hazard D13).
    /// The id is that of the request, if its client gave one.
    pub async fn admit(
        &self,
        request_id: Option<RequestId>,
        cost_bytes: u64,
    ) -> Result<(), RequestError> {
        if cost_bytes == 0 {
            return Ok(());
        }
        if self.lacks_room() {
            return Err(Rejection::NoSpace.into());
        }
        let quota = match self.limits.quota_bytes {
            0 => QUOTA_DEFAULT,
            quota => quota,
        };
        let in_use = self.published.view().live_bytes();
        let over =
            u64::try_from(quota).is_ok_and(|quota| in_use.saturating_add(cost_bytes) >= quota);
        if !over {
            return Ok(());
        }
        let raise =
            AlarmChange { raise: true, member: self.own.member_id, kind: AlarmKind::NoSpace };
        self.propose(Command::Alarm(raise)).await?;
        if request_id.is_some() {
            // It may have been applied before: the log decides, where the alarm stands now.
            return Ok(());
        }
        Err(Rejection::NoSpace.into())
    }

    /// Whether a growing command must end here. A follower that runs low hands on: the leader judges its own
    /// room. One that takes no entries could not wait for the answer either (hazard B5).
    fn lacks_room(&self) -> bool {
        match *self.space.borrow() {
            Level::Plenty => false,
            Level::Low => self.leader() == Some(self.own.member_id),
            Level::Critical => true,
        }
    }

    /// Proposes a command; answers after it is visible on this member.
    pub async fn propose(&self, command: Command) -> Result<Applied, RequestError> {
        self.request(None, command).await
    }

    /// Proposes what a client asks for under this id, if it gave one: a request that was applied before is not
    /// applied again, but answered as it was then.
    pub async fn request(
        &self,
        request_id: Option<RequestId>,
        command: Command,
    ) -> Result<Applied, RequestError> {
        self.check_fence()?;
        let applied = self.proposer.propose(request_id, command).await?;
        // What a state answers that turned out to be wrong is not told; that it was applied is all that is known.
        self.check_fence().map_err(|_fenced| Unavailable::Timeout)?;
        Ok(applied)
    }

    /// Nothing of a state that differs from the majority's is served (hazard B10).
    fn check_fence(&self) -> Result<(), Unavailable> {
        if self.fence.is_raised() { Err(Unavailable::Diverged) } else { Ok(()) }
    }

    /// Whether this member's state may be used, and whether it is to be started again for another one.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Testing only: the next plain put that this member applies gets this value instead of its own, here alone.
    /// From then on its state differs from the others', soundly: only the comparison of states can tell. A member
    /// that dies before its next checkpoint replays the put as it is, and is right again.
    #[cfg(any(test, feature = "testing"))]
    pub fn forge_next_put(&self, value: bytes::Bytes) {
        self.applier.forge_next_put(value);
    }

    fn odd_members(&self) -> MutexGuard<'_, BTreeSet<MemberId>> {
        // A panic aborts the process; either way the content is whole.
        self.odd_members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from one View: after a barrier, or as it is here.
    ///
    /// `read` may run twice: from memory, and where that misses, with the device on a reader thread.
    pub async fn read<T, F>(&self, consistency: Consistency, read: F) -> Result<T, RequestError>
    where
        F: Fn(&View, Access) -> Result<Result<T, Rejection>, ReadError> + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.check_fence()?;
        let view = match consistency {
            Consistency::Serializable => self.published.view(),
            Consistency::Linearizable if active(Mutant::NoReadBarrier) => self.published.view(),
            Consistency::Linearizable => self.barrier().await?,
        };
        match read(&view, Access::Memory) {
            Err(ReadError::Miss) => {}
            answer => return self.answer(answer),
        }
        let on_device = move || read(&view, Access::Disk);
        match self.readers.run(on_device).await {
            Some(answer) => self.answer(answer),
            None => Err(Unavailable::Stopped.into()),
        }
    }

    fn answer<T>(
        &self,
        answer: Result<Result<T, Rejection>, ReadError>,
    ) -> Result<T, RequestError> {
        match answer {
            Ok(answer) => {
                self.check_fence()?;
                answer.map_err(RequestError::from)
            }
            Err(error) => {
                self.fatal.raise(error.into_fatal().to_string());
                Err(Unavailable::Stopped.into())
            }
        }
    }

    /// A View that has every write acknowledged before the call.
    ///
    /// Waiting for the apply has no limit of its own: the caller's deadline bounds it (behaviour.md 10.5).
    pub async fn barrier(&self) -> Result<View, Unavailable> {
        let deadline = Instant::now() + self.proposer.timeout;
        let index = self.reads.index(deadline).await?;
        if active(Mutant::ApplyNotAwaited) {
            return Ok(self.published.view());
        }
        Ok(self.published.at_least(index).await)
    }

    /// Renews a lease; answers the seconds granted, zero where there is no such lease (rule L6).
    pub async fn lease_renew(&self, id: LeaseId) -> Result<i64, RequestError> {
        self.check_fence()?;
        let granted = self.leases.renew(id).await?;
        self.check_fence()?;
        Ok(granted)
    }

    /// Looks a lease up; `None` where there is no such lease (rule L11).
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<Option<LeaseFound>, RequestError> {
        self.check_fence()?;
        let found = self.leases.time_to_live(id, keys).await?;
        self.check_fence()?;
        Ok(found)
    }

    /// Leases as this member knows them, those first that have the least time left (rule L13).
    pub async fn leases(&self) -> Result<Vec<LeaseId>, RequestError> {
        self.check_fence()?;
        let leases = Arc::clone(&self.leases);
        let all = self.readers.run(move || leases.all()).await;
        self.check_fence()?;
        all.ok_or_else(|| Unavailable::Stopped.into())
    }

    /// Waits until a compaction at this revision is durable and done (rule KV-C3, hazard F24).
    pub async fn wait_physical(&self, revision: Revision) -> Result<(), RequestError> {
        let done = self.checkpoints.compacted_to(&self.applier, revision);
        match tokio::time::timeout(self.proposer.timeout, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_stopping)) => Err(Unavailable::Stopped.into()),
            Err(_elapsed) => Err(Unavailable::Timeout.into()),
        }
    }

    /// Opens a stream of watches.
    pub fn watch(&self) -> (WatchStream, WatchMessages) {
        WatchStream::open(&self.watches)
    }

    /// Starts to serve watches, on the runtime of the services: consensus must not share it.
    pub fn serve_watches(&self) {
        self.watches.start();
    }

    /// The state as it is here, now.
    pub fn view(&self) -> View {
        self.published.view()
    }

    /// The leader as this member can vouch for it.
    pub fn leader(&self) -> Option<MemberId> {
        self.raft.leader().map(|leadership| leadership.leader)
    }

    /// Whether this member finished recovery, has the majority's state and is not stopping.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.fence.is_raised()
    }

    /// Tells when readiness changes.
    pub fn readiness(&self) -> channel::Receiver<bool> {
        self.ready.subscribe()
    }

    /// What Status, metrics and health tell.
    pub fn status(&self) -> Status {
        let view = self.published.view();
        let voters = &view.membership().1.voters;
        let counters = &self.proposer.counters;
        let votes = voters.iter().any(|voters| voters.contains(&self.own.member_id));
        let own = view.members().present.get(&self.own.member_id);
        let awaits_vote = own.is_some_and(|own| own.seat_reserved);
        Status {
            header: self.header(),
            leader: self.leader(),
            committed: self.raft.committed(),
            applied: view.at().index,
            last: self.raft.last(),
            revision: view.revision(),
            is_learner: !votes && !awaits_vote,
            // Tools divide by these: neither is ever zero, and what is in use is part of what is allocated.
            db_size: (self.db_size)().max(view.live_bytes()).max(1),
            db_size_in_use: view.live_bytes().max(1),
            quota_bytes: self.limits.quota_bytes,
            ready: self.is_ready(),
            leader_changes: self.leader_changes.load(Ordering::Relaxed),
            proposals_pending: counters.pending.load(Ordering::Relaxed),
            proposals_failed: counters.failed.load(Ordering::Relaxed),
            snapshot_sent_bytes: self.snapshots.sent_bytes(),
            compaction_waited: self.applier.compaction_waited(),
            watches: self.watches.counts(),
            requests: view.request_counts(),
            state_differs: self.state_differs(&view),
        }
    }

    fn state_differs(&self, view: &View) -> BTreeMap<MemberId, bool> {
        let odd = self.odd_members();
        let differs = |id: &MemberId| match *id == self.own.member_id {
            true => self.fence.is_raised(),
            false => odd.contains(id),
        };
        view.membership().1.nodes.keys().map(|id| (*id, differs(id))).collect()
    }

    /// Whether this member has no vote, and is not about to get one.
    pub fn is_learner(&self) -> bool {
        let view = self.published.view();
        view.members().present.get(&self.own.member_id).is_some_and(|own| own.is_learner)
    }

    /// Returns once this member is known to belong to the cluster no more.
    pub async fn removed(&self) {
        self.removed.begun().await;
    }

    /// Stops to take part, and leaves a checkpoint behind, so that the next start has little to replay (hazard
    /// F9). It is for that only: without room or time for it nothing is lost.
    pub async fn stop(&self) {
        self.raft.stop().await;
        if self.fence.is_raised() {
            // The state is not used any more.
            return;
        }
        let last = self.checkpoints.durable_at(&self.applier, self.published.applied());
        match tokio::time::timeout(LAST_CHECKPOINT_LIMIT, last).await {
            Ok(Ok(meta)) => tracing::info!(index = %meta.applied.index, "checkpoint made"),
            Ok(Err(reason)) => tracing::info!(%reason, "no last checkpoint"),
            Err(_elapsed) => tracing::info!("no last checkpoint in time"),
        }
    }
}
