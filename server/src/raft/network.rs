//! openraft's network on the peers' connections. Every call ends by its deadline: a peer that does not answer
//! is unreachable, and openraft backs off.

use std::future::Future;
use std::time::Duration;

use kvd_core::ids::MemberId;
use kvd_core::mutants::{Mutant, active};
use kvd_proto::peer as wire_peer;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::payload::Malformed;
use super::snapshot::{self, SnapshotData};
use super::types::{PeerNode, RaftVote, TypeConfig};
use super::wire;
use crate::peer::pool::{CallError, Lane, Peers, within};

/// Makes a client for each member.
pub(crate) struct NetworkFactory {
    pub(crate) peers: Peers,
    /// A follower that did not answer an append within this is unreachable.
    pub(crate) append_timeout: Duration,
    /// Bytes a second of one snapshot transfer.
    pub(crate) snapshot_sender: snapshot::Sender,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Lane::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Lane::Snapshots)
    }
}

impl NetworkFactory {
    fn network(&self, target: u64, node: &PeerNode, lane: Lane) -> Network {
        Network {
            peers: self.peers.clone(),
            target: MemberId(target),
            urls: node.peer_urls.clone(),
            lane,
            append_timeout: self.append_timeout,
            snapshot_sender: self.snapshot_sender.clone(),
            stream: None,
        }
    }
}

/// Speaks to one member for one purpose.
pub(crate) struct Network {
    peers: Peers,
    target: MemberId,
    urls: Vec<String>,
    lane: Lane,
    append_timeout: Duration,
    snapshot_sender: snapshot::Sender,
    /// The open append stream, while nothing is under way on it.
    stream: Option<AppendStream>,
}

struct AppendStream {
    requests: mpsc::Sender<wire_peer::AppendRequest>,
    replies: Streaming<wire_peer::AppendReply>,
}

impl Network {
    /// One request and its reply over the open stream.
    ///
    /// The stream is kept only once its answer came: after a failure, and where the caller gives up waiting
    /// (openraft drops calls at its own limits), it goes with the call. A late answer taken for the next
    /// request's would confirm a leadership, or entries, that nobody confirmed.
    async fn append_once(
        &mut self,
        request: wire_peer::AppendRequest,
    ) -> Result<wire_peer::AppendReply, CallError> {
        let broken = |what: &str| CallError::NoAnswer(format!("append stream: {what}"));
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open_stream().await?,
        };
        stream.requests.send(request).await.map_err(|_closed| broken("closed"))?;
        match stream.replies.message().await {
            Ok(Some(reply)) => {
                self.stream = Some(stream);
                Ok(reply)
            }
            Ok(None) => Err(broken("ended")),
            Err(status) => Err(CallError::from_status(&status)),
        }
    }

    async fn open_stream(&self) -> Result<AppendStream, CallError> {
        let (requests, receiver) = mpsc::channel(1);
        let request = self.peers.request(self.target, ReceiverStream::new(receiver));
        let mut client = self.peers.client(self.target, &self.urls, self.lane);
        let replies = client.append(request).await.map_err(|s| CallError::from_status(&s))?;
        Ok(AppendStream { requests, replies: replies.into_inner() })
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        limit: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = self.peers.request(self.target, wire::to_vote(&request, pre_vote));
        let mut client = self.peers.client(self.target, &self.urls, Lane::Heartbeats);
        let reply = within(limit, client.vote(message)).await.map_err(unreachable)?;
        wire::from_vote_reply(reply).map_err(malformed)
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = match self.lane {
            Lane::Heartbeats => option.soft_ttl(),
            _ => self.append_timeout,
        };
        let answer = tokio::time::timeout(limit, self.append_once(wire::to_append(request))).await;
        let reply = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(unreachable(error)),
            Err(_elapsed) if active(Mutant::SilenceIsConsent) => {
                return Ok(AppendEntriesResponse::Success);
            }
            Err(_elapsed) => {
                return Err(unreachable(CallError::NoAnswer(format!("nothing within {limit:?}"))));
            }
        };
        wire::from_append_reply(reply).map_err(malformed)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(request, false, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(request, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.peers.client(self.target, &self.urls, Lane::Snapshots);
        let sending = self.snapshot_sender.send(&self.peers, self.target, client, &vote, snapshot);
        // A receiver that does not read would pin the View, and with it all that compaction frees (hazard B8).
        let limit = option.hard_ttl();
        tokio::select! {
            sent = tokio::time::timeout(limit, sending) => {
                let sent = sent.unwrap_or_else(|_elapsed| Err(format!("not done within {limit:?}")));
                let vote = sent.map_err(|error| StreamingError::Unreachable(
                    Unreachable::from_string(format!("snapshot to member {}: {error}", self.target)),
                ))?;
                Ok(SnapshotResponse::new(vote))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = self.peers.request(self.target, wire::to_transfer(&request));
        let mut client = self.peers.client(self.target, &self.urls, Lane::Heartbeats);
        let call = client.transfer_leader(message);
        let reply = within(option.soft_ttl(), call).await.map_err(unreachable)?;
        if reply.refused.is_empty() {
            Ok(Ok(()))
        } else {
            Err(unreachable(CallError::Refused(reply.refused)))
        }
    }
}

fn unreachable(error: CallError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

fn malformed(error: Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error.to_string()))
}
