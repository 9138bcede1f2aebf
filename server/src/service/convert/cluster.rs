//! The Cluster service's messages.

use kvd_core::ids::MemberId;
use kvd_core::tables::{Member, Members};
use kvd_proto::etcdserverpb as pb;

/// The members in order of their ids (rule C1).
pub(crate) fn members(members: &Members) -> Vec<pb::Member> {
    members.present.iter().map(|(id, shown)| member(*id, shown)).collect()
}

/// One member; one that has not started yet has neither name nor client URLs (rule C2).
fn member(id: MemberId, member: &Member) -> pb::Member {
    pb::Member {
        id: id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
