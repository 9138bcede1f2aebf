//! Membership (behaviour.md §5).

use kvd_proto::etcdserverpb::cluster_client::ClusterClient;
use kvd_proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

use super::unary;
use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::Error;

unary! { ClusterClient:
    /// Adds a member.
    writes member_add(MemberAddRequest) -> MemberAddResponse;
    /// Removes a member.
    writes member_remove(MemberRemoveRequest) -> MemberRemoveResponse;
    /// Gives a member other peer URLs.
    writes member_update(MemberUpdateRequest) -> MemberUpdateResponse;
    /// Lets a learner vote.
    writes member_promote(MemberPromoteRequest) -> MemberPromoteResponse;
}

impl Client {
    /// Lists the members; linearizable.
    pub async fn member_list(&self) -> Result<MemberListResponse, Error> {
        self.members(MemberListRequest { linearizable: true }).await
    }

    /// Lists the members as far as the asked member knows them.
    pub async fn member_list_serializable(&self) -> Result<MemberListResponse, Error> {
        self.members(MemberListRequest { linearizable: false }).await
    }

    async fn members(&self, request: MemberListRequest) -> Result<MemberListResponse, Error> {
        let send = |channel, request| async move {
            ClusterClient::new(channel).member_list(request).await
        };
        self.call(Call::reads("members"), request, send).await
    }
}
