//! Consensus in our words. The only room that names openraft.
//!
//! What a write may have done is never guessed: [`WriteError::NotAppended`] means the log never saw it and it
//! may be tried again; [`WriteError::Unknown`] means it may still happen and must not be (hazard A7).

mod checkpoints;
mod handover;
mod heard;
mod log_store;
mod membership;
mod network;
mod payload;
mod server;
mod settings;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod suite;
mod types;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_core::ids::{Index, MemberId, Term};
use kvd_core::mutants::{Mutant, active};
use kvd_core::outcome::Applied;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::watch;

pub(crate) use self::checkpoints::Checkpoints;
use self::heard::Heard;
pub(crate) use self::heard::Leadership;
use self::log_store::LogStore;
use self::network::NetworkFactory;
pub(crate) use self::settings::RaftConfig;
use self::settings::openraft_config;
pub(crate) use self::snapshot::{Installer, Sender as SnapshotSender};
use self::state_machine::StateMachine;
use self::types::{PeerNode, Proposed, TypeConfig};
use crate::apply::Applier;
use crate::peer::pool::Peers;
use crate::threads::ReaderPool;

type Openraft = openraft::Raft<TypeConfig, StateMachine>;

/// Who waits for another leadership looks this often, beside being told: a member that leads itself can vouch for that
/// only later than it changes.
const LOOK: Duration = Duration::from_millis(50);

/// Why a write has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// The log never saw it: this member does not lead.
    NotAppended,
    /// It may have happened, or may yet.
    Unknown,
    /// This member is stopping.
    Stopped,
}

/// All that consensus needs to run.
pub(crate) struct Parts {
    pub(crate) config: RaftConfig,
    pub(crate) log: kvd_storage::log::RaftLog,
    pub(crate) applier: Applier,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) installer: Installer,
    pub(crate) snapshot_sender: SnapshotSender,
    pub(crate) peers: Peers,
    pub(crate) readers: ReaderPool,
}

/// A handle to consensus; clones share it.
#[derive(Clone)]
pub(crate) struct Raft {
    inner: Openraft,
    heard: Heard,
    installer: Installer,
    applier: Applier,
    config: RaftConfig,
}

impl Raft {
    /// Recovers from log and checkpoint. Nothing runs before [`Raft::run`].
    pub(crate) async fn build(parts: Parts) -> Result<Self, String> {
        let config = openraft_config(&parts.config)?;
        let network = NetworkFactory {
            peers: parts.peers,
            append_timeout: Duration::from_millis(parts.config.election_ms / 2),
            snapshot_sender: parts.snapshot_sender,
        };
        let log_store = LogStore::new(parts.log, parts.readers);
        let installer = parts.installer.clone();
        let state_machine =
            StateMachine::new(parts.applier.clone(), parts.checkpoints, parts.installer);
        let id = parts.config.member_id.0;
        let inner = Openraft::build(id, Arc::new(config), network, log_store, state_machine)
            .await
            .map_err(|fatal| fatal.to_string())?;
        let heard = Heard::new();
        Ok(Self { inner, heard, installer, applier: parts.applier, config: parts.config })
    }

    /// Starts to take part.
    pub(crate) fn run(&self) {
        self.inner.run();
    }

    /// Stops to take part; what is queued is lost, what is durable stays.
    pub(crate) async fn stop(&self) {
        // An error means that it had stopped before.
        let _stopped_before = self.inner.shutdown().await;
    }

