//! What this member is to its peers. Usable before Raft runs: a starting peer asks who is there, and one
//! without usable state fetches it (hazards A5, A6).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use kvd_core::command::Membership;
use kvd_core::ids::{Incarnation, MemberId};
use kvd_core::mutants::{Mutant, active};
use kvd_core::tables::Member;
use kvd_proto::peer;
use kvd_storage::space::Level;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use super::agreement;
use super::agreement::verdict::disputed;
use super::leases::Leases;
use super::propose::Proposer;
use crate::apply::Applier;
use crate::fatal::FatalSignal;
use crate::fence::Fence;
use crate::peer::identity::{self, Caller, Identity, PROTOCOL};
use crate::raft::{Raft, SnapshotSender};

/// Why a member whose fence is raised answers nothing that comes from its state.
const DIVERGED: &str = "the state of this member differs from the majority's";

/// This member, as its peers see it.
pub struct PeerSide {
    own: Identity,
    snapshot_sender: SnapshotSender,
    space: watch::Receiver<Level>,
    fatal: FatalSignal,
    fence: Fence,
    state: OnceLock<Applier>,
    running: OnceLock<Running>,
}

struct Running {
    raft: Raft,
    proposer: Arc<Proposer>,
    leases: Arc<Leases>,
    telling: Telling,
}

/// Who is asked what their states are like, before one of them is taken.
pub(crate) struct Telling {
    /// How long they may take.
    limit: Duration,
    /// Those that a member without any state knows of: it started late, and the log from its beginning is gone.
    founders: Membership,
}

impl Telling {
    pub(crate) fn of(limit: Duration, founders: &BTreeMap<MemberId, Vec<String>>) -> Self {
        let voters = vec![founders.keys().copied().collect()];
        Self { limit, founders: Membership { voters, nodes: founders.clone() } }
    }
}

impl PeerSide {
    /// A member that is only just starting.
    pub(crate) fn new(
        own: Identity,
        snapshot_sender: SnapshotSender,
        space: watch::Receiver<Level>,
        fatal: FatalSignal,
        fence: Fence,
    ) -> Self {
        let (state, running) = (OnceLock::new(), OnceLock::new());
        Self { own, snapshot_sender, space, fatal, fence, state, running }
    }

    /// The state is open: it can be fetched.
    pub(crate) fn has_state(&self, applier: Applier) {
        let _set_twice = self.state.set(applier);
    }

    /// Consensus runs.
    pub(crate) fn runs(
        &self,
        raft: Raft,
        proposer: Arc<Proposer>,
        leases: Arc<Leases>,
        telling: Telling,
    ) {
        let _set_twice = self.running.set(Running { raft, proposer, leases, telling });
    }

