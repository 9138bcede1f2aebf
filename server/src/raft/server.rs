//! What this member answers to the others' consensus messages.

use kvd_core::ids::{MemberId, Term};
use kvd_proto::peer as wire_peer;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::Snapshot;
use tonic::{Status, Streaming};

use super::payload::Malformed;
use super::snapshot::SnapshotData;
use super::state_machine::snapshot_meta;
use super::types::RaftVote;
use super::{Leadership, Raft, wire};

impl Raft {
    /// Entries or a heartbeat from whoever claims to lead.
    pub(crate) async fn serve_append(
        &self,
        request: wire_peer::AppendRequest,
    ) -> Result<wire_peer::AppendReply, Status> {
        let request = wire::from_append(request).map_err(malformed)?;
        let vote = request.vote;
        // Noted when it arrives: the answer may wait for this member's disk (hazard D14), which is no reason to
        // say that there is no leader.
        if vote.committed && self.inner.metrics().borrow_watched().vote <= vote {
            self.note_leader(&vote);
        }
        let response = self.inner.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
            self.note_leader(&vote);
        }
        Ok(wire::to_append_reply(&response))
    }

    /// A candidate asks for this member's vote.
    pub(crate) async fn serve_vote(
        &self,
        request: wire_peer::VoteRequest,
    ) -> Result<wire_peer::VoteReply, Status> {
        let pre_vote = request.pre_vote;
        let request = wire::from_vote(request).map_err(malformed)?;
        let response = if pre_vote {
            self.inner.pre_vote(request).await
        } else {
            self.inner.vote(request).await
        };
        Ok(wire::to_vote_reply(&response.map_err(stopped)?))
    }

    /// The leader wants this member to lead.
    pub(crate) async fn serve_transfer(
        &self,
        request: wire_peer::TransferLeaderRequest,
    ) -> Result<wire_peer::TransferLeaderReply, Status> {
        let request = wire::from_transfer(request).map_err(malformed)?;
        let response = self.inner.handle_transfer_leader(request).await;
        let refused = match response.map_err(|fatal| Status::unavailable(fatal.to_string()))? {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        Ok(wire_peer::TransferLeaderReply { refused })
    }

    /// From where an increment could be added to this member's state.
    pub(crate) fn serve_snapshot_base(&self) -> wire_peer::SnapshotBaseReply {
        let base = self.installer.base(&self.applier.published().view());
        wire_peer::SnapshotBaseReply { revision: base.0 }
    }

    /// Receives a snapshot from the leader and has it installed.
    pub(crate) async fn serve_snapshot(
        &self,
        mut stream: Streaming<wire_peer::SnapshotChunk>,
    ) -> Result<wire_peer::InstallSnapshotReply, Status> {
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("no chunk"))?;
        let vote =
            wire::from_ballot(first.vote).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let rest = futures_util::StreamExt::map(stream, |chunk| {
            chunk.map(|chunk| chunk.data).map_err(|status| status.to_string())
        });
        let chunks =
            futures_util::StreamExt::chain(futures_util::stream::iter([Ok(first.data)]), rest);
        let own = self.applier.published().view();
        let received =
            self.installer.receive(Box::pin(chunks), Some(own)).await.map_err(Status::data_loss)?;
        let snapshot = Snapshot {
            meta: snapshot_meta(&received.meta).map_err(|e| Status::data_loss(e.to_string()))?,
            snapshot: SnapshotData::Received(Box::new(received)),
        };
        let response = self.inner.install_full_snapshot(vote, snapshot).await;
        let response = response.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(wire_peer::InstallSnapshotReply { vote: Some(wire::to_ballot(&response.vote)) })
    }

    /// Remembers that a leader was heard.
    pub(super) fn note_leader(&self, vote: &RaftVote) {
        self.heard.note(Leadership {
            term: Term(vote.leader_id.term),
            leader: MemberId(vote.leader_id.node_id),
        });
    }
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}