    /// Starts a new cluster. Every founding member calls this with the same members (hazard F2).
    pub(crate) async fn initialize(
        &self,
        members: &BTreeMap<MemberId, Vec<String>>,
    ) -> Result<(), String> {
        let nodes: BTreeMap<u64, PeerNode> = members
            .iter()
            .map(|(id, peer_urls)| (id.0, PeerNode { peer_urls: peer_urls.clone() }))
            .collect();
        match self.inner.initialize(nodes).await {
            Ok(()) => Ok(()),
            // Another founder's entries arrived first: the cluster exists, which is what was wanted.
            Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Proposes on this member, which must lead; answers after the entry was applied here.
    pub(crate) async fn write(&self, proposal: Bytes) -> Result<Applied, WriteError> {
        match self.inner.client_write(Proposed(proposal)).await {
            Ok(response) => Ok(response.data),
            // Only this variant is a promise that nothing was appended; `LogEntryDiscarded` looks alike.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(WriteError::NotAppended)
            }
            Err(RaftError::APIError(_)) if active(Mutant::DiscardedRetried) => {
                Err(WriteError::NotAppended)
            }
            Err(RaftError::APIError(_)) => Err(WriteError::Unknown),
            Err(RaftError::Fatal(openraft::errors::Fatal::Stopped)) => Err(WriteError::Stopped),
            Err(RaftError::Fatal(_)) => Err(WriteError::Unknown),
        }
    }

    /// As [`Raft::write`], but only while this very leadership lasts: what was decided as its leader is not
    /// written as the leader of a later term.
    pub(crate) async fn write_as(
        &self,
        leadership: Leadership,
        proposal: Bytes,
    ) -> Result<Applied, WriteError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let expected = LeaderId { term: leadership.term.0, node_id: leadership.leader.0 };
        let request = self.inner.write(Proposed(proposal)).with_leader(expected);
        match request.responder(responder).await {
            Ok(()) => {}
            Err(openraft::errors::Fatal::Stopped) => return Err(WriteError::Stopped),
            Err(_) => return Err(WriteError::Unknown),
        }
        match answer.await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(WriteError::NotAppended),
            // Without an answer consensus has ended, and nobody knows how far this came.
            Ok(Err(_)) | Err(_) => Err(WriteError::Unknown),
        }
    }

    /// This leadership, if this member has it.
    pub(crate) fn own_leadership(&self) -> Option<Leadership> {
        self.leader().filter(|leadership| leadership.leader == self.config.member_id)
    }

    /// An index that covers every write acknowledged before the call, confirmed by a majority after it;
    /// `None` if this member cannot confirm that it leads.
    pub(crate) async fn read_index(&self) -> Option<Index> {
        if active(Mutant::LeaderAssumed) {
            return Some(self.committed());
        }
        let linearizer = self.inner.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        Some(types::log_id(linearizer.read_log_id().log_id()).index)
    }

    /// The leader as this member can vouch for it (hazard B3): itself while a majority answered within the
    /// lease, else the one heard within an election timeout.
    pub(crate) fn leader(&self) -> Option<Leadership> {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow_watched();
        let own = self.config.member_id;
        if metrics.state.is_leader() && metrics.vote.committed {
            let lease = Duration::from_millis(self.config.election_ms);
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            let acknowledged =
                metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() <= lease);
            let term = Term(metrics.current_term);
            return (alone || acknowledged).then_some(Leadership { term, leader: own });
        }
        drop(metrics);
        let age_max = Duration::from_millis(self.config.election_ms);
        self.heard.within(age_max).filter(|heard| heard.leader != own)
    }

    /// This member.
    pub(crate) fn own_id(&self) -> MemberId {
        self.config.member_id
    }

    /// How long one confirmation of leadership may take.
    pub(crate) fn round_timeout(&self) -> Duration {
        Duration::from_millis(self.config.election_ms)
    }

    /// Tells when leadership may have changed.
    pub(crate) fn leadership_changes(&self) -> LeadershipChanges {
        LeadershipChanges { own: self.inner.server_metrics(), heard: self.heard.changes() }
    }

    /// Until it is known that another leadership came after this one, and a little longer.
    pub(crate) async fn superseded(&self, leadership: Leadership, longer: Duration) {
        let mut changes = self.leadership_changes();
        while self.leader().is_none_or(|now| now <= leadership) {
            let _sooner = tokio::time::timeout(LOOK, changes.changed()).await;
        }
        tokio::time::sleep(longer).await;
    }

    /// This member's term.
    pub(crate) fn term(&self) -> Term {
        Term(self.inner.metrics().borrow_watched().current_term)
    }

    /// The committed index as known here.
    pub(crate) fn committed(&self) -> Index {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.local_committed);
        committed.map_or(Index(0), |id| types::log_id(&id).index)
    }

    /// The last entry accepted by this member's log.
    pub(crate) fn last(&self) -> Index {
        let last = self.inner.metrics().borrow_watched().last_log_index;
        last.map_or(Index(0), |last| Index(last).next())
    }

    /// From now on this member does not stand for election; its vote and its log stay at work.
    pub(crate) fn stand_down(&self) {
        self.inner.runtime_config().elect(false);
    }

    /// Tells openraft of the durable checkpoint, so that the log below may go.
    pub(crate) async fn report_checkpoint(&self) -> Result<(), String> {
        self.inner.trigger().snapshot().await.map_err(|fatal| fatal.to_string())
    }

    /// Lets the log up to this entry go, as far as openraft agrees.
    pub(crate) async fn purge(&self, upto: Index) -> Result<(), String> {
        let Some(upto) = upto.0.checked_sub(1) else {
            return Ok(());
        };
        self.inner.trigger().purge_log(upto).await.map_err(|fatal| fatal.to_string())
    }

    /// Returns when consensus cannot go on, with the reason.
    pub(crate) async fn failed(&self) -> String {
        let mut metrics = self.inner.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "consensus ended".to_owned();
            }
        }
    }
}

/// Wakes when leadership may have changed.
pub(crate) struct LeadershipChanges {
    own: openraft::alias::WatchReceiverOf<
        TypeConfig,
        openraft::metrics::RaftServerMetrics<TypeConfig>,
    >,
    heard: watch::Receiver<Option<Leadership>>,
}

impl LeadershipChanges {
    /// Returns after the next change.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.own.changed() => {}
            Ok(()) = self.heard.changed() => {}
            // Consensus has ended, so nothing changes any more. Who waits for a change must not be woken
            // for that again and again.
            else => std::future::pending().await,
        }
    }
}