    /// Checks who calls.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        if !identity::means_this_directory(metadata, &self.own)
            && self.known(self.own.member_id).is_none()
        {
            // Nobody answered when this member asked whether its id is in use (hazard A6).
            self.fatal.raise(format!(
                "member {} has already been bootstrapped with another data directory: restore that \
                 directory, or remove the member from the cluster and add it anew",
                self.own.member_id
            ));
        }
        let caller = identity::check(metadata, &self.own, |id| self.known(id))?;
        if self.removed(caller.member_id) {
            return Err(Status::failed_precondition(format!(
                "member {} was removed from the cluster",
                caller.member_id
            )));
        }
        Ok(caller)
    }

    /// Checks who calls, but not with which data directory: a peer that greets wants to know just that.
    pub(crate) fn greet(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        identity::check(metadata, &self.own, |_| None)
    }

    /// Who this is and what it knows of the caller.
    pub(crate) fn hello(&self, caller: Caller) -> peer::HelloReply {
        let known = self.known(caller.member_id);
        peer::HelloReply {
            protocol_major: PROTOCOL.0,
            protocol_minor: PROTOCOL.1,
            member_id: self.own.member_id.0,
            incarnation: self.own.incarnation.0,
            known_incarnation: known.map_or(0, |incarnation| incarnation.0),
            bootstrapped: known.is_some(),
            removed: self.removed(caller.member_id),
        }
    }

    /// Entries or a heartbeat.
    pub(crate) async fn append(
        &self,
        request: peer::AppendRequest,
    ) -> Result<peer::AppendReply, Status> {
        if !request.entries.is_empty() && *self.space.borrow() == Level::Critical {
            return Err(Status::unavailable("this member's device is full"));
        }
        self.running()?.raft.serve_append(request).await
    }

    /// A vote is asked for.
    pub(crate) async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteReply, Status> {
        self.running()?.raft.serve_vote(request).await
    }

    /// Leadership is offered.
    pub(crate) async fn transfer_leader(
        &self,
        request: peer::TransferLeaderRequest,
    ) -> Result<peer::TransferLeaderReply, Status> {
        if self.fence.is_raised() {
            return Ok(peer::TransferLeaderReply { refused: DIVERGED.to_owned() });
        }
        self.running()?.raft.serve_transfer(request).await
    }

    /// A follower forwards a proposal.
    pub(crate) async fn propose(
        &self,
        request: peer::ProposeRequest,
    ) -> Result<peer::ProposeReply, Status> {
        if self.fence.is_raised() {
            return Err(Status::failed_precondition(DIVERGED));
        }
        let reply = self.running()?.proposer.serve(request).await?;
        if self.fence.is_raised() {
            // It may have been applied, but what this state answers is not told.
            return Err(Status::unavailable(DIVERGED));
        }
        Ok(reply)
    }

    /// A follower forwards a change of the membership.
    pub(crate) async fn change_members(
        &self,
        request: peer::ChangeMembersRequest,
    ) -> Result<peer::ProposeReply, Status> {
        if self.fence.is_raised() {
            return Err(Status::failed_precondition(DIVERGED));
        }
        let reply = self.running()?.proposer.serve_change(request).await?;
        if self.fence.is_raised() {
            return Err(Status::unavailable(DIVERGED));
        }
        Ok(reply)
    }

    /// Who belongs to the cluster, for who is about to join it.
    pub(crate) fn members(&self) -> Result<peer::MembersReply, Status> {
        let applier = self.state.get().ok_or_else(starting)?;
        if self.fence.is_raised() {
            return Err(Status::failed_precondition(DIVERGED));
        }
        let view = applier.published().view();
        let info = |(id, member): (&MemberId, &Member)| peer::MemberInfo {
            member_id: id.0,
            peer_urls: member.peer_urls.clone(),
            started: member.incarnation.is_some(),
        };
        let members = view.members().present.iter().map(info).collect();
        let (cluster_id, applied) = (self.own.cluster_id.0, view.at().index.0);
        Ok(peer::MembersReply { cluster_id, members, applied })
    }

    /// A follower wants a read index.
    pub(crate) async fn read_index(&self) -> Result<peer::ReadIndexReply, Status> {
        let index = self.running()?.raft.read_index().await;
        Ok(peer::ReadIndexReply { index: index.map_or(0, |index| index.0) })
    }

    /// A follower renews a lease.
    pub(crate) async fn lease_renew(
        &self,
        request: peer::LeaseRenewRequest,
    ) -> Result<peer::LeaseRenewReply, Status> {
        use peer::lease_renew_reply::Result as Renewal;
        let renewed = self.running()?.leases.serve_renew(request).await;
        let renewed = renewed.filter(|_| !self.fence.is_raised());
        let result = renewed.map_or(Renewal::NotLeading(true), Renewal::TtlSeconds);
        Ok(peer::LeaseRenewReply { result: Some(result) })
    }

    /// A follower looks a lease up.
    pub(crate) async fn lease_time_to_live(
        &self,
        request: peer::LeaseTimeToLiveRequest,
    ) -> Result<peer::LeaseTimeToLiveReply, Status> {
        use peer::lease_time_to_live_reply::Result as Lookup;
        let found = self.running()?.leases.serve_time_to_live(request).await;
        let result = match found.filter(|_| !self.fence.is_raised()) {
            Some(Some(found)) => Lookup::Found(peer::LeaseFound {
                left_seconds: found.left_seconds,
                granted_seconds: found.granted_seconds,
                keys: found.keys,
            }),
            Some(None) => Lookup::UnknownLease(true),
            None => Lookup::NotLeading(true),
        };
        Ok(peer::LeaseTimeToLiveReply { result: Some(result) })
    }

    /// The leader sends its state.
    pub(crate) async fn install_snapshot(
        &self,
        leader: MemberId,
        stream: Streaming<peer::SnapshotChunk>,
    ) -> Result<peer::InstallSnapshotReply, Status> {
        self.ensure_undisputed(leader).await?;
        self.running()?.raft.serve_snapshot(stream).await
    }

    /// While two members differ and nobody knows yet who is right, this one must not make either the majority by
    /// taking its state (hazard B10).
    async fn ensure_undisputed(&self, leader: MemberId) -> Result<(), Status> {
        let running = self.running()?;
        let applier = self.state.get().ok_or_else(starting)?;
        let (peers, own) = (&running.proposer.peers, self.own.member_id);
        let known = applier.published().view().membership().1.clone();
        let telling = &running.telling;
        let membership = if known.nodes.is_empty() { &telling.founders } else { &known };
        let nodes = membership.nodes.clone();
        let told = agreement::hear(peers, own, nodes, applier, &self.fence, telling.limit).await;
        if !told.contains_key(&leader) {
            return Err(Status::unavailable(format!(
                "{leader} does not tell what its state is like"
            )));
        }
        let Some((index, by)) = disputed(leader, &told, &membership.voters) else {
            return Ok(());
        };
        tracing::error!(%leader, %index, %by, "the leader's state is disputed and not taken");
        Err(Status::failed_precondition(format!(
            "the state of {leader} at {index} differs from that of {by}"
        )))
    }

    /// A peer without usable state wants this member's.
    pub(crate) async fn fetch_state(
        &self,
        request: peer::FetchStateRequest,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<peer::SnapshotChunk, Status>> + Send>>, Status>
    {
        let applier = self.state.get().ok_or_else(starting)?;
        if self.fence.is_raised() {
            return Err(Status::failed_precondition(DIVERGED));
        }
        let capture = applier.capture().await.map_err(Status::unavailable)?;
        let at = capture.meta().applied.index;
        if at.0 < request.index_min {
            let wanted = request.index_min;
            return Err(Status::failed_precondition(format!(
                "the state is at {at}, before {wanted}"
            )));
        }
        Ok(self.snapshot_sender.stream(capture))
    }

    /// What this member's state was like at the indexes that all sample.
    pub(crate) fn state_hashes(&self) -> Result<peer::StateHashesReply, Status> {
        let applier = self.state.get().ok_or_else(starting)?;
        Ok(agreement::reply(&applier.samples().all(), self.fence.is_raised()))
    }

    /// From where an increment could be added to this member's state.
    pub(crate) fn snapshot_base(&self) -> Result<peer::SnapshotBaseReply, Status> {
        Ok(self.running()?.raft.serve_snapshot_base())
    }

    fn running(&self) -> Result<&Running, Status> {
        self.running.get().ok_or_else(starting)
    }

    /// Under which incarnation a member published itself.
    fn known(&self, member: MemberId) -> Option<Incarnation> {
        if active(Mutant::IncarnationUnchecked) {
            return None;
        }
        let view = self.state.get()?.published().view();
        view.members().present.get(&member)?.incarnation
    }

    fn removed(&self, member: MemberId) -> bool {
        let state = self.state.get();
        state.is_some_and(|state| state.published().view().members().removed.contains(&member))
    }
}

fn starting() -> Status {
    Status::unavailable("the member is starting")
}
