//! The Cluster service (behaviour.md 5).

use std::sync::Arc;

use kvd_core::ids::{MemberId, Revision};
use kvd_core::members::MemberChange;
use kvd_core::tables::Members;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::convert::{cluster as convert, header};
use super::kv::consistency;
use super::status;
use crate::member_id;
use crate::node::Node;

/// Serves Cluster.
pub(crate) struct ClusterService {
    node: Arc<Node>,
}

impl ClusterService {
    /// Serves Cluster from this node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn change(&self, change: MemberChange) -> Result<Members, Status> {
        self.node.change_members(change).await.map_err(status::status)
    }

    /// The members after a change.
    async fn changed(&self, change: MemberChange) -> Result<Vec<pb::Member>, Status> {
        Ok(convert::members(&self.change(change).await?))
    }

    /// Ids and term, but no revision (rule H7).
    fn header(&self) -> Option<pb::ResponseHeader> {
        header(self.node.header(), Revision(0))
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let request = request.into_inner();
        let peer_urls = convert::peer_urls(request.peer_ur_ls).map_err(status::rejected)?;
        // After every change that was answered, so that the id is a new one.
        let now = self.node.barrier().await.map_err(|error| status::status(error.into()))?;
        let member = member_id::added_member(&peer_urls, now.at().index);
        let is_learner = request.is_learner;
        let added = self.change(MemberChange::Add { member, peer_urls, is_learner }).await?;
        let (header, members) = (self.header(), convert::members(&added));
        let member = members.iter().find(|shown| shown.id == member.0).cloned();
        Ok(Response::new(pb::MemberAddResponse { header, member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let member = MemberId(request.into_inner().id);
        let members = self.changed(MemberChange::Remove(member)).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let change = MemberChange::Update { member: MemberId(id), peer_urls: peer_ur_ls };
        let members = self.changed(change).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let consistency = consistency(!request.into_inner().linearizable);
        let read = self.node.read(consistency, |view, _| Ok(Ok(convert::members(view.members()))));
        let members = read.await.map_err(status::status)?;
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let member = MemberId(request.into_inner().id);
        let members = self.changed(MemberChange::Promote(member)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members }))
    }
}
