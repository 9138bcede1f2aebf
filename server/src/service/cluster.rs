//! The Cluster service. The list of members is served; changes are not yet.

use std::sync::Arc;

use kvd_core::ids::Revision;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::convert::{cluster as convert, header};
use super::kv::consistency;
use super::status;
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
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        _request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(status::unserved("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(status::unserved("MemberRemove"))
    }

    async fn member_update(
        &self,
        _request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(status::unserved("MemberUpdate"))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let consistency = consistency(!request.into_inner().linearizable);
        let read = self.node.read(consistency, |view, _| Ok(Ok(convert::members(view.members()))));
        let members = read.await.map_err(status::status)?;
        // Ids and term, but no revision (rule H7).
        let header = header(self.node.header(), Revision(0));
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_promote(
        &self,
        _request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(status::unserved("MemberPromote"))
    }
}
