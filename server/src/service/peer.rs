//! The peer port: a peer is one more caller. Checks who speaks, then hands on.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use kvd_proto::peer;
use kvd_proto::peer::peer_server::Peer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::node::peer_side::PeerSide;

/// Answers of one append stream that wait to be sent; the leader waits for each, so one would do.
const REPLIES: usize = 4;

/// The service between members.
pub(crate) struct PeerService {
    node: Arc<PeerSide>,
}

impl PeerService {
    /// Serves a node to its peers.
    pub(crate) fn new(node: Arc<PeerSide>) -> Self {
        Self { node }
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Replies<peer::AppendReply>;
    type FetchStateStream = Replies<peer::SnapshotChunk>;

    async fn hello(
        &self,
        request: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloReply>, Status> {
        let caller = self.node.greet(request.metadata())?;
        Ok(Response::new(self.node.hello(caller)))
    }

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.node.check(request.metadata())?;
        let (replies, stream) = mpsc::channel(REPLIES);
        let node = Arc::clone(&self.node);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let reply = node.append(request).await;
                let failed = reply.is_err();
                if replies.send(reply).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.vote(request.into_inner()).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.transfer_leader(request.into_inner()).await.map(Response::new)
    }

    async fn propose(
        &self,
        request: Request<peer::ProposeRequest>,
    ) -> Result<Response<peer::ProposeReply>, Status> {
        self.node.check(request.metadata())?;
        Ok(Response::new(self.node.propose(request.into_inner()).await?))
    }

    async fn change_members(
        &self,
        request: Request<peer::ChangeMembersRequest>,
    ) -> Result<Response<peer::ProposeReply>, Status> {
        self.node.check(request.metadata())?;
        Ok(Response::new(self.node.change_members(request.into_inner()).await?))
    }

    async fn members(
        &self,
        _request: Request<peer::MembersRequest>,
    ) -> Result<Response<peer::MembersReply>, Status> {
        Ok(Response::new(self.node.members()?))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexReply>, Status> {
        self.node.check(request.metadata())?;
        Ok(Response::new(self.node.read_index().await?))
    }

    async fn lease_renew(
        &self,
        request: Request<peer::LeaseRenewRequest>,
    ) -> Result<Response<peer::LeaseRenewReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.lease_renew(request.into_inner()).await.map(Response::new)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<peer::LeaseTimeToLiveRequest>,
    ) -> Result<Response<peer::LeaseTimeToLiveReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.lease_time_to_live(request.into_inner()).await.map(Response::new)
    }

    async fn state_hashes(
        &self,
        request: Request<peer::StateHashesRequest>,
    ) -> Result<Response<peer::StateHashesReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.state_hashes().map(Response::new)
    }

    async fn snapshot_base(
        &self,
        request: Request<peer::SnapshotBaseRequest>,
    ) -> Result<Response<peer::SnapshotBaseReply>, Status> {
        self.node.check(request.metadata())?;
        self.node.snapshot_base().map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::InstallSnapshotReply>, Status> {
        let leader = self.node.check(request.metadata())?.member_id;
        self.node.install_snapshot(leader, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_state(
        &self,
        request: Request<peer::FetchStateRequest>,
    ) -> Result<Response<Self::FetchStateStream>, Status> {
        self.node.check(request.metadata())?;
        let stream = self.node.fetch_state(request.into_inner()).await?;
        Ok(Response::new(stream))
    }
}
